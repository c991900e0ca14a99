// RMS norms and the layer norm.

#pragma once

#include <cmath>

#include "../vectors.h"

namespace {

// Inlined so that the compiler loads x once in dot(x, x).
template <class T> INLINE float dot(const T* a, const T* b, int64_t n) {
    f32x16 acc{};
    for_each_vector(n, [&](int64_t i, auto lanes) { acc += lanes.load(a + i) * lanes.load(b + i); });
    return reduce_add(acc);
}

// One row of: out = x / rms(x) * (weight + offset).
template <class T>
INLINE void rms_norm_row(const T* x, const float* weight, float offset, float eps, T* out, int64_t width) {
    float scale = 1.0f / std::sqrt(dot(x, x, width) / float(width) + eps);
    for_each_vector(width, [=](int64_t i, auto lanes) {
        lanes.store(out + i, lanes.load(x + i) * scale * (lanes.load(weight + i) + offset));
    });
}

// out = x / rms(x) * (weight + offset). Groups of `rows_per_group` rows are contiguous; a group starts `stride`
// elements after the one before it. That lets heads be normalized where they lie in a wider matrix.
template <class T>
void rms_norm(const T* x, const float* weight, float offset, float eps, T* out,
              int64_t rows, int64_t width, int64_t rows_per_group, int64_t stride, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > 32768)
    for (int64_t r = 0; r < rows; ++r) {
        const T* in = x + r / rows_per_group * stride + r % rows_per_group * width;
        rms_norm_row(in, weight, offset, eps, out + r * width, width);
    }
}

// out = x + scale * y, rounded to T; normed = rms_norm(out).
template <class T>
void add_norm(const T* x, const T* y, float scale, const float* weight, float offset, float eps, T* out, T* normed,
              int64_t rows, int64_t width, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > 32768)
    for (int64_t r = 0; r < rows; ++r) {
        const T *x_row = x + r * width, *y_row = y + r * width;
        T *sum = out + r * width, *normed_row = normed + r * width;
        for_each_vector(width, [=](int64_t i, auto lanes) {
            lanes.store(sum + i, lanes.load(x_row + i) + scale * lanes.load(y_row + i));
        });
        rms_norm_row(sum, weight, offset, eps, normed_row, width);
    }
}

constexpr float ONES[W] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

// out = (x - mean(x)) / std(x) * weight + bias
template <class T>
void layer_norm(const T* x, const float* weight, const float* bias, float eps, T* out, int64_t rows, int64_t width,
                int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > 32768)
    for (int64_t r = 0; r < rows; ++r) {
        const T* in = x + r * width;
        f32x16 sum{}, squares{};
        for_each_vector(width, [&](int64_t i, auto lanes) { sum += lanes.load(in + i); });
        float mean = reduce_add(sum) / float(width);
        for_each_vector(width, [&](int64_t i, auto lanes) {  // the lanes after the last element count nothing
            f32x16 d = (lanes.load(in + i) - mean) * lanes.load(ONES);
            squares += d * d;
        });
        float scale = 1.0f / std::sqrt(reduce_add(squares) / float(width) + eps);
        for_each_vector(width, [=](int64_t i, auto lanes) {
            f32x16 normed = (lanes.load(in + i) - mean) * scale;
            lanes.store(out + r * width + i, normed * lanes.load(weight + i) + lanes.load(bias + i));
        });
    }
}

// One row of: out = x / rms(x) * weight * silu(gate).
template <class T>
void gated_rms_norm_row(const T* x, const T* gate, const float* weight, float eps, T* out, int64_t width) {
    float scale = 1.0f / std::sqrt(dot(x, x, width) / float(width) + eps);
    for_each_vector(width, [=](int64_t i, auto lanes) {
        lanes.store(out + i, lanes.load(x + i) * scale * lanes.load(weight + i) * silu(lanes.load(gate + i)));
    });
}

template <class T>
void gated_rms_norm(const T* x, const T* gate, const float* weight, float eps, T* out,
                    int64_t rows, int64_t width, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > 16384)
    for (int64_t at = 0; at < rows * width; at += width)
        gated_rms_norm_row(x + at, gate + at, weight, eps, out + at, width);
}

}  // namespace
