// The memory layout of packed weights, and how they are decoded to numbers.
//
// A panel holds 32 outputs and all inputs. Inputs are padded with zeros to a multiple of 32, and the last panel to 32
// outputs. Inputs come in steps of four, which are two pairs. The layout of a pair is
//
//   F32    32 floats of the first input, then 32 of the second
//   BF16   32 times (first, second)
//   INT8   64 bytes: 4 times (outputs 4q..4q+3, outputs 16+4q..16+4q+3), each (first, second)
//   INT4   a step is 32 words of 16 bits, for outputs 0..15 (first, second); their nibbles, from the lowest: the first
//          pair, the first pair of outputs 16..31, the second pair, the second pair of outputs 16..31
//
// Integers up to 127 are exact in bfloat16, so decoding rounds nothing. Scales are applied to the float32 sums: one
// scale per output for INT8, one per output and group of 32 inputs for INT4.

#pragma once

#include "../vectors.h"

#if defined(__AVX512VBMI__)
#include <immintrin.h>
#define ROUTELM_LOOKUP_DECODE  // integers become bfloat16 by byte lookups in registers
#if defined(__AVX512BF16__)
#define ROUTELM_BF16_DOT  // one instruction multiplies bfloat16 pairs; elsewhere activations are converted to float32
#endif
#endif

namespace {

enum Format : int64_t { F32, BF16, INT8, INT4 };

constexpr int64_t PANEL = 32;  // outputs per panel
constexpr int64_t STEP = 4;    // inputs per step
constexpr int64_t GROUP = 32;  // inputs that share a scale in INT4
constexpr int VECTORS = PANEL / LANES, HALF = VECTORS / 2;

constexpr int64_t padded(int64_t inputs) { return (inputs + GROUP - 1) / GROUP * GROUP; }

constexpr int64_t step_bytes(int64_t format) {
    return format == F32 ? 512 : format == BF16 ? 256 : format == INT8 ? 128 : 64;
}

// One packed matrix, or one per expert. Python fills in this structure.
struct PackedMatrix {
    const uint8_t* data;
    const void* scales;  // INT8: float [outputs]; INT4: bf16 [panel, group, 32]; outputs padded to whole panels
    const float* bias;   // [outputs], padded likewise, or null
    int64_t outputs, inputs, format;

    int64_t panels() const { return (outputs + PANEL - 1) / PANEL; }
    int64_t padded_inputs() const { return padded(inputs); }
    int64_t panel_bytes() const { return padded_inputs() / STEP * step_bytes(format); }

    PackedMatrix of_expert(int64_t e) const {
        PackedMatrix m = *this;
        int64_t width = panels() * PANEL;
        m.data += e * panels() * panel_bytes();
        if (format == INT8) m.scales = static_cast<const float*>(scales) + e * width;
        if (format == INT4) m.scales = static_cast<const bf16*>(scales) + e * width * (padded_inputs() / GROUP);
        if (bias) m.bias += e * width;
        return m;
    }
};

struct FloatPair { f32v first, second; };  // two inputs of LANES outputs

INLINE FloatPair split_pairs(u32v pairs) {
    return {bit_cast<f32v>(pairs << 16), bit_cast<f32v>(pairs & 0xffff0000u)};
}

// Decodes pair p of the step at w, for the outputs from v * LANES: as floats, and where the processor profits from it,
// as bfloat16 pairs (first in the low half).
template <int FORMAT> struct Decoder;

template <> struct Decoder<F32> {
    INLINE FloatPair floats(const uint8_t* w, int p, int v) const {
        w += 256 * p + 4 * LANES * v;
        return {load_bits<f32v>(w), load_bits<f32v>(w + 128)};
    }
};

template <> struct Decoder<BF16> {
    INLINE u32v pairs(const uint8_t* w, int p, int v) const { return load_bits<u32v>(w + 128 * p + 4 * LANES * v); }
    INLINE FloatPair floats(const uint8_t* w, int p, int v) const { return split_pairs(pairs(w, p, v)); }
};

// The highest `width` bits of every lane as a signed integer, converted to float.
INLINE f32v signed_high_bits(u32v lanes, int width) {
    return __builtin_convertvector(bit_cast<i32v>(lanes) >> (32 - width), f32v);
}

// The low and the high byte of bfloat16(n) for 0 <= n < 128.
struct BFloat16Bytes {
    uint8_t low[128] = {}, high[128] = {};
    constexpr BFloat16Bytes() {
        for (int n = 1, e = 0; n < 128; ++n) {
            if (n >> (e + 1)) ++e;
            int b = (127 + e) << 7 | (n << (7 - e) & 127);
            low[n] = b & 255, high[n] = b >> 8;
        }
    }
};
alignas(64) constexpr BFloat16Bytes BFLOAT16_BYTES;

template <> struct Decoder<INT8> {
#ifdef ROUTELM_LOOKUP_DECODE
    // Looks up both bytes of bfloat16(|code|) and moves the sign into the high one.
    __m512i low[2], high[2], sign = _mm512_set1_epi8(-128);
    Decoder() {
        for (int i = 0; i < 2; ++i) {
            low[i] = load_bits<__m512i>(BFLOAT16_BYTES.low + 64 * i);
            high[i] = load_bits<__m512i>(BFLOAT16_BYTES.high + 64 * i);
        }
    }
    INLINE u32v pairs(const uint8_t* w, int p, int v) const {
        __m512i codes = load_bits<__m512i>(w + 64 * p), magnitude = _mm512_abs_epi8(codes);
        __m512i l = _mm512_permutex2var_epi8(low[0], magnitude, low[1]);
        __m512i h = _mm512_permutex2var_epi8(high[0], magnitude, high[1]);
        h = _mm512_ternarylogic_epi64(h, codes, sign, 0xf8);  // h | (codes & sign)
        return bit_cast<u32v>(v ? _mm512_unpackhi_epi8(l, h) : _mm512_unpacklo_epi8(l, h));
    }
    INLINE FloatPair floats(const uint8_t* w, int p, int v) const { return split_pairs(pairs(w, p, v)); }
#else
    INLINE FloatPair floats(const uint8_t* w, int p, int v) const {
        w += 64 * p + 16 * (v % HALF) * (LANES / 4) + 8 * (v / HALF);
#if LANES == 16
        typedef uint64_t u64x4 __attribute__((vector_size(32)));
        u64x4 codes{load_bits<uint64_t>(w), load_bits<uint64_t>(w + 16), load_bits<uint64_t>(w + 32),
                    load_bits<uint64_t>(w + 48)};
#elif LANES == 8
        typedef uint64_t u64x2 __attribute__((vector_size(16)));
        u64x2 codes{load_bits<uint64_t>(w), load_bits<uint64_t>(w + 16)};
#else
        uint64_t codes = load_bits<uint64_t>(w);
#endif
        u32v pairs = __builtin_convertvector(bit_cast<u16v>(codes), u32v);
        return {signed_high_bits(pairs << 24, 8), signed_high_bits(pairs << 16, 8)};
    }
#endif
};

// bfloat16 of -8..7 by nibble. The table is there twice because the lookup instruction uses five bits of the index.
alignas(64) constexpr uint16_t BFLOAT16_NIBBLES[32] = {
    0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0,  //  0 ..  7
    0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80,  // -8 .. -1
    0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0,
    0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80,
};

template <> struct Decoder<INT4> {
#ifdef ROUTELM_LOOKUP_DECODE
    __m512i table = load_bits<__m512i>(BFLOAT16_NIBBLES);
    INLINE u32v pairs(const uint8_t* w, int p, int v) const {
        __m512i codes = load_bits<__m512i>(w);
        return bit_cast<u32v>(_mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 4 * (2 * p + v)), table));
    }
    INLINE FloatPair floats(const uint8_t* w, int p, int v) const { return split_pairs(pairs(w, p, v)); }
#else
    INLINE FloatPair floats(const uint8_t* w, int p, int v) const {
        u32v codes = load_bits<u32v>(w + 4 * LANES * (v % HALF));
        int nibble = 2 * p + v / HALF;
        return {signed_high_bits(codes << (28 - 4 * nibble), 4), signed_high_bits(codes << (12 - 4 * nibble), 4)};
    }
#endif
};

// Decodes integer weights to the BF16 layout.
template <int FORMAT> void decode_to_bf16(const uint8_t* w, int64_t steps, uint8_t* out) {
    Decoder<FORMAT> decoder;
    for (; steps > 0; --steps, w += step_bytes(FORMAT), out += step_bytes(BF16))
        for (int i = 0; i < 2 * VECTORS; ++i) {
#ifdef ROUTELM_LOOKUP_DECODE
            u32v pairs = decoder.pairs(w, i / VECTORS, i % VECTORS);
#else
            FloatPair floats = decoder.floats(w, i / VECTORS, i % VECTORS);
            u32v pairs = (bit_cast<u32v>(floats.first) >> 16) | bit_cast<u32v>(floats.second);
#endif
            std::memcpy(out + 4 * LANES * i, &pairs, sizeof pairs);
        }
}

}  // namespace
