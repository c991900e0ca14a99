// Activations, scaled sums, embedding rows and the weighted sum of expert outputs.

#pragma once

#include <cmath>

#include "../vectors.h"

namespace {

inline float softplus(float x) { return x > 20.0f ? x : std::log1p(std::exp(x)); }

// out = scale * x, converted to float; n is a multiple of 16.
template <class T> void scaled_copy(const T* x, float scale, float* out, int64_t n) {
    for (int64_t i = 0; i < n; i += W) store(out + i, load(x + i) * scale);
}

// out = silu(gate) * up for x = [gate | up].
template <class T>
void silu_mul(const T* x, T* out, int64_t rows, int64_t width, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > 16384)
    for (int64_t r = 0; r < rows; ++r) {
        const T *gate = x + 2 * r * width, *up = gate + width;
        for_each_vector(width, [=](int64_t i, auto lanes) {
            lanes.store(out + r * width + i, silu(lanes.load(gate + i)) * lanes.load(up + i));
        });
    }
}

// out = gate * sigmoid(alpha * gate) * (up + 1) for x = [gate | up], with gate <= limit and |up| <= limit. The limits
// are the first arguments of min and max, so NaN passes through.
template <class T>
void clamped_mul(const T* x, T* out, int64_t rows, int64_t width, float alpha, float limit, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > 16384)
    for (int64_t r = 0; r < rows; ++r) {
        f32x16 highest = splat(limit), lowest = splat(-limit);
        for_each_vector(width, [=](int64_t i, auto lanes) {
            f32x16 gate = lanes.load(x + 2 * r * width + i), up = lanes.load(x + (2 * r + 1) * width + i);
            gate = min(highest, gate), up = max(lowest, min(highest, up));
            lanes.store(out + r * width + i, gate * sigmoid(alpha * gate) * (up + 1.0f));
        });
    }
}

// out = gelu(gate) * up for x = [gate | up], with the tanh approximation of GELU, which is
// x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)).
template <class T>
void gelu_mul(const T* x, T* out, int64_t rows, int64_t width, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > 16384)
    for (int64_t r = 0; r < rows; ++r) {
        const T *gate_row = x + 2 * r * width, *up_row = gate_row + width;
        for_each_vector(width, [=](int64_t i, auto lanes) {
            f32x16 gate = lanes.load(gate_row + i), inner = gate * (1.0f + 0.044715f * gate * gate);
            lanes.store(out + r * width + i, gate * sigmoid(1.5957691216f * inner) * lanes.load(up_row + i));
        });
    }
}

// out = relu(x)^2. Zero is the first argument of max, so NaN passes through.
template <class T> void squared_relu(const T* x, T* out, int64_t rows, int64_t width, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > 16384)
    for (int64_t r = 0; r < rows; ++r)
        for_each_vector(width, [=](int64_t i, auto lanes) {
            f32x16 positive = max(f32x16{}, lanes.load(x + r * width + i));
            lanes.store(out + r * width + i, positive * positive);
        });
}

// out = x * sigmoid(gate); rows of the gate are `stride` elements apart.
template <class T>
void sigmoid_mul(const T* x, const T* gate, T* out, int64_t rows, int64_t width, int64_t stride, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > 16384)
    for (int64_t r = 0; r < rows; ++r) {
        const T *x_row = x + r * width, *gate_row = gate + r * stride;
        for_each_vector(width, [=](int64_t i, auto lanes) {
            lanes.store(out + r * width + i, lanes.load(x_row + i) * sigmoid(lanes.load(gate_row + i)));
        });
    }
}

// out = sum over k of weights[k] * y[k], plus sigmoid(gate) * shared where `shared` is not null.
template <class T>
void moe_combine(const T* y, const float* weights, const T* shared, const float* gate, T* out,
                 int64_t tokens, int64_t K, int64_t width, int threads) {
#pragma omp parallel for num_threads(threads) if (tokens * K * width > 32768)
    for (int64_t t = 0; t < tokens; ++t) {
        float open = shared ? 1.0f / (1.0f + std::exp(-gate[t])) : 0.0f;
        for_each_vector(width, [=](int64_t i, auto lanes) {
            f32x16 acc{};
            for (int64_t k = 0; k < K; ++k) acc += weights[t * K + k] * lanes.load(y + (t * K + k) * width + i);
            if (shared) acc += open * lanes.load(shared + t * width + i);
            lanes.store(out + t * width + i, acc);
        });
    }
}

// out = scale * x
template <class T> void scaled(const T* x, float scale, T* out, int64_t count, int threads) {
#pragma omp parallel for num_threads(threads) if (count > 65536)
    for (int64_t i = 0; i < count; ++i) store_scalar(out + i, scale * load_scalar(x + i));
}

// out = x + scale * y, rounded once.
template <class T> void add_scaled(const T* x, const T* y, float scale, T* out, int64_t count, int threads) {
    int64_t whole = count / W * W;
#pragma omp parallel for num_threads(threads) if (count > 65536)
    for (int64_t i = 0; i < whole; i += W) store(out + i, load(x + i) + scale * load(y + i));
    if (FirstLanes last{count - whole}; last.count)
        last.store(out + whole, last.load(x + whole) + scale * last.load(y + whole));
}

// out[t] = matrix[ids[t]]
template <class T>
void embedding(const T* matrix, const int64_t* ids, T* out, int64_t rows, int64_t width, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > 262144)
    for (int64_t r = 0; r < rows; ++r) std::memcpy(out + r * width, matrix + ids[r] * width, width * sizeof(T));
}

}  // namespace
