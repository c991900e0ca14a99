// Gated DeltaNet on served sequences: everything between its two matrix products in one pass, which is the short
// convolution, the gates, the delta rule and the gated norm. Values are rounded to T where separate kernels would
// round.

#pragma once

#include <cmath>
#include <vector>

#include "elementwise.h"
#include "norms.h"

namespace {

template <class T> struct DeltaNet {
    const T* x;  // [tokens, q | k | v | z | b | a]
    const float *conv, *A_log, *dt_bias, *norm;  // conv is [channel, tap]
    float eps;
    float *history, *state;  // [row, taps - 1, channel], oldest first; [row, H, K, V]
    const int32_t *rows, *starts;
    T* out;  // [tokens, H, V]
    int64_t sequences, taps, Hk, H, K;
};

// rsqrt(|x|^2 + 1e-6), by which the delta rule normalizes queries and keys.
template <class T> float inverse_norm(const T* x, int64_t n) { return 1.0f / std::sqrt(dot(x, x, n) + 1e-6f); }

// One token of the convolution and SiLU on n of C channels. `weight` is [tap, channel]; `history` advances by the
// token.
template <class T>
void conv_step(const T* x, const float* weight, float* history, T* out, int64_t n, int64_t C, int64_t taps) {
    for (int64_t c = 0; c < n; c += W) {
        f32x16 y{}, now = load(x + c);
        for (int64_t j = 0; j + 1 < taps; ++j) {
            f32x16 past = load(history + j * C + c);
            y += load(weight + j * C + c) * past;
            if (j > 0) store(history + (j - 1) * C + c, past);
        }
        store(history + (taps - 2) * C + c, now);
        store(out + c, silu(y + load(weight + (taps - 1) * C + c) * now));
    }
}

// One token of the gated delta rule (arXiv 2412.06464) on one head; q and k are normalized, q is scaled. S is [K, V].
//   S <- e^g S;  u = beta (v - S^T k);  S <- S + k u^T;  o = S^T q
template <int64_t V>
void delta_step(const float* q, const float* k, const float* v, float decay, float beta,
                float* S, float* o, int64_t K) {
    f32x16 read[V / W] = {}, u[V / W], out[V / W] = {};
    for (int64_t i = 0; i < K; ++i)
        for (int64_t j = 0; j < V / W; ++j) read[j] += k[i] * load(S + i * V + j * W);
    for (int64_t j = 0; j < V / W; ++j) u[j] = beta * (load(v + j * W) - decay * read[j]);
    for (int64_t i = 0; i < K; ++i)
        for (int64_t j = 0; j < V / W; ++j) {
            f32x16 s = decay * load(S + i * V + j * W) + k[i] * u[j];
            store(S + i * V + j * W, s);
            out[j] += q[i] * s;
        }
    for (int64_t j = 0; j < V / W; ++j) store(o + j * W, out[j]);
}

// Value head h reads key head h / (H / Hk). A job is one key head of one sequence with its value heads. K is a multiple
// of 16, at most 256.
template <class T, int64_t V> void delta_net(const DeltaNet<T>& d, int threads) {
    int64_t J = d.taps, C = 2 * d.Hk * d.K + d.H * V, width = C + d.H * V + 2 * d.H, share = d.H / d.Hk;
    std::vector<float> weight(J * C);
    for (int64_t c = 0; c < C; ++c)
        for (int64_t j = 0; j < J; ++j) weight[j * C + c] = d.conv[c * J + j];
    float root = 1.0f / std::sqrt(float(d.K));
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (d.starts[d.sequences] * d.H > 4)
    for (int64_t job = 0; job < d.sequences * d.Hk; ++job) {
        int64_t s = job / d.Hk, g = job % d.Hk;
        float *history = d.history + d.rows[s] * (J - 1) * C, qn[256], kn[256], vn[V], o[V];
        T q[256], k[256], v[V];
        for (int64_t t = d.starts[s]; t < d.starts[s + 1]; ++t) {
            const T *x = d.x + t * width, *z = x + C, *b = z + d.H * V, *a = b + d.H;
            auto convolve = [&](int64_t c, int64_t n, T* to) {
                conv_step(x + c, weight.data() + c, history + c, to, n, C, J);
            };
            convolve(g * d.K, d.K, q);
            convolve((d.Hk + g) * d.K, d.K, k);
            scaled_copy(q, inverse_norm(q, d.K) * root, qn, d.K);
            scaled_copy(k, inverse_norm(k, d.K), kn, d.K);
            for (int64_t h = g * share; h < (g + 1) * share; ++h) {
                convolve(2 * d.Hk * d.K + h * V, V, v);
                scaled_copy(v, 1.0f, vn, V);
                float log_decay = -std::exp(d.A_log[h]) * softplus(load_scalar(a + h) + d.dt_bias[h]);
                float beta = 1.0f / (1.0f + std::exp(-load_scalar(b + h)));
                float* S = d.state + (d.rows[s] * d.H + h) * d.K * V;
                delta_step<V>(qn, kn, vn, std::exp(log_decay), beta, S, o, d.K);
                for (int64_t j = 0; j < V; j += W) store(v + j, load(o + j));
                gated_rms_norm_row(v, z + h * V, d.norm, d.eps, d.out + (t * d.H + h) * V, V);
            }
        }
    }
}

}  // namespace
