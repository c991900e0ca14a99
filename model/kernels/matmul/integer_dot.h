// Rounding to integers, and their dot products, with the instructions of each level. All sums are exact, so all levels
// give the same ones.

#pragma once

#include "../vectors.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if LANES == 8 || (LANES == 16 && !defined(__AVX512VNNI__))
#define ROUTELM_MADDUBS  // multiplies unsigned by signed bytes and adds pairs, in 16 bits
#endif

namespace {

// The nearest integers, ties to even.
INLINE i32v nearest(f32v x) {
#if LANES == 16
    return bit_cast<i32v>(_mm512_cvtps_epi32(bit_cast<__m512>(x)));
#elif LANES == 8
    return bit_cast<i32v>(_mm256_cvtps_epi32(bit_cast<__m256>(x)));
#elif defined(__SSE2__)
    return bit_cast<i32v>(_mm_cvtps_epi32(bit_cast<__m128>(x)));
#else  // not by adding and subtracting 1.5 * 2^23: the compiler would fuse that with the multiplication that gave x
    i32v integers{};
    for (int i = 0; i < LANES; ++i) integers[i] = int32_t(__builtin_rintf(x[i]));
    return integers;
#endif
}

INLINE i16v widen(i8v bytes) {
#if LANES == 16
    return bit_cast<i16v>(_mm512_cvtepi8_epi16(bit_cast<__m256i>(bytes)));
#elif LANES == 8
    return bit_cast<i16v>(_mm256_cvtepi8_epi16(bit_cast<__m128i>(bytes)));
#else
    return __builtin_convertvector(bytes, i16v);
#endif
}

// In each lane, the sum of the two products of int16 pairs.
INLINE i32v multiply_pairs(i16v x, i16v y) {
#if LANES == 16
    return bit_cast<i32v>(_mm512_madd_epi16(bit_cast<__m512i>(x), bit_cast<__m512i>(y)));
#elif LANES == 8
    return bit_cast<i32v>(_mm256_madd_epi16(bit_cast<__m256i>(x), bit_cast<__m256i>(y)));
#elif defined(__SSE2__)
    return bit_cast<i32v>(_mm_madd_epi16(bit_cast<__m128i>(x), bit_cast<__m128i>(y)));
#else
    i32v a = bit_cast<i32v>(x), b = bit_cast<i32v>(y);
    return (a << 16 >> 16) * (b << 16 >> 16) + (a >> 16) * (b >> 16);
#endif
}

// sum += products of pairs.
INLINE void add_pairs(i32v& sum, i16v x, i16v y) {
#if defined(__AVX512VNNI__)
    sum = bit_cast<i32v>(_mm512_dpwssd_epi32(bit_cast<__m512i>(sum), bit_cast<__m512i>(x), bit_cast<__m512i>(y)));
#elif LANES == 8
    asm("vpaddd %1, %0, %0" : "+x"(sum) : "x"(multiply_pairs(x, y)));  // as in multiply_add
#else
    sum += multiply_pairs(x, y);
#endif
}

// Products of four nibbles (0 to 15 in bytes) and four signed bytes per lane. With maddubs, sums have two halves of 16
// bits. Each is at most 16 * 15 * 127, which fits, plus a correction of at most 16 * 8 * 127. That can overflow on the
// way, but the final sum is that of products of -8 to 7 and fits.
INLINE void add_nibbles(i32v& sum, u32v w, i32v x) {
#if defined(__AVX512VNNI__)
    sum = bit_cast<i32v>(_mm512_dpbusd_epi32(bit_cast<__m512i>(sum), bit_cast<__m512i>(w), bit_cast<__m512i>(x)));
#elif LANES == 16
    __m512i products = _mm512_maddubs_epi16(bit_cast<__m512i>(w), bit_cast<__m512i>(x));
    sum = bit_cast<i32v>(_mm512_add_epi16(bit_cast<__m512i>(sum), products));
#elif LANES == 8
    __m256i products = _mm256_maddubs_epi16(bit_cast<__m256i>(w), bit_cast<__m256i>(x));
    asm("vpaddw %1, %0, %0" : "+x"(sum) : "x"(products));
#else
    i16v even = bit_cast<i16v>(w & 0x00ff00ffu), odd = bit_cast<i16v>(w >> 8 & 0x00ff00ffu);
    add_pairs(sum, even, bit_cast<i16v>(x) << 8 >> 8), add_pairs(sum, odd, bit_cast<i16v>(x) >> 8);
#endif
}

// The sums to start with, of corrections as pairs of int16, and the complete sums.
INLINE i32v add_halves(i32v sums) { return multiply_pairs(bit_cast<i16v>(sums), i16v{} + 1); }
#ifdef ROUTELM_MADDUBS
INLINE i32v start_of_nibbles(i32v corrections) { return corrections; }
INLINE i32v sum_of_nibbles(i32v sums) { return add_halves(sums); }
#else
INLINE i32v start_of_nibbles(i32v corrections) { return add_halves(corrections); }
INLINE i32v sum_of_nibbles(i32v sums) { return sums; }
#endif

}  // namespace
