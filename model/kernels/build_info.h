// What the loader (library.py) asks a library before it uses it.

#pragma once

// The digest of the sources that the library was built from, passed by build.py. Libraries of older sources are
// refused.
extern "C" const char* built_of() { return BUILT_OF; }

// Whether this processor has the instructions that the library was compiled for, and gains by them. This function
// itself runs on every processor of the architecture.
extern "C" int supported() {
    int answer = 1;
#ifdef __AVX2__
    answer = answer && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
#ifdef __AVX512F__
    answer = answer && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
#endif
#ifdef __AVX512BF16__
    // On Intel, the bfloat16 dot product has half the rate of float32 FMA (measured: 87 and 183 GFLOP/s per thread).
    answer = answer && __builtin_cpu_supports("avx512bf16") && !__builtin_cpu_is("intel");
#endif
#ifdef __AVX512VNNI__
    answer = answer && __builtin_cpu_supports("avx512vnni");
#endif
    return answer;
}
