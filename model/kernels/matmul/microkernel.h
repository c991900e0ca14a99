// The inner loops of matrix products: a few rows times one panel.
//
// Every sum of floats is one chain of additions in the order of the inputs. Sums of integers are exact within a group of
// 32 inputs, and the groups are one chain again. So the bits of a row depend neither on how many rows are computed
// with it, nor on which microkernel computes it.

#pragma once

#include "activations.h"
#include "short_exponents.h"

namespace {

// Rows per microkernel, and vectors of sums: as many as the registers hold, by measurement.
constexpr int MAX_ROWS = LANES == 16 ? 12 : LANES == 8 ? 6 : 3;
constexpr int MAX_SUMS = LANES == 16 ? 24 : 12;

// Vectors of a panel that are multiplied by R rows at a time: all, or first one half of them and then the other.
constexpr int64_t vectors_at_once(int64_t R) { return R * VECTORS < MAX_SUMS || LANES == 16 ? VECTORS : HALF; }

// sum += x * y, rounded once where the processor can. Left alone, the compiler copies sums to other registers, of which
// AVX2 has not enough: the inner loop for six rows then takes half as long again.
INLINE void multiply_add(f32v& sum, f32v x, f32v y) {
#if LANES == 8
    asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(x), "x"(y));
#else
    sum += x * y;
#endif
}

// How activations of type In are multiplied: a step of four inputs takes PARTS parts.
template <class In> struct Dot;

template <> struct Dot<float> {
    static constexpr int PARTS = 4;
    template <int FORMAT> INLINE static f32v weights(const uint8_t* w, int p, int v) {
        return float_weights<FORMAT>(w, p, v);
    }
    INLINE static f32v of_pairs(const uint8_t* w, int p, int v, uint8_t largest) {
        return one_of_pairs(short_pairs(w, p / 2, v, largest), p % 2);
    }
    INLINE static f32v inputs(const float* x) { return splat<f32v>(*x); }
    INLINE static void add(f32v& sum, f32v w, f32v x) { multiply_add(sum, x, w); }
};

#ifdef ROUTELM_BF16_DOT
template <> struct Dot<bf16> {
    static constexpr int PARTS = 2;
    template <int FORMAT> INLINE static u32v weights(const uint8_t* w, int p, int v) { return bf16_pairs(w, p, v); }
    INLINE static u32v of_pairs(const uint8_t* w, int p, int v, uint8_t largest) {
        return short_pairs(w, p, v, largest);
    }
    INLINE static __m512i inputs(const bf16* x) { return _mm512_set1_epi32(load_bits<int32_t>(x)); }
    INLINE static void add(f32v& sum, u32v w, __m512i x) {
        sum = bit_cast<f32v>(_mm512_dpbf16_ps(bit_cast<__m512>(sum), bit_cast<__m512bh>(w), bit_cast<__m512bh>(x)));
    }
};
#endif

template <> struct Dot<Int16Block> {
    static constexpr int PARTS = 2;
    template <int FORMAT> INLINE static i16v weights(const uint8_t* w, int p, int v) {
        return FORMAT == Q4_1 ? bit_cast<i16v>(nibble_pairs(w, p, v)) : widen(int8_pairs(w, p, v));
    }
    INLINE static i16v inputs(const int16_t* x) { return bit_cast<i16v>(load_bits<int32_t>(x) - i32v{}); }
    INLINE static void add(i32v& sum, i16v w, i16v x) { add_pairs(sum, w, x); }
    INLINE static i32v start(const Int16Block&) { return i32v{}; }
    INLINE static i32v finish(i32v sum) { return sum; }
};

template <> struct Dot<Int8Block> {
    static constexpr int PARTS = 1;
    template <int FORMAT> INLINE static u32v weights(const uint8_t* w, int, int v) { return nibbles(w, v); }
    INLINE static i32v inputs(const int8_t* x) { return load_bits<int32_t>(x) - i32v{}; }
    INLINE static void add(i32v& sum, u32v w, i32v x) { add_nibbles(sum, w, x); }
    INLINE static i32v start(const Int8Block& x) {
        return start_of_nibbles(load_bits<int32_t>(x.correction) - i32v{});
    }
    INLINE static i32v finish(i32v sum) { return sum_of_nibbles(sum); }
};

// From how many rows on weights are prefetched, by measurement. Where products take few instructions, processors read the
// weights of few rows faster by themselves: a decode step takes up to a fifth less time.
#ifdef ROUTELM_BF16_DOT
template <class In> constexpr int PREFETCH_FROM = std::is_same<In, bf16>::value ? 6 : 2;
#else
template <class In> constexpr int PREFETCH_FROM = 1;
#endif

// What to prefetch: every step moves `at` by `bytes_per_step`. A second pass over a panel begins `bytes_per_pass` later.
struct Prefetch { const uint8_t* at; int64_t bytes_per_step, bytes_per_pass; };

// Rows of equal distance. The address of a row is that of every third one plus 0, 1 or 2 strides. Left alone, the
// compiler keeps one offset per row. It has no registers for twelve of them and reloads them from the stack in the
// inner loop, which costs a sixth of its time.
template <class T, int R> struct Rows {
    const T* every_third[(R + 2) / 3];
    int64_t stride;

    INLINE Rows(const T* x, int64_t stride) : stride(stride) {
#pragma GCC unroll 8
        for (int r = 0; r < R; r += 3) every_third[r / 3] = x + r * stride;
    }
    INLINE const T* row(int r) const { return every_third[r / 3] + r % 3 * stride; }
    INLINE void advance(int64_t count) {
#pragma GCC unroll 8
        for (const T*& row : every_third) {
            row += count;
            asm("" : "+r"(row));
        }
    }
};

// Adds `steps` steps to the sums of R rows and the V vectors of a panel from number FIRST. `largest` is the exponent of
// SHORT_BF16.
template <class In, int FORMAT, int FIRST, int R, int V, class T, class Sum>
INLINE void accumulate(Rows<T, R>& rows, const uint8_t* w, int64_t steps, Prefetch& prefetch, Sum (&sums)[R][V],
                       uint8_t largest = 0) {
    constexpr int64_t LINES = step_bytes(FORMAT) / 64, PARTS = Dot<In>::PARTS;
    constexpr int LOCALITY = R == 1 ? 3 : 2;  // into L1 or L2, by measurement
    for (int64_t s = 0; s < steps; ++s, w += step_bytes(FORMAT), prefetch.at += prefetch.bytes_per_step) {
        for (int64_t line = 0; R >= PREFETCH_FROM<In> && line < LINES; ++line)
            __builtin_prefetch(prefetch.at + prefetch.bytes_per_step / LINES * line, 0, LOCALITY);
#pragma GCC unroll 4
        for (int p = 0; p < PARTS; ++p) {
            decltype(Dot<In>::template weights<FORMAT>(w, p, 0)) weights[V];
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) {
                if constexpr (FORMAT == SHORT_BF16)
                    weights[v] = Dot<In>::of_pairs(w, p, FIRST + v, largest);
                else
                    weights[v] = Dot<In>::template weights<FORMAT>(w, p, FIRST + v);
            }
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) {
                auto inputs = Dot<In>::inputs(rows.row(r) + STEP / PARTS * p);
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) Dot<In>::add(sums[r][v], weights[v], inputs);
            }
        }
        rows.advance(STEP);
    }
}

// One panel: its weights, and the scales (and minima) or exponents of its groups if they have some.
struct Panel { const uint8_t* w; const f16* scales; const uint8_t* exponents; };

// The groups of SHORT_BF16, which may be short or not.
template <class In, int FIRST, int R, int V, class T>
INLINE void accumulate_groups(Rows<T, R>& rows, const Panel& panel, int64_t groups, Prefetch& prefetch,
                              f32v (&sums)[R][V]) {
    const uint8_t* w = panel.w;
    for (int64_t g = 0; g < groups; ++g) {
        uint8_t largest = panel.exponents[g];
        if (largest)
            accumulate<In, SHORT_BF16, FIRST>(rows, w, GROUP_STEPS, prefetch, sums, largest);
        else
            accumulate<In, BF16, FIRST>(rows, w, GROUP_STEPS, prefetch, sums);
        w += group_bytes(largest > 0);
    }
}

// out [R, 32] = R rows of floats times the V vectors of a panel from number FIRST.
template <class In, int FORMAT, int R, int V, int FIRST>
void float_microkernel(const In* x, int64_t stride, const Panel& panel, int64_t inputs, Prefetch prefetch, float* out) {
    Rows<In, R> rows(x, stride);
    f32v sums[R][V];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sums[r][v] = f32v{};
    if constexpr (FORMAT == SHORT_BF16)
        accumulate_groups<In, FIRST>(rows, panel, inputs / GROUP, prefetch, sums);
    else
        accumulate<In, FORMAT, FIRST>(rows, panel.w, inputs / STEP, prefetch, sums);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) store(out + r * PANEL + v * LANES, sums[r][v]);
}

// The same for rows of integers: the sums of each group are scaled and added to `out`, without the scales of INT8.
template <class Block, int FORMAT, int R, int V, int FIRST>
void integer_microkernel(const Block* x, int64_t stride, const Panel& panel, int64_t inputs, Prefetch prefetch,
                         float* out) {
    typedef std::remove_extent_t<decltype(Block::values)> Int;
    for (int r = 0; r < R; ++r) std::memset(out + r * PANEL, 0, V * LANES * sizeof(float));
    for (int64_t g = 0; g < inputs / GROUP; ++g, ++x) {
        Rows<Int, R> rows(x->values, stride * sizeof(Block) / sizeof(Int));
        const uint8_t* w = panel.w + g * GROUP / STEP * step_bytes(FORMAT);
        asm("" : : : "memory");  // without it, `out` takes the registers that the sums need
        i32v sums[R][V];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) sums[r][v] = Dot<Block>::start(x[r * stride]);
        accumulate<Block, FORMAT, FIRST>(rows, w, GROUP / STEP, prefetch, sums);
        const f16* group = panel.scales + g * PANEL * group_numbers(FORMAT) + FIRST * LANES;
        f32v scales[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v)
            if (has_group_scales(FORMAT)) scales[v] = load<f32v>(group + v * LANES);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            f32v scale = splat<f32v>(x[r * stride].scale);
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) {
                f32v sum = __builtin_convertvector(Dot<Block>::finish(sums[r][v]), f32v);
                f32v total = load<f32v>(out + r * PANEL + v * LANES);
                multiply_add(total, has_group_scales(FORMAT) ? scale * scales[v] : scale, sum);
                if constexpr (FORMAT == Q4_1)
                    multiply_add(total, splat<f32v>(x[r * stride].sum), load<f32v>(group + PANEL + v * LANES));
                store(out + r * PANEL + v * LANES, total);
            }
        }
    }
}

template <class In, int FORMAT, int R, int V, int FIRST>
INLINE void microkernel(const In* x, int64_t stride, const Panel& panel, int64_t inputs, Prefetch prefetch,
                        float* out) {
    if constexpr (std::is_class<In>::value)
        integer_microkernel<In, FORMAT, R, V, FIRST>(x, stride, panel, inputs, prefetch, out);
    else
        float_microkernel<In, FORMAT, R, V, FIRST>(x, stride, panel, inputs, prefetch, out);
}

// The same for all vectors of a panel, or for one half and then the other.
template <class In, int FORMAT, int R>
void whole_panel(const In* x, int64_t stride, const Panel& panel, int64_t inputs, Prefetch prefetch, float* out) {
    constexpr int V = vectors_at_once(R);
    microkernel<In, FORMAT, R, V, 0>(x, stride, panel, inputs, prefetch, out);
    if constexpr (V < VECTORS) {
        prefetch.at += prefetch.bytes_per_pass;
        microkernel<In, FORMAT, R, V, V>(x, stride, panel, inputs, prefetch, out + V * LANES);
    }
}

// The same for 1 to MAX_ROWS rows.
template <class In, int FORMAT>
void any_rows(int64_t rows, const In* x, int64_t stride, const Panel& panel, int64_t inputs, Prefetch prefetch,
              float* out) {
#define CASE(R) \
    case R: return whole_panel<In, FORMAT, (R < MAX_ROWS ? R : MAX_ROWS)>(x, stride, panel, inputs, prefetch, out);
    switch (rows) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
    }
#undef CASE
}

// The same for weights of the formats by which activations of type In are multiplied.
template <class In>
void multiply_panel(int64_t rows, const PackedMatrix& m, const Panel& panel, const In* x, int64_t stride,
                    Prefetch prefetch, float* out) {
    int64_t inputs = m.padded_inputs();
    if constexpr (std::is_same<In, Int16Block>::value) {
        if (m.format == INT8) return any_rows<In, INT8>(rows, x, stride, panel, inputs, prefetch, out);
        if (m.format == Q4_1) return any_rows<In, Q4_1>(rows, x, stride, panel, inputs, prefetch, out);
        any_rows<In, Q8_0>(rows, x, stride, panel, inputs, prefetch, out);
    } else if constexpr (std::is_same<In, Int8Block>::value) {
        any_rows<In, INT4>(rows, x, stride, panel, inputs, prefetch, out);
    } else {
        if constexpr (std::is_same<In, float>::value)
            if (m.format == F32) return any_rows<In, F32>(rows, x, stride, panel, inputs, prefetch, out);
        if (m.format == SHORT_BF16) return any_rows<In, SHORT_BF16>(rows, x, stride, panel, inputs, prefetch, out);
        any_rows<In, BF16>(rows, x, stride, panel, inputs, prefetch, out);
    }
}

}  // namespace
