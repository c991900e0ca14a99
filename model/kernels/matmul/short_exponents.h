// SHORT_BF16: bfloat16 in three quarters of its bits, without loss. A product of few rows takes as long as it takes to
// read its weights from memory.
//
// Neighbouring weights have few different exponents (Zhang et al., arXiv 2504.11651, code them by Huffman). The upper byte
// of a bfloat16 is its sign and its exponent without the last bit. In a group of 32 inputs and 32 outputs, whose
// exponents without the last bit span less than 8, four bits stand for it: the sign, and the distance from the largest
// exponent. Groups that span more, such as those with zeros, are stored as in BF16. The layout of a step is
//
//   64 bytes for each of its two pairs: the lower bytes, in an order that `place` gives
//   64 bytes: the codes of the upper bytes in the same order, those of the first pair in the low halves
//
// So one lookup in a table of 16 gives 64 upper bytes, and one instruction puts them beside the lower ones.

#pragma once

#include "weights.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr int SPAN = 8;  // exponents of a group, without the last bit
constexpr int64_t GROUP_STEPS = GROUP / STEP;

constexpr int64_t group_bytes(bool is_short) { return GROUP_STEPS * step_bytes(is_short ? SHORT_BF16 : BF16); }

// Where number j of a pair of BF16 is: every 16 bytes belong to 4 of the first 16 outputs and to 4 of the others.
constexpr int64_t place(int64_t j) { return j % PANEL / 8 * 16 + j / PANEL * 8 + j % 8; }

// The bytes of a table that `codes` (0 to 15) choose; every 16 bytes of the register have a table of their own.
#if LANES == 16
INLINE u8v look_up(u8v table, u8v codes) {
    return bit_cast<u8v>(_mm512_shuffle_epi8(bit_cast<__m512i>(table), bit_cast<__m512i>(codes)));
}
#elif LANES == 8
INLINE u8v look_up(u8v table, u8v codes) {
    return bit_cast<u8v>(_mm256_shuffle_epi8(bit_cast<__m256i>(table), bit_cast<__m256i>(codes)));
}
#endif

// The first or the second eight of every 16 bytes of `low` and `high`, in turn.
INLINE u32v interleave(u8v low, u8v high, bool second) {
#if LANES == 16
    __m512i x = bit_cast<__m512i>(low), y = bit_cast<__m512i>(high);
    return bit_cast<u32v>(second ? _mm512_unpackhi_epi8(x, y) : _mm512_unpacklo_epi8(x, y));
#elif LANES == 8
    __m256i x = bit_cast<__m256i>(low), y = bit_cast<__m256i>(high);
    return bit_cast<u32v>(second ? _mm256_unpackhi_epi8(x, y) : _mm256_unpacklo_epi8(x, y));
#elif defined(__SSE2__)
    __m128i x = bit_cast<__m128i>(low), y = bit_cast<__m128i>(high);
    return bit_cast<u32v>(second ? _mm_unpackhi_epi8(x, y) : _mm_unpacklo_epi8(x, y));
#else
    u8v both{};
    for (int i = 0; i < 8; ++i) both[2 * i] = low[8 * second + i], both[2 * i + 1] = high[8 * second + i];
    return bit_cast<u32v>(both);
#endif
}

// The upper bytes. `largest` is the largest exponent of the group without the last bit.
INLINE u8v upper_bytes(u8v codes, uint8_t largest) {
    codes &= 0x0f;
#if LANES > 4
    u8v table{};
    for (int i = 0; i < 4 * LANES; ++i) table[i] = (i % 16 / SPAN << 7) - i % SPAN;
    return look_up(table + largest, codes);
#else
    return (codes & 8) << 4 | (largest - (codes & 7));
#endif
}

// What bf16_pairs gives of BF16.
INLINE u32v short_pairs(const uint8_t* w, int p, int v, uint8_t largest) {
    int64_t part = 4 * LANES * (v % HALF);
    u8v upper = upper_bytes(load_bits<u8v>(w + 128 + part) >> 4 * p, largest);
    return interleave(load_bits<u8v>(w + 64 * p + part), upper, v / HALF);
}

}  // namespace
