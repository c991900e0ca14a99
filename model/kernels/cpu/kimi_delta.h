// Kimi Delta Attention (arXiv 2510.26692) on served sequences: the gated delta rule with a decay per key coordinate.

#pragma once

#include <cmath>

#include "delta_net.h"

namespace {

template <class T> struct KimiDelta {
    const T *q, *k, *v, *a, *b;  // [tokens, H, K], v [tokens, H, V], b [tokens, H]
    const float *A_log, *dt_bias;  // [H], [H, K]
    float* state;  // [row, H, K, V]
    const int32_t *rows, *starts;
    T* out;  // [tokens, H, V]
    int64_t sequences, H, K;
};

// One token on one head; q and k are normalized, q is scaled. S is [K, V].
//   S <- diag(decay) S;  u = beta (v - S^T k);  S <- S + k u^T;  o = S^T q
template <int64_t V>
void kimi_delta_step(const float* q, const float* k, const float* v, const float* decay, float beta,
                     float* S, float* o, int64_t K) {
    f32x16 read[V / W] = {}, u[V / W], out[V / W] = {};
    for (int64_t i = 0; i < K; ++i)
        for (int64_t j = 0; j < V / W; ++j) {
            f32x16 s = decay[i] * load(S + i * V + j * W);
            store(S + i * V + j * W, s);
            read[j] += k[i] * s;
        }
    for (int64_t j = 0; j < V / W; ++j) u[j] = beta * (load(v + j * W) - read[j]);
    for (int64_t i = 0; i < K; ++i)
        for (int64_t j = 0; j < V / W; ++j) {
            f32x16 s = load(S + i * V + j * W) + k[i] * u[j];
            store(S + i * V + j * W, s);
            out[j] += q[i] * s;
        }
    for (int64_t j = 0; j < V / W; ++j) store(o + j * W, out[j]);
}

// decay = e^(-e^A_log softplus(a + dt_bias)) for each of K key coordinates.
template <class T> void kimi_decays(const T* a, const float* dt_bias, float A_log, float* decay, int64_t K) {
    float rate = -std::exp(A_log);
    for (int64_t i = 0; i < K; ++i) decay[i] = rate * softplus(load_scalar(a + i) + dt_bias[i]);
    for (int64_t i = 0; i < K; i += W) store(decay + i, exp(load(decay + i)));
}

// K is a multiple of 16, at most 256.
template <class T, int64_t V> void kimi_delta(const KimiDelta<T>& p, int threads) {
    float root = 1.0f / std::sqrt(float(p.K));
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (p.starts[p.sequences] * p.H > 4)
    for (int64_t job = 0; job < p.sequences * p.H; ++job) {
        int64_t s = job / p.H, h = job % p.H;
        float *S = p.state + (p.rows[s] * p.H + h) * p.K * V, q[256], k[256], decay[256], v[V], o[V];
        for (int64_t t = p.starts[s]; t < p.starts[s + 1]; ++t) {
            int64_t head = t * p.H + h;
            scaled_copy(p.q + head * p.K, inverse_norm(p.q + head * p.K, p.K) * root, q, p.K);
            scaled_copy(p.k + head * p.K, inverse_norm(p.k + head * p.K, p.K), k, p.K);
            scaled_copy(p.v + head * V, 1.0f, v, V);
            kimi_decays(p.a + head * p.K, p.dt_bias + h * p.K, p.A_log[h], decay, p.K);
            float beta = 1.0f / (1.0f + std::exp(-load_scalar(p.b + head)));
            kimi_delta_step<V>(q, k, v, decay, beta, S, o, p.K);
            for (int64_t j = 0; j < V; j += W) store(p.out + head * V + j, load(o + j));
        }
    }
}

}  // namespace
