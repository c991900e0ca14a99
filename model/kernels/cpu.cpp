// The CPU kernels behind model/kernels: plain C functions over raw pointers, loaded with ctypes.
//
// Every output element is computed by one thread, from its own token's inputs and state, in an order that does not
// depend on how many tokens or sequences stand beside it. That is what makes answers bitwise reproducible in any batch.
// There is no tail code: widths are multiples of 16 (the Python side checks), so one vector path serves every element.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "vectors.inc"

namespace {

template <class T> float dot(const T* a, const T* b, int64_t n) {
    f32x16 acc{};
    for (int64_t i = 0; i < n; i += W) acc += load(a + i) * load(b + i);
    return sum(acc);
}

// `together` rows follow each other without a gap, then the next ones `stride` numbers after the first of these.
template <class T>
void rms_norm(const T* x, const float* weight, float offset, float eps, T* out,
              int64_t rows, int64_t width, int64_t together, int64_t stride, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > 32768)
    for (int64_t r = 0; r < rows; ++r) {
        const T* in = x + r / together * stride + r % together * width;
        float scale = 1.0f / std::sqrt(dot(in, in, width) / float(width) + eps);
        for (int64_t i = 0; i < width; i += W)
            store(out + r * width + i, load(in + i) * scale * (load(weight + i) + offset));
    }
}

// out = x + scale * y, rounded once; normed = rms_norm(out)
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

// out = rms_norm(x) * weight * silu(gate)
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

// out = silu(x[:, :width]) * x[:, width:]
template <class T>
void silu_mul(const T* x, T* out, int64_t rows, int64_t width, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > 16384)
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < width; i += W)
            store(out + r * width + i, silu(load(x + 2 * r * width + i)) * load(x + (2 * r + 1) * width + i));
}

// out = gate * sigmoid(alpha * gate) * (up + 1) of x = [gate | up], with gate <= limit and |up| <= limit
template <class T>
void clamped_mul(const T* x, T* out, int64_t rows, int64_t width, float alpha, float limit, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > 16384)
    for (int64_t r = 0; r < rows; ++r) {
        f32x16 most = splat(limit), least = splat(-limit);
        for (int64_t i = 0; i < width; i += W) {
            f32x16 gate = load(x + 2 * r * width + i), up = load(x + (2 * r + 1) * width + i);
            gate = smaller(most, gate), up = larger(least, smaller(most, up));
            store(out + r * width + i, gate * sigmoid(alpha * gate) * (up + 1.0f));
        }
    }
}

// out = x * sigmoid(gate); a row of the gate begins `stride` numbers after the one before
template <class T>
void sigmoid_mul(const T* x, const T* gate, T* out, int64_t rows, int64_t width, int64_t stride, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > 16384)
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < width; i += W)
            store(out + r * width + i, load(x + r * width + i) * sigmoid(load(gate + r * stride + i)));
}

// out[t] = sum over k of weights[t, k] * y[t, k], then + sigmoid(gate[t]) * shared[t] where there is a shared expert.
template <class T>
void combine(const T* y, const float* weights, const T* shared, const float* gate, T* out,
             int64_t tokens, int64_t K, int64_t width, int threads) {
#pragma omp parallel for num_threads(threads) if (tokens * K * width > 32768)
    for (int64_t t = 0; t < tokens; ++t) {
        float open = shared ? 1.0f / (1.0f + std::exp(-gate[t])) : 0.0f;
        for (int64_t i = 0; i < width; i += W) {
            f32x16 acc{};
            for (int64_t k = 0; k < K; ++k) acc += weights[t * K + k] * load(y + (t * K + k) * width + i);
            if (shared) acc += open * load(shared + t * width + i);
            store(out + t * width + i, acc);
        }
    }
}

// out = scale * x
template <class T> void scaled(const T* x, float scale, T* out, int64_t count, int threads) {
#pragma omp parallel for num_threads(threads) if (count > 65536)
    for (int64_t i = 0; i < count; ++i) put(out + i, scale * scalar(x + i));
}

// out[t] = matrix[chosen[t]]
template <class T>
void rows_of(const T* matrix, const int64_t* chosen, T* out, int64_t rows, int64_t width, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > 262144)
    for (int64_t r = 0; r < rows; ++r) std::memcpy(out + r * width, matrix + chosen[r] * width, width * sizeof(T));
}

// out = x + scale * y, rounded once
template <class T> void add_scaled(const T* x, const T* y, float scale, T* out, int64_t count, int threads) {
#pragma omp parallel for num_threads(threads) if (count > 65536)
    for (int64_t i = 0; i < count; i += W) store(out + i, load(x + i) + scale * load(y + i));
}

#include "rotary.inc"
#include "routing.inc"
#include "highest.inc"
#include "recurrence.inc"
#include "delta_net.inc"
#include "attention_tile.inc"
#include "attention.inc"
#include "gradients.inc"

}  // namespace

extern "C" void top_k_softmax_f32(const float* scores, float* weights, int64_t* chosen, int64_t tokens, int64_t E,
                                  int64_t row, int64_t K, int64_t over_all, int threads) {
    top_k_softmax(scores, weights, chosen, tokens, E, row, K, over_all, threads);
}

extern "C" void rotary_tables_f32(const int64_t* positions, const float* frequencies, float* cos, float* sin,
                                  int64_t tokens, int64_t half, float magnitude, int threads) {
    rotary_tables(positions, frequencies, cos, sin, tokens, half, magnitude, threads);
}

extern "C" void highest_f32(const float* scores, int64_t* places, int64_t rows, int64_t width, int threads) {
    places_of_highest(scores, places, rows, width, threads);
}

// The rest of the C interface: every function once for float32 and once for bfloat16.
#define T float
#define EXPORT(name) name##_f32
#include "cpu_exports.inc"
#undef T
#undef EXPORT
#define T bf16
#define EXPORT(name) name##_bf16
#include "cpu_exports.inc"

#include "repeat.inc"
#include "built_of.inc"
#include "supported.inc"
