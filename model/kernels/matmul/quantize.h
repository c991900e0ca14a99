// Weights to INT4. quantize_reference.py is the definition: the bits are the same.

#pragma once

#include <cmath>

#include "activations.h"

namespace {

// The nearest integers of values / scale, from -8 to 7.
INLINE void to_nibbles(const float* values, float scale, int32_t* integers) {
    float inverse = scale != 0 ? 1 / scale : 0.0f;
    for (int64_t i = 0; i < GROUP; i += LANES) {
        f32v scaled = min(splat<f32v>(7), max(splat<f32v>(-8), load<f32v>(values + i) * inverse));
        i32v nibbles = nearest(scaled);
        std::memcpy(integers + i, &nibbles, sizeof nibbles);
    }
}

// In the order of the definition. A function of its own, because the compiler would fuse the multiplications that give
// the products with these additions, and the sum would be another one.
__attribute__((noinline)) float sum_of_group(const float* products) {
    constexpr int64_t COLUMNS = 8;
    float columns[COLUMNS], sum = 0;
    for (int64_t c = 0; c < COLUMNS; ++c)
        columns[c] = products[c] + products[c + 8] + products[c + 16] + products[c + 24];
    for (float column : columns) sum += column;
    return sum;
}

// The scale that fits integers best, in the sense of least squares; the present one if all of them are zero.
INLINE float fitted_scale(const float* values, const int32_t* integers, float scale) {
    alignas(64) float products[GROUP];
    int32_t norm = 0;
    for (int64_t i = 0; i < GROUP; ++i) {
        products[i] = values[i] * float(integers[i]);
        norm += integers[i] * integers[i];
    }
    return norm > 0 ? sum_of_group(products) / float(norm) : scale;
}

// The first of the largest magnitude, with its sign.
INLINE float largest_value(const float* values) {
    float largest = largest_magnitude(values);
    int64_t i = 0;
    while (std::fabs(values[i]) < largest) ++i;
    return values[i];
}

// One group of 32 weights.
template <class T> void quantize_group_int4(const T* weights, uint8_t* out, bf16* scale) {
    alignas(64) float values[GROUP];
    alignas(64) int32_t integers[GROUP];
    load_group(weights, GROUP, values);
    float fitted = largest_value(values) / -8;
    for (int round = 0; round < 2; ++round) {
        to_nibbles(values, fitted, integers);
        fitted = fitted_scale(values, integers, fitted);
    }
    store_scalar(scale, fitted);
    to_nibbles(values, load_scalar(scale), integers);
    for (int64_t i = 0; i < GROUP; i += 2) out[i / 2] = (integers[i] & 15) | (integers[i + 1] & 15) << 4;
}

template <class T>
void quantize_int4(const T* weights, int64_t groups, uint8_t* out, bf16* scales, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t g = 0; g < groups; ++g) quantize_group_int4(weights + g * GROUP, out + g * GROUP / 2, scales + g);
}

}  // namespace
