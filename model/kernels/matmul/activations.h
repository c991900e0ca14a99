// The forms in which rows of activations are multiplied: float, bfloat16 where the processor has a dot product for it,
// and blocks of 32 integers with a scale for weights that are integers.
//
// A row is padded with zeros to whole groups of 32 inputs.

#pragma once

#include <type_traits>

#include "integer_dot.h"
#include "weights.h"

namespace {

// 32 activations: scale * values, where the largest magnitude is 127 or 32767. The error of each is at most half of the
// scale: 2^-8 or 2^-16 of the largest of the block.

// Multiplied by INT4.
struct Int8Block {
    float scale;
    int16_t correction[2];  // -8 times the sums of the values 0 and 1 and of the values 2 and 3 of all steps
    int8_t values[GROUP];

    INLINE void set_sums(i32v sums) {
        int32_t pairs[2] = {};
        for (int i = 0; i < LANES; ++i) pairs[i % STEP / 2] -= 8 * sums[i];
        correction[0] = pairs[0], correction[1] = pairs[1];
    }
};

// Multiplied by INT8, Q8_0 and Q4_1.
struct Int16Block {
    float scale;
    float sum;  // of the activations, which multiplies minima
    int16_t values[GROUP];

    INLINE void set_sums(i32v sums) {
        int32_t total = 0;
        for (int i = 0; i < LANES; ++i) total += sums[i];
        sum = scale * total;
    }
};

// Calls compute with a value of the type in which activations of type T are multiplied by weights of a format.
template <class T, class Compute> void with_compute_type(int64_t format, Compute compute) {
    if (format == INT4) return compute(Int8Block());
    if (format >= INT8 && format <= Q4_1) return compute(Int16Block());
#ifdef ROUTELM_BF16_DOT
    if (format == BF16 || format == SHORT_BF16) return compute(T());
#endif
    compute(float());
}

// Elements of type In per group of 32 inputs, and per row.
template <class In> constexpr int64_t GROUP_SIZE = std::is_class<In>::value ? 1 : GROUP;
template <class In> constexpr int64_t row_size(int64_t inputs) { return padded(inputs) / GROUP * GROUP_SIZE<In>; }

// Elements from row to row. At a multiple of 2 KiB, the rows of a microkernel would compete for one or two sets of the
// first cache, which holds eight lines of each.
template <class In> constexpr int64_t row_stride(int64_t inputs) {
    int64_t size = row_size<In>(inputs);
    return size * sizeof(In) % 2048 ? size : size + (63 + sizeof(In)) / sizeof(In);
}

// Activations in the form in which they are multiplied.
template <class In> struct Activations {
    const In* data;
    int64_t stride;  // from row to row

    const In* row(int64_t r) const { return data + r * stride; }
};

// Stores the 32 values of group g of a row.
INLINE void store_group(float* row, int64_t g, const float* values) {
    std::memcpy(row + g * GROUP, values, GROUP * sizeof(float));
}
INLINE void store_group(bf16* row, int64_t g, const float* values) {
    for (int64_t i = 0; i < GROUP; i += LANES) store(row + g * GROUP + i, load<f32v>(values + i));
}

// The largest magnitude of 32 values; NaN if one is NaN. Without their signs, floats are in the order of their bits.
INLINE float largest_magnitude(const float* values) {
    i32v largest{};
    for (int64_t i = 0; i < GROUP; i += LANES) {
        i32v bits = load_bits<i32v>(values + i) & 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    int32_t found = 0;
    for (int i = 0; i < LANES; ++i) found = largest[i] > found ? largest[i] : found;
    return bit_cast<float>(found);
}

template <class Block> INLINE void store_group(Block* row, int64_t g, const float* values) {
    typedef std::remove_extent_t<decltype(Block::values)> Int;
    typedef Int Narrow __attribute__((vector_size(sizeof(Int) * LANES)));
    constexpr float LIMIT = sizeof(Int) == 1 ? 127 : 32767;
    Block& block = row[g];
    float largest = largest_magnitude(values), inverse = largest > 1e-30f ? LIMIT / largest : 0.0f;
    i32v sums{};
    for (int64_t i = 0; i < GROUP; i += LANES) {
        i32v integers = nearest(load<f32v>(values + i) * inverse);
        Narrow narrow = __builtin_convertvector(integers, Narrow);
        std::memcpy(block.values + i, &narrow, sizeof narrow);
        sums += integers;
    }
    block.scale = largest / LIMIT;  // not finite if a value is not, and then the products are not
    block.set_sums(sums);
}

// 32 values as floats; zeros behind the last one of a row, of which `count` are left.
template <class T> INLINE void load_group(const T* x, int64_t count, float* values) {
    if (count >= GROUP) {
        for (int64_t i = 0; i < GROUP; i += LANES) store(values + i, load<f32v>(x + i));
    } else {
        for (int64_t i = 0; i < GROUP; ++i) values[i] = i < count ? load_scalar(x + i) : 0.0f;
    }
}

// One row of `inputs` values in the form In.
template <class In, class T> void convert_row(const T* x, int64_t inputs, In* out) {
    alignas(64) float values[GROUP];
    for (int64_t i = 0; i < inputs; i += GROUP) {
        load_group(x + i, inputs - i, values);
        store_group(out, i / GROUP, values);
    }
}

}  // namespace
