// Rotary position embeddings.

#pragma once

#include <cmath>

#include "norms.h"

namespace {

// Rotates the first `rotated` coordinates of a head, coordinate i with i + rotated / 2, and copies the others; `to` may
// be `from`.
template <class T>
INLINE void rotate_head(const T* from, const float* cos, const float* sin, T* to, int64_t width, int64_t rotated) {
    int64_t half = rotated / 2;
    for_each_vector(half, [=](int64_t i, auto lanes) {
        f32x16 first = lanes.load(from + i), second = lanes.load(from + half + i);
        lanes.store(to + i, first * lanes.load(cos + i) - second * lanes.load(sin + i));
        lanes.store(to + half + i, second * lanes.load(cos + half + i) + first * lanes.load(sin + half + i));
    });
    if (to != from) std::memcpy(to + rotated, from + rotated, (width - rotated) * sizeof(T));
}

// Rotates every head. The tables are [tokens, rotated]; tokens of x are `token_stride` and heads `head_stride` elements
// apart, out is contiguous.
template <class T>
void rotate(const T* x, const float* cos, const float* sin, T* out, int64_t tokens, int64_t heads, int64_t width,
            int64_t rotated, int64_t token_stride, int64_t head_stride, int threads) {
#pragma omp parallel for num_threads(threads) if (tokens * heads * width > 65536)
    for (int64_t t = 0; t < tokens; ++t)
        for (int64_t h = 0; h < heads; ++h)
            rotate_head(x + t * token_stride + h * head_stride, cos + t * rotated, sin + t * rotated,
                        out + (t * heads + h) * width, width, rotated);
}

// The queries or keys of a step: heads of a token are contiguous in x, tokens `stride` elements apart. Without a norm,
// `weight` is null.
template <class T> struct Heads {
    const T* x;
    const float* weight;
    T* out;
    int64_t count, stride;
};

// Normalizes and rotates every head of the queries and keys.
template <class T>
void qk_norm_rotate(Heads<T> q, Heads<T> k, float offset, float eps, const float* cos, const float* sin, int64_t tokens,
                    int64_t width, int64_t rotated, int threads) {
#pragma omp parallel for num_threads(threads) if (tokens * (q.count + k.count) * width > 32768)
    for (int64_t t = 0; t < tokens; ++t)
        for (const Heads<T>* heads : {&q, &k})
            for (int64_t h = 0; h < heads->count; ++h) {
                const T* from = heads->x + t * heads->stride + h * width;
                T* to = heads->out + (t * heads->count + h) * width;
                if (heads->weight) rms_norm_row(from, heads->weight, offset, eps, to, width);
                rotate_head<T>(heads->weight ? to : from, cos + t * rotated, sin + t * rotated, to, width, rotated);
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
