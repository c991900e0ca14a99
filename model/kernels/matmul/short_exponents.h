// SHORT_BF16: bfloat16 in three quarters of its bits, without loss. A product of few rows takes as long as it takes to
// read its weights from memory.
//
// Neighbouring weights have few different exponents (Zhang et al., arXiv 2504.11651, code them by Huffman). In a group of
// 32 inputs and 32 outputs whose exponents span less than 16, each takes four bits: its distance from the largest one.
// Groups that span more, such as those with zeros, are stored as in BF16. The layout of a step is
//
//   64 bytes for each of its two pairs, in the order of BF16: the sign and the seven bits of the fraction
//   32 bytes for each of its two pairs: the distances, those of the first 16 outputs in the low halves

#pragma once

#include "integer_dot.h"
#include "weights.h"

namespace {

constexpr int SPAN = 16;  // exponents of a group
constexpr uint16_t SIGN_AND_FRACTION = 0x807f, EXPONENT = 0x7f80;
constexpr int64_t GROUP_STEPS = GROUP / STEP;

constexpr int64_t group_bytes(bool is_short) { return GROUP_STEPS * step_bytes(is_short ? SHORT_BF16 : BF16); }

// What bf16_pairs gives of BF16. `largest` is the largest exponent of the group, in its place in the bits of all lanes.
INLINE u32v short_pairs(const uint8_t* w, int p, int v, i16v largest) {
    i16v fractions = widen(load_bits<i8v>(w + 64 * p + 2 * LANES * v));  // the sign fills the upper byte
    i16v both = widen(load_bits<i8v>(w + 128 + 32 * p + 2 * LANES * (v % HALF)));
    i16v distances = (v < HALF ? both << 7 : both << 3) & int16_t((SPAN - 1) << 7);
    return bit_cast<u32v>((fractions & int16_t(SIGN_AND_FRACTION)) | (largest - distances));
}

}  // namespace
