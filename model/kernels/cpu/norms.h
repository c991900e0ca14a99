// RMS norms. Widths are multiples of 16.

#pragma once

#include <cmath>

#include "../vectors.h"

namespace {

template <class T> float dot(const T* a, const T* b, int64_t n) {
    f32x16 acc{};
    for (int64_t i = 0; i < n; i += W) acc += load(a + i) * load(b + i);
    return reduce_add(acc);
}

// out = x / rms(x) * (weight + offset). Groups of `rows_per_group` rows are contiguous; a group starts `stride`
// elements after the one before it. That lets heads be normalized where they lie in a wider matrix.
template <class T>
void rms_norm(const T* x, const float* weight, float offset, float eps, T* out,
              int64_t rows, int64_t width, int64_t rows_per_group, int64_t stride, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > 32768)
    for (int64_t r = 0; r < rows; ++r) {
        const T* in = x + r / rows_per_group * stride + r % rows_per_group * width;
        float scale = 1.0f / std::sqrt(dot(in, in, width) / float(width) + eps);
        for (int64_t i = 0; i < width; i += W)
            store(out + r * width + i, load(in + i) * scale * (load(weight + i) + offset));
    }
}

// out = x + scale * y, rounded to T; normed = rms_norm(out).
template <class T>
void add_norm(const T* x, const T* y, float scale, const float* weight, float offset, float eps, T* out, T* normed,
              int64_t rows, int64_t width, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > 32768)
    for (int64_t r = 0; r < rows; ++r) {
        T* sum = out + r * width;
        for (int64_t i = r * width; i < (r + 1) * width; i += W) store(out + i, load(x + i) + scale * load(y + i));
        float inverse = 1.0f / std::sqrt(dot(sum, sum, width) / float(width) + eps);
        for (int64_t i = 0; i < width; i += W)
            store(normed + r * width + i, load(sum + i) * inverse * (load(weight + i) + offset));
    }
}

// One row of: out = x / rms(x) * weight * silu(gate).
template <class T>
void gated_rms_norm_row(const T* x, const T* gate, const float* weight, float eps, T* out, int64_t width) {
    float scale = 1.0f / std::sqrt(dot(x, x, width) / float(width) + eps);
    for (int64_t i = 0; i < width; i += W)
        store(out + i, load(x + i) * scale * load(weight + i) * silu(load(gate + i)));
}

template <class T>
void gated_rms_norm(const T* x, const T* gate, const float* weight, float eps, T* out,
                    int64_t rows, int64_t width, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > 16384)
    for (int64_t at = 0; at < rows * width; at += width)
        gated_rms_norm_row(x + at, gate + at, weight, eps, out + at, width);
}

}  // namespace
