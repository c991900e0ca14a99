// The memory layout of packed weights, and how they are decoded to numbers.
//
// A panel holds 32 outputs and all inputs. Inputs are padded with zeros to a multiple of 32, and the last panel to 32
// outputs. Inputs come in steps of four, which are two pairs. The layout of a pair is
//
//   F32    32 floats of the first input, then 32 of the second
//   BF16   32 times (first, second)
//   INT8   32 times (first, second), and so is Q8_0
//   INT4   a step is 16 words of four bytes, one byte per input: the low half of word w belongs to output w, the high
//          half to output 16 + w; both are the integer plus 8
//   Q4_1   the same of integers from 0 to 15, as they are; the bytes of a word are those of the inputs 0, 2, 1 and 3, of
//          which a shift and a mask make pairs of 16 bits
//   SHORT_BF16  three quarters of BF16: see short_exponents.h
//
// Scales are applied to sums: one float32 per output for INT8, one float16 per output and group of 32 inputs for INT4
// and Q8_0. Q4_1 has a minimum for every scale, which is added to the weights, so it is multiplied by sums of inputs.

#pragma once

#include "../vectors.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#define ROUTELM_BF16_DOT  // one instruction multiplies bfloat16 pairs; elsewhere activations are converted to float32
#endif

namespace {

enum Format : int64_t { F32, BF16, INT8, INT4, Q8_0, Q4_1, SHORT_BF16 };

constexpr int64_t PANEL = 32;  // outputs per panel
constexpr int64_t STEP = 4;    // inputs per step
constexpr int64_t GROUP = 32;  // inputs that share a scale in INT4, Q8_0 and Q4_1
constexpr int VECTORS = PANEL / LANES, HALF = VECTORS / 2;

constexpr int64_t padded(int64_t inputs) { return (inputs + GROUP - 1) / GROUP * GROUP; }

constexpr int64_t step_bytes(int64_t format) {
    if (format == F32) return 512;
    if (format == BF16) return 256;
    if (format == SHORT_BF16) return 192;
    return format == INT8 || format == Q8_0 ? 128 : 64;
}

constexpr bool has_group_scales(int64_t format) { return format >= INT4 && format <= Q4_1; }

// Numbers per output and group: a scale, and a minimum.
constexpr int64_t group_numbers(int64_t format) { return format == Q4_1 ? 2 : 1; }

// One packed matrix, or one per expert. Python fills in this structure.
struct PackedMatrix {
    const uint8_t* data;
    const void* scales;  // INT8: float [outputs]; groups: f16 [panel, group, 32], of Q4_1 [panel, group, 2, 32] with the
                         // minima; outputs padded to whole panels. SHORT_BF16: uint8 [panel, group], see `exponents`
    const float* bias;   // [outputs], padded likewise, or null
    const int64_t* starts;  // SHORT_BF16: where in `data` the panels start, which differ in size
    int64_t outputs, inputs, format;

    int64_t panels() const { return (outputs + PANEL - 1) / PANEL; }
    int64_t padded_inputs() const { return padded(inputs); }
    int64_t panel_bytes() const { return padded_inputs() / STEP * step_bytes(format); }  // of SHORT_BF16, at least

    const uint8_t* panel(int64_t p) const { return data + (format == SHORT_BF16 ? starts[p] : p * panel_bytes()); }

    // Of SHORT_BF16, from panel p on: the largest exponent of a group without its last bit; 0 where the group
    // is stored as BF16.
    const uint8_t* exponents(int64_t p) const {
        return static_cast<const uint8_t*>(scales) + p * (padded_inputs() / GROUP);
    }

    // From panel p on.
    const f16* group_scales(int64_t p) const {
        return static_cast<const f16*>(scales) + p * PANEL * (padded_inputs() / GROUP) * group_numbers(format);
    }

    PackedMatrix of_expert(int64_t e) const {
        PackedMatrix m = *this;
        int64_t width = panels() * PANEL;
        if (format == SHORT_BF16)
            m.starts += e * panels(), m.scales = exponents(e * panels());
        else
            m.data += e * panels() * panel_bytes();
        if (format == INT8) m.scales = static_cast<const float*>(scales) + e * width;
        if (has_group_scales(format)) m.scales = group_scales(e * panels());
        if (bias) m.bias += e * width;
        return m;
    }
};

// The weights of pair p of the step at w, for the outputs from v * LANES.
INLINE u32v bf16_pairs(const uint8_t* w, int p, int v) { return load_bits<u32v>(w + 128 * p + 4 * LANES * v); }

// The first or the second of each pair.
INLINE f32v one_of_pairs(u32v pairs, int i) { return bit_cast<f32v>(i ? pairs & 0xffff0000u : pairs << 16); }

// The weights of input i of the step.
template <int FORMAT> INLINE f32v float_weights(const uint8_t* w, int i, int v) {
    return FORMAT == F32 ? load_bits<f32v>(w + 128 * i + 4 * LANES * v) : one_of_pairs(bf16_pairs(w, i / 2, v), i % 2);
}

// The same of INT8 and Q8_0 before widening.
INLINE i8v int8_pairs(const uint8_t* w, int p, int v) { return load_bits<i8v>(w + 64 * p + 2 * LANES * v); }

// Four bytes per output, from 0 to 15: the integers of a step of INT4, plus 8.
INLINE u32v nibbles(const uint8_t* w, int v) {
    return load_bits<u32v>(w + 4 * LANES * (v % HALF)) >> (4 * (v / HALF)) & 0x0f0f0f0fu;
}

// The integers of pair p of a step of Q4_1, in 16 bits each.
INLINE u32v nibble_pairs(const uint8_t* w, int p, int v) {
    return load_bits<u32v>(w + 4 * LANES * (v % HALF)) >> (4 * (v / HALF) + 8 * p) & 0x000f000fu;
}

}  // namespace
