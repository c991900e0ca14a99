// Rotary position embeddings.

#pragma once

#include <cmath>

#include "../vectors.h"

namespace {

// Rotates the first `rotated` coordinates of every head, coordinate i with i + rotated / 2, and copies the others. The
// tables are [tokens, rotated]; tokens of x are `token_stride` and heads `head_stride` elements apart, out is
// contiguous.
template <class T>
void rotate(const T* x, const float* cos, const float* sin, T* out, int64_t tokens, int64_t heads, int64_t width,
            int64_t rotated, int64_t token_stride, int64_t head_stride, int threads) {
    int64_t half = rotated / 2;
#pragma omp parallel for num_threads(threads) if (tokens * heads * width > 65536)
    for (int64_t t = 0; t < tokens; ++t)
        for (int64_t h = 0; h < heads; ++h) {
            const T* from = x + t * token_stride + h * head_stride;
            T* to = out + (t * heads + h) * width;
            for (int64_t i = 0; i < half; ++i) {
                const float *c = cos + t * rotated + i, *s = sin + t * rotated + i;
                float first = load_scalar(from + i), second = load_scalar(from + half + i);
                store_scalar(to + i, first * c[0] - second * s[0]);
                store_scalar(to + half + i, second * c[half] + first * s[half]);
            }
            std::memcpy(to + rotated, from + rotated, (width - rotated) * sizeof(T));
        }
}

// Cosine and sine of position * frequency, times the magnitude: [tokens, 2 * half] each, with equal halves.
inline void rotary_tables(const int64_t* positions, const float* frequencies, float* cos, float* sin, int64_t tokens,
                          int64_t half, float magnitude, int threads) {
#pragma omp parallel for num_threads(threads) if (tokens * half > 1024)
    for (int64_t t = 0; t < tokens; ++t)
        for (int64_t i = 0; i < half; ++i) {
            float angle = float(positions[t]) * frequencies[i];
            float *c = cos + 2 * t * half + i, *s = sin + 2 * t * half + i;
            c[0] = c[half] = std::cos(angle) * magnitude;
            s[0] = s[half] = std::sin(angle) * magnitude;
        }
}

}  // namespace
