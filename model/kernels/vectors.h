// SIMD vectors for every processor, in GCC's and Clang's vector extension.
//
// f32v is one register of LANES floats. f32x16 is always sixteen floats: a register where LANES is 16, otherwise nested
// pairs of registers (Twice), because the compiler keeps vectors that are wider than a register in memory. Kernels that
// add up across lanes use f32x16 and the reductions below, which add in the same tree for every LANES.
//
// Every library is one translation unit. The anonymous namespaces give all helpers internal linkage, so that the
// compiler can inline them freely.

#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif
#define INLINE inline __attribute__((always_inline))

#ifdef __F16C__
#include <immintrin.h>
#endif

typedef uint16_t bf16;
struct f16 { uint16_t bits; };

namespace {

typedef float f32v __attribute__((vector_size(4 * LANES)));
typedef int32_t i32v __attribute__((vector_size(4 * LANES)));
typedef uint32_t u32v __attribute__((vector_size(4 * LANES)));
typedef uint16_t u16v __attribute__((vector_size(2 * LANES)));
typedef int16_t i16v __attribute__((vector_size(4 * LANES)));
typedef int8_t i8v __attribute__((vector_size(2 * LANES)));
typedef uint8_t u8v __attribute__((vector_size(4 * LANES)));

template <class V> struct Twice { V low, high; };

#if LANES == 16
typedef f32v f32x16;
#elif LANES == 8
typedef Twice<f32v> f32x16;
#else
typedef Twice<Twice<f32v>> f32x16;
#endif

constexpr int64_t W = 16;  // width of f32x16

template <class To, class From> INLINE To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

// ---- arithmetic ----

#define OPERATOR(op) \
    template <class V> INLINE Twice<V> operator op(Twice<V> x, Twice<V> y) { \
        return {x.low op y.low, x.high op y.high}; \
    } \
    template <class V> INLINE Twice<V> operator op(Twice<V> x, float y) { return {x.low op y, x.high op y}; } \
    template <class V> INLINE Twice<V> operator op(float x, Twice<V> y) { return {x op y.low, x op y.high}; }
OPERATOR(+) OPERATOR(-) OPERATOR(*) OPERATOR(/)
#undef OPERATOR
template <class V> INLINE Twice<V> operator-(Twice<V> x) { return {-x.low, -x.high}; }
template <class V> INLINE void operator+=(Twice<V>& x, Twice<V> y) { x.low += y.low, x.high += y.high; }
template <class V> INLINE void operator*=(Twice<V>& x, Twice<V> y) { x.low *= y.low, x.high *= y.high; }

// x in all lanes. x - 0 is x for every x, so the compiler emits only a broadcast; x + 0 would turn -0 into 0.
template <class V = f32x16> INLINE V splat(float x) { return x - V{}; }

// Both return y where one of the two is NaN. With a constant as x, NaN in y passes through.
INLINE f32v max(f32v x, f32v y) { return x > y ? x : y; }
INLINE f32v min(f32v x, f32v y) { return x < y ? x : y; }
template <class V> INLINE Twice<V> max(Twice<V> x, Twice<V> y) { return {max(x.low, y.low), max(x.high, y.high)}; }
template <class V> INLINE Twice<V> min(Twice<V> x, Twice<V> y) { return {min(x.low, y.low), min(x.high, y.high)}; }

// e^x with an error of about one unit in the last place, for x clamped to [-87, 88]. x = n ln 2 + r: a polynomial gives
// e^r, and n goes into the exponent bits (Cephes' expf).
INLINE f32v exp(f32v x) {
    x = min(splat<f32v>(88.0f), max(splat<f32v>(-87.0f), x));
    f32v n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // adding 1.5 * 2^23 rounds to an integer
    f32v r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    f32v y = splat<f32v>(1.0f / 5040);
    y = y * r + 1.0f / 720;
    y = y * r + 1.0f / 120;
    y = y * r + 1.0f / 24;
    y = y * r + 1.0f / 6;
    y = y * r + 0.5f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
    return y * bit_cast<f32v>((__builtin_convertvector(n, i32v) + 127) << 23);
}
template <class V> INLINE Twice<V> exp(Twice<V> x) { return {exp(x.low), exp(x.high)}; }

template <class V> INLINE V sigmoid(V x) { return 1.0f / (1.0f + exp(-x)); }
template <class V> INLINE V silu(V x) { return x * sigmoid(x); }

// v in the lanes [begin, end), `other` in the rest. The first lane of v has the number `lane`.
INLINE f32v select_lanes(f32v v, int32_t lane, int32_t begin, int32_t end, float other) {
    i32v number{};
    for (int i = 0; i < LANES; ++i) number[i] = i;
    number += lane;
    return (number >= begin) & (number < end) ? v : splat<f32v>(other);
}
template <class V> INLINE Twice<V> select_lanes(Twice<V> v, int32_t lane, int32_t begin, int32_t end, float other) {
    return {select_lanes(v.low, lane, begin, end, other),
            select_lanes(v.high, lane + int32_t(sizeof(V) / 4), begin, end, other)};
}

// ---- memory ----

// A bfloat16 is the upper half of a float. Here the upper half is the nearest bfloat16, ties to even.
INLINE u32v rounded_to_bf16(f32v v) {
    u32v b = bit_cast<u32v>(v), nan = u32v{} + 0x7fc00000;  // the sum for a NaN may carry into the sign
    return v == v ? b + 0x7fff + ((b >> 16) & 1) : nan;
}

// The bits at p as a V, without alignment.
template <class V> INLINE V load_bits(const void* p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

INLINE void load_into(f32v& v, const float* p) { v = load_bits<f32v>(p); }
INLINE void load_into(f32v& v, const bf16* p) {
    v = bit_cast<f32v>(__builtin_convertvector(load_bits<u16v>(p), u32v) << 16);
}
INLINE void load_into(f32v& v, const f16* p) {  // finite numbers, exactly
#if LANES == 16
    v = bit_cast<f32v>(_mm512_cvtph_ps(load_bits<__m256i>(p)));
#elif LANES == 8 && defined(__F16C__)
    v = bit_cast<f32v>(_mm256_cvtph_ps(load_bits<__m128i>(p)));
#else  // the exponent of a float is larger by 112
    u32v bits = __builtin_convertvector(load_bits<u16v>(p), u32v);
    f32v magnitude = bit_cast<f32v>((bits & 0x7fffu) << 13) * bit_cast<float>((112 + 127) << 23);
    v = bit_cast<f32v>(bit_cast<u32v>(magnitude) | (bits & 0x8000u) << 16);
#endif
}
template <class V, class T> INLINE void load_into(Twice<V>& v, const T* p) {
    load_into(v.low, p), load_into(v.high, p + sizeof(V) / 4);
}
template <class V = f32x16, class T> INLINE V load(const T* p) {
    V v;
    load_into(v, p);
    return v;
}

INLINE void store(float* p, f32v v) { std::memcpy(p, &v, sizeof v); }
INLINE void store(bf16* p, f32v v) {
    u16v h = __builtin_convertvector(rounded_to_bf16(v) >> 16, u16v);
    std::memcpy(p, &h, sizeof h);
}
template <class T, class V> INLINE void store(T* p, Twice<V> v) { store(p, v.low), store(p + sizeof(V) / 4, v.high); }

INLINE float load_scalar(const float* p) { return *p; }
INLINE float load_scalar(const bf16* p) { return bit_cast<float>(uint32_t(*p) << 16); }
INLINE void store_scalar(float* p, float x) { *p = x; }
INLINE void store_scalar(bf16* p, float x) {
    uint32_t b = bit_cast<uint32_t>(x);
    *p = x == x ? bf16((b + 0x7fff + ((b >> 16) & 1)) >> 16) : 0x7fc0;
}

// The lanes of one iteration of for_each_vector: all of them, or only the first ones of the last vector.
struct AllLanes {
    template <class T> INLINE f32x16 load(const T* p) const { return ::load(p); }
    template <class T> INLINE void store(T* p, f32x16 v) const { ::store(p, v); }
};

struct FirstLanes {
    int64_t count;

    template <class T> INLINE f32x16 load(const T* p) const {  // zeros in the other lanes
        T all[W] = {};
        std::memcpy(all, p, count * sizeof(T));
        return ::load(all);
    }
    template <class T> INLINE void store(T* p, f32x16 v) const {
        T all[W];
        ::store(all, v);
        std::memcpy(p, all, count * sizeof(T));
    }
};

// Calls step(i, lanes) for every vector of n elements, which starts at element i. The last elements, which may not fill
// a vector, are computed by the same instructions as all others, so their bits do not depend on where they are.
template <class Step> INLINE void for_each_vector(int64_t n, Step step) {
    int64_t i = 0;
    for (; i + W <= n; i += W) step(i, AllLanes{});
    if (i < n) step(i, FirstLanes{n - i});
}

// 32 neighbouring numbers in an order that is cheap to load: for bfloat16 those at even and at odd places, which needs
// no shuffle; for float the first and the second half. Code that loads and stores all its arrays as pairs works in
// either order.
struct Pair { f32x16 even, odd; };

INLINE void load_pair_into(f32x16& a, f32x16& b, const float* p) { load_into(a, p), load_into(b, p + W); }
INLINE void load_pair_into(f32v& a, f32v& b, const bf16* p) {
    u32v both = load_bits<u32v>(p);
    a = bit_cast<f32v>(both << 16), b = bit_cast<f32v>(both & 0xffff0000u);
}
template <class V> INLINE void load_pair_into(Twice<V>& a, Twice<V>& b, const bf16* p) {
    load_pair_into(a.low, b.low, p), load_pair_into(a.high, b.high, p + sizeof(V) / 2);
}
template <class T> INLINE Pair load_pair(const T* p) {
    Pair v;
    load_pair_into(v.even, v.odd, p);
    return v;
}

INLINE void store_pair(float* p, f32x16 a, f32x16 b) { store(p, a), store(p + W, b); }
INLINE void store_pair(bf16* p, f32v a, f32v b) {
    u32v both = (rounded_to_bf16(a) >> 16) | (rounded_to_bf16(b) & 0xffff0000u);
    std::memcpy(p, &both, sizeof both);
}
template <class V> INLINE void store_pair(bf16* p, Twice<V> a, Twice<V> b) {
    store_pair(p, a.low, b.low), store_pair(p + sizeof(V) / 2, a.high, b.high);
}
template <class T> INLINE void store_pair(T* p, Pair v) { store_pair(p, v.even, v.odd); }

// ---- reductions ----

// Lanes of two vectors of the same type, by their numbers from the first lane of the first one.
#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else  // GCC has the other from version 12 on
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, i32v{__VA_ARGS__})
#endif

// All lanes combined along a fixed tree: lane i with lane i + 8, then i + 4, i + 2, i + 1.
#if LANES == 16
template <class Op> INLINE float reduce(f32v v, Op op) {
    v = op(v, SHUFFLE(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
    v = op(v, SHUFFLE(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
    v = op(v, SHUFFLE(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
    v = op(v, SHUFFLE(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
    return v[0];
}
#elif LANES == 8
template <class Op> INLINE float reduce(f32v v, Op op) {
    v = op(v, SHUFFLE(v, v, 4, 5, 6, 7, 0, 1, 2, 3));
    v = op(v, SHUFFLE(v, v, 2, 3, 0, 1, 6, 7, 4, 5));
    v = op(v, SHUFFLE(v, v, 1, 0, 3, 2, 5, 4, 7, 6));
    return v[0];
}
#else
template <class Op> INLINE float reduce(f32v v, Op op) {
    v = op(v, SHUFFLE(v, v, 2, 3, 0, 1));
    v = op(v, SHUFFLE(v, v, 1, 0, 3, 2));
    return v[0];
}
#endif
template <class V, class Op> INLINE float reduce(Twice<V> v, Op op) { return reduce(op(v.low, v.high), op); }

INLINE float reduce_add(f32x16 v) { return reduce(v, [](auto x, auto y) { return x + y; }); }
INLINE float reduce_max(f32x16 v) { return reduce(v, [](auto x, auto y) { return max(x, y); }); }

// reduce_add of as many vectors as a vector has lanes: the sum of v[i] in lane i, with the bits of reduce_add.
INLINE f32v reduce_add_each(const f32v* v) {
#if LANES == 16
    f32v x[8], y[4], z[2];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2)
        x[i / 2] =
            SHUFFLE(v[i], v[i + 1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
            SHUFFLE(v[i], v[i + 1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i += 2)
        y[i / 2] = SHUFFLE(x[i], x[i + 1], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27)
                 + SHUFFLE(x[i], x[i + 1], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
#pragma GCC unroll 8
    for (int i = 0; i < 4; i += 2)
        z[i / 2] = SHUFFLE(y[i], y[i + 1], 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29)
                 + SHUFFLE(y[i], y[i + 1], 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31);
    return SHUFFLE(z[0], z[1], 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)
         + SHUFFLE(z[0], z[1], 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#elif LANES == 8
    f32v x[4], y[2];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i += 2)
        x[i / 2] = SHUFFLE(v[i], v[i + 1], 0, 1, 2, 3, 8, 9, 10, 11)
                 + SHUFFLE(v[i], v[i + 1], 4, 5, 6, 7, 12, 13, 14, 15);
#pragma GCC unroll 8
    for (int i = 0; i < 4; i += 2)
        y[i / 2] = SHUFFLE(x[i], x[i + 1], 0, 1, 4, 5, 8, 9, 12, 13)
                 + SHUFFLE(x[i], x[i + 1], 2, 3, 6, 7, 10, 11, 14, 15);
    return SHUFFLE(y[0], y[1], 0, 2, 4, 6, 8, 10, 12, 14)
         + SHUFFLE(y[0], y[1], 1, 3, 5, 7, 9, 11, 13, 15);
#else
    f32v x = SHUFFLE(v[0], v[1], 0, 1, 4, 5) + SHUFFLE(v[0], v[1], 2, 3, 6, 7);
    f32v y = SHUFFLE(v[2], v[3], 0, 1, 4, 5) + SHUFFLE(v[2], v[3], 2, 3, 6, 7);
    return SHUFFLE(x, y, 0, 2, 4, 6) + SHUFFLE(x, y, 1, 3, 5, 7);
#endif
}
template <class V> INLINE Twice<V> reduce_add_each(const Twice<V>* v) {
    constexpr int N = sizeof(Twice<V>) / 4;
    V halves[N];
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) halves[i] = v[i].low + v[i].high;
    return {reduce_add_each(halves), reduce_add_each(halves + N / 2)};
}

}  // namespace
