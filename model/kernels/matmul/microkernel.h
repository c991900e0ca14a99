// The inner loops of matrix products: a few rows times one panel.
//
// Every sum is one chain of additions in the order of the inputs. So the bits of a row depend neither on how many rows
// are computed with it, nor on which microkernel computes it.

#pragma once

#include "weights.h"

namespace {

// Rows per microkernel: as many as the registers hold, by measurement.
constexpr int MAX_ROWS = LANES == 16 ? 12 : LANES == 8 ? 4 : 2;

// How activations of type In are multiplied: float by two multiply-adds, bf16 by the processor's dot product of pairs.
template <class In> struct Dot;

template <> struct Dot<float> {
    typedef FloatPair Weight;
    template <class D> INLINE static FloatPair weights(const D& decoder, const uint8_t* w, int p, int v) {
        return decoder.floats(w, p, v);
    }
    INLINE static FloatPair inputs(const float* x) { return {splat<f32v>(x[0]), splat<f32v>(x[1])}; }
    INLINE static f32v add(f32v sum, FloatPair w, FloatPair x) {
        return (sum + x.first * w.first) + x.second * w.second;
    }
};

#ifdef ROUTELM_BF16_DOT
template <> struct Dot<bf16> {
    typedef u32v Weight;
    template <class D> INLINE static u32v weights(const D& decoder, const uint8_t* w, int p, int v) {
        return decoder.pairs(w, p, v);
    }
    INLINE static __m512i inputs(const bf16* x) { return _mm512_set1_epi32(load_bits<int32_t>(x)); }
    INLINE static f32v add(f32v sum, u32v w, __m512i x) {
        return bit_cast<f32v>(_mm512_dpbf16_ps(bit_cast<__m512>(sum), bit_cast<__m512bh>(w), bit_cast<__m512bh>(x)));
    }
};
#endif

// What to prefetch during a microkernel: every step moves `at` by `bytes_per_step`.
struct Prefetch { const uint8_t* at; int64_t bytes_per_step; };

template <int R> using Accumulators = f32v[R][VECTORS];

// Without this, the compiler keeps one offset per row. It has no registers for twelve of them and reloads them from the
// stack in the inner loop, which costs a sixth of its time.
#define KEEP_IN_REGISTER(pointer) asm("" : "+r"(pointer))

// The sums of R rows over `steps` steps, starting at zero.
template <class In, int FORMAT, int R>
INLINE void accumulate(const Decoder<FORMAT>& decoder, const In* x, int64_t stride, const uint8_t* w, int64_t steps,
                       Prefetch& prefetch, Accumulators<R>& sums) {
    constexpr int64_t LINES = step_bytes(FORMAT) / 64;
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < VECTORS; ++v) sums[r][v] = f32v{};
    const In* rows[(R + 2) / 3];  // of every third row: the address of a row is one of them plus 0, 1 or 2 strides
#pragma GCC unroll 8
    for (int r = 0; r < R; r += 3) rows[r / 3] = x + r * stride;
    for (int64_t s = 0; s < steps; ++s, w += step_bytes(FORMAT), prefetch.at += prefetch.bytes_per_step) {
        for (int64_t line = 0; line < LINES; ++line)
            __builtin_prefetch(prefetch.at + prefetch.bytes_per_step / LINES * line);
#pragma GCC unroll 8
        for (const In*& row : rows) KEEP_IN_REGISTER(row);
#pragma GCC unroll 2
        for (int p = 0; p < 2; ++p) {
            typename Dot<In>::Weight weights[VECTORS];
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; ++v) weights[v] = Dot<In>::weights(decoder, w, p, v);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) {
                auto inputs = Dot<In>::inputs(rows[r / 3] + r % 3 * stride + 2 * p);
#pragma GCC unroll 8
                for (int v = 0; v < VECTORS; ++v) sums[r][v] = Dot<In>::add(sums[r][v], weights[v], inputs);
            }
        }
#pragma GCC unroll 8
        for (const In*& row : rows) row += STEP;
    }
}

template <class In, int FORMAT, int R>
void plain_microkernel(const In* x, int64_t stride, const uint8_t* w, int64_t inputs, Prefetch prefetch, float* out) {
    Decoder<FORMAT> decoder;
    Accumulators<R> sums;
    accumulate<In, FORMAT, R>(decoder, x, stride, w, inputs / STEP, prefetch, sums);
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < VECTORS; ++v) store(out + r * PANEL + v * LANES, sums[r][v]);
}

// With one scale per output and group of inputs: the scaled sums of the groups are added up in `out`.
template <class In, int FORMAT, int R>
void grouped_microkernel(const In* x, int64_t stride, const uint8_t* w, const bf16* scales, int64_t inputs,
                         Prefetch prefetch, float* out) {
    Decoder<FORMAT> decoder;
    Accumulators<R> sums;
    std::memset(out, 0, R * PANEL * sizeof(float));
    for (int64_t i = 0; i < inputs; i += GROUP, scales += PANEL) {
        const uint8_t* group = w + i / STEP * step_bytes(FORMAT);
        accumulate<In, FORMAT, R>(decoder, x + i, stride, group, GROUP / STEP, prefetch, sums);
        for (int v = 0; v < VECTORS; ++v) {
            f32v scale = load<f32v>(scales + v * LANES);
            for (int r = 0; r < R; ++r) {
                float* total = out + r * PANEL + v * LANES;
                store(total, load<f32v>(total) + scale * sums[r][v]);
            }
        }
    }
}

// A panel at w of matrix m; `decoded` says whether its integers were decoded to the BF16 layout before.
struct Panel { const uint8_t* w; const bf16* scales; bool decoded; };

// out [R, 32] = R rows of x times a panel, without the scales of INT8 and without bias.
template <class In, int R>
void microkernel(const PackedMatrix& m, const Panel& panel, const In* x, int64_t stride, Prefetch prefetch,
                 float* out) {
    const uint8_t* w = panel.w;
    int64_t inputs = m.padded_inputs();
    if constexpr (sizeof(In) == sizeof(float))
        if (m.format == F32) return plain_microkernel<In, F32, R>(x, stride, w, inputs, prefetch, out);
    if (m.format == INT4 && panel.decoded)
        return grouped_microkernel<In, BF16, R>(x, stride, w, panel.scales, inputs, prefetch, out);
    if (m.format == INT4) return grouped_microkernel<In, INT4, R>(x, stride, w, panel.scales, inputs, prefetch, out);
    if (m.format == INT8 && !panel.decoded) return plain_microkernel<In, INT8, R>(x, stride, w, inputs, prefetch, out);
    return plain_microkernel<In, BF16, R>(x, stride, w, inputs, prefetch, out);
}

// The same for 1 to MAX_ROWS rows.
template <class In>
void microkernel(int64_t rows, const PackedMatrix& m, const Panel& panel, const In* x, int64_t stride,
                 Prefetch prefetch, float* out) {
#define CASE(R) case R: return microkernel<In, (R < MAX_ROWS ? R : MAX_ROWS)>(m, panel, x, stride, prefetch, out);
    switch (rows) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
    }
#undef CASE
}

}  // namespace
