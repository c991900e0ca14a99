// Training: forward passes over whole rows [B, L, ...], and gradients.

#pragma once

#include <cmath>
#include <vector>

#include "delta_net.h"

namespace {

// The derivative of silu at x.
inline f32x16 silu_derivative(f32x16 x) {
    f32x16 s = sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
}

// Weight gradients are summed over the rows of each of this many chunks, then over the chunks: the number of threads
// does not change the sum.
constexpr int64_t CHUNKS = 16;

inline void sum_chunks(const std::vector<float>& chunks, float* total, int64_t width) {
    for (int64_t i = 0; i < width; ++i) {
        float t = 0.0f;
        for (int64_t c = 0; c < CHUNKS; ++c) t += chunks[c * width + i];
        total[i] = t;
    }
}

// The backward pass of rms_norm, or with `gate` that of gated_rms_norm.
template <class T>
void rms_norm_backward(const T* x, const T* gate, const float* weight, float offset, float eps, const T* dy,
                       T* dx, T* dgate, float* dweight, int64_t rows, int64_t width, int threads) {
    std::vector<float> chunks(CHUNKS * width, 0.0f);
#pragma omp parallel for num_threads(threads)
    for (int64_t chunk = 0; chunk < CHUNKS; ++chunk) {
        float* dw = chunks.data() + chunk * width;
        std::vector<float> g(width);
        for (int64_t r = rows * chunk / CHUNKS; r < rows * (chunk + 1) / CHUNKS; ++r) {
            const T *in = x + r * width, *out = dy + r * width;
            float scale = 1.0f / std::sqrt(dot(in, in, width) / float(width) + eps);
            f32x16 along{};
            for (int64_t i = 0; i < width; i += W) {
                f32x16 d = load(out + i), normed = load(in + i) * scale, w = load(weight + i) + offset;
                if (gate) {
                    f32x16 z = load(gate + r * width + i);
                    store(dgate + r * width + i, d * normed * w * silu_derivative(z));
                    d *= silu(z);
                }
                store(dw + i, load(dw + i) + d * normed);
                store(g.data() + i, d * w);
                along += d * w * normed;
            }
            float mean = reduce_add(along) / float(width);
            for (int64_t i = 0; i < width; i += W)
                store(dx + r * width + i, scale * (load(g.data() + i) - load(in + i) * scale * mean));
        }
    }
    sum_chunks(chunks, dweight, width);
}

template <class T>
void silu_mul_backward(const T* x, const T* dy, T* dx, int64_t rows, int64_t width, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t r = 0; r < rows; ++r) {
        const T *gate = x + 2 * r * width, *up = gate + width;
        T *dgate = dx + 2 * r * width, *dup = dgate + width;
        for (int64_t i = 0; i < width; i += W) {
            f32x16 d = load(dy + r * width + i), g = load(gate + i);
            store(dgate + i, d * load(up + i) * silu_derivative(g));
            store(dup + i, d * silu(g));
        }
    }
}

// Overwrites each row of logits by its gradient weight * (softmax - one-hot), and returns the row's -log p(target).
template <class T>
void softmax_gradient(T* logits, const int64_t* targets, const float* weights, float* losses, int64_t rows,
                      int64_t width, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t r = 0; r < rows; ++r) {
        T* row = logits + r * width;
        f32x16 highest = load(row), total{};
        for (int64_t i = W; i < width; i += W) highest = max(load(row + i), highest);
        float top = reduce_max(highest);
        for (int64_t i = 0; i < width; i += W) total += exp(load(row + i) - top);
        float norm = reduce_add(total), target = load_scalar(row + targets[r]);
        losses[r] = std::log(norm) + top - target;
        float scale = weights[r] / norm;
        for (int64_t i = 0; i < width; i += W) store(row + i, exp(load(row + i) - top) * scale);
        float near[W];  // the vector that contains the target
        store(near, load(row + targets[r] / W * W));
        near[targets[r] % W] = weights[r] * (std::exp(-losses[r]) - 1.0f);
        store(row + targets[r] / W * W, load(near));
    }
}

// The value of the convolution before SiLU at token t of the row that starts at x; y is the bias.
template <int64_t J, class T>
inline f32x16 conv_at(const T* x, const f32x16* w, f32x16 y, int64_t t, int64_t channels) {
    for (int64_t j = t < J - 1 ? J - 1 - t : 0; j < J; ++j) y += w[j] * load(x + (t - J + 1 + j) * channels);
    return y;
}

// The short convolution with J taps over whole rows [B, L, C], each preceded by zeros.
template <class T, int64_t J>
void short_conv_forward(const T* x, const float* weight, const float* bias, T* out, int64_t B, int64_t L, int64_t C,
                        bool activate, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t b = 0; b < B; ++b)
        for (int64_t c = 0; c < C; c += W) {
            f32x16 w[J], start = bias ? load(bias + c) : f32x16{};
            for (int64_t j = 0; j < J; ++j) w[j] = load(weight + j * C + c);
            for (int64_t t = 0; t < L; ++t) {
                f32x16 y = conv_at<J>(x + b * L * C + c, w, start, t, C);
                store(out + (b * L + t) * C + c, activate ? silu(y) : y);
            }
        }
}

// `dweight` is [J + 1, C]; its last row is the gradient of the bias.
template <class T, int64_t J>
void short_conv_backward(const T* x, const float* weight, const float* bias, const T* dy, T* dx, float* dweight,
                         int64_t B, int64_t L, int64_t C, bool activate, int threads) {
    std::vector<float> chunks(CHUNKS * (J + 1) * C, 0.0f);
#pragma omp parallel for num_threads(threads)
    for (int64_t chunk = 0; chunk < CHUNKS; ++chunk)
        for (int64_t b = B * chunk / CHUNKS; b < B * (chunk + 1) / CHUNKS; ++b)
            for (int64_t c = 0; c < C; c += W) {
                const T *in = x + b * L * C + c, *out = dy + b * L * C + c;
                float* dw = chunks.data() + chunk * (J + 1) * C + c;
                f32x16 w[J], dw_sum[J + 1] = {}, dp[J] = {};  // dp: before SiLU, of tokens t .. t + J - 1
                f32x16 start = bias ? load(bias + c) : f32x16{};
                for (int64_t j = 0; j < J; ++j) w[j] = load(weight + j * C + c);
                for (int64_t t = L - 1; t >= 0; --t) {
                    for (int64_t j = J - 1; j > 0; --j) dp[j] = dp[j - 1];
                    dp[0] = load(out + t * C);
                    if (activate) dp[0] *= silu_derivative(conv_at<J>(in, w, start, t, C));
                    f32x16 here = load(in + t * C), d{};
                    for (int64_t j = 0; j < J; ++j) {  // token t is tap J - 1 - j of token t + j
                        d += w[J - 1 - j] * dp[j];
                        dw_sum[J - 1 - j] += here * dp[j];
                    }
                    dw_sum[J] += dp[0];
                    store(dx + (b * L + t) * C + c, d);
                }
                for (int64_t j = 0; j <= J; ++j) store(dw + j * C, load(dw + j * C) + dw_sum[j]);
            }
    sum_chunks(chunks, dweight, (J + 1) * C);
}

// The delta rule over rows of L tokens from a zero state. q, k, v are [B, L, H, K or V]. Every `stride` tokens the
// state before the token is kept in `kept` [B, H, ceil(L / stride), K, V], from which the backward pass recomputes the
// others.
template <class T, int64_t V>
void delta_rule_forward(const T* q, const T* k, const T* v, const float* log_decay, const float* beta,
                        T* out, float* kept, int64_t B, int64_t L, int64_t H, int64_t K, int64_t stride, int threads) {
    int64_t spans = (L + stride - 1) / stride;
#pragma omp parallel for num_threads(threads)
    for (int64_t job = 0; job < B * H; ++job) {
        int64_t b = job / H, h = job % H;
        std::vector<float> S(K * V, 0.0f);
        float qn[256], kn[256], vf[V], o[V];
        float root = 1.0f / std::sqrt(float(K));
        for (int64_t t = 0; t < L; ++t) {
            if (t % stride == 0)
                std::memcpy(kept + (job * spans + t / stride) * K * V, S.data(), K * V * sizeof(float));
            int64_t at = (b * L + t) * H + h;
            scaled_copy(q + at * K, inverse_norm(q + at * K, K) * root, qn, K);
            scaled_copy(k + at * K, inverse_norm(k + at * K, K), kn, K);
            scaled_copy(v + at * V, 1.0f, vf, V);
            delta_step<V>(qn, kn, vf, std::exp(log_decay[at]), beta[at], S.data(), o, K);
            for (int64_t j = 0; j < V; j += W) store(out + at * V + j, load(o + j));
        }
    }
}

// The gradient through y = x * n * root with n = inverse_norm(x): dx = n root (dy - xn (xn . dy)), xn being x * n.
template <class T>
void norm_backward(const T* x, const float* dy, float root, T* dx, int64_t n) {
    float inverse = inverse_norm(x, n), along = 0.0f;
    f32x16 acc{};
    for (int64_t i = 0; i < n; i += W) acc += load(x + i) * inverse * load(dy + i);
    along = reduce_add(acc);
    for (int64_t i = 0; i < n; i += W)
        store(dx + i, root * inverse * (load(dy + i) - load(x + i) * inverse * along));
}

// One token of the backward pass of the delta rule. P is the decayed state before the token's write. dS is the gradient
// of the state after the token and is overwritten by that of the state before it.
template <int64_t V>
void delta_step_backward(const float* q, const float* k, const float* v, float decay, float beta, const float* dout,
                         const float* P, float* dS, float* dq, float* dk, float* dv, float* dg, float* dbeta,
                         int64_t K) {
    constexpr int64_t N = V / W;
    f32x16 read[N] = {}, u[N], dO[N], du[N] = {}, dread[N];
    for (int64_t i = 0; i < K; ++i)
        for (int64_t j = 0; j < N; ++j) read[j] += k[i] * load(P + i * V + j * W);
    f32x16 udo{};
    for (int64_t j = 0; j < N; ++j) {
        u[j] = beta * (load(v + j * W) - read[j]);
        dO[j] = load(dout + j * W);
        udo += u[j] * dO[j];
    }
    float u_dot_do = reduce_add(udo);
    for (int64_t i = 0; i < K; ++i) {
        f32x16 dk_i{}, dq_i{};
        for (int64_t j = 0; j < N; ++j) {
            f32x16 d = load(dS + i * V + j * W) + q[i] * dO[j];
            store(dS + i * V + j * W, d);
            du[j] += k[i] * d;
            dk_i += d * u[j];
            dq_i += load(P + i * V + j * W) * dO[j];
        }
        dk[i] = reduce_add(dk_i);
        dq[i] = reduce_add(dq_i) + k[i] * u_dot_do;
    }
    f32x16 db{};
    for (int64_t j = 0; j < N; ++j) {
        db += du[j] * (load(v + j * W) - read[j]);
        store(dv + j * W, beta * du[j]);
        dread[j] = -beta * du[j];
    }
    *dbeta = reduce_add(db);
    f32x16 decay_gradient{};
    for (int64_t i = 0; i < K; ++i) {
        f32x16 dk_i{};
        for (int64_t j = 0; j < N; ++j) {
            f32x16 p = load(P + i * V + j * W);
            f32x16 d = load(dS + i * V + j * W) + k[i] * dread[j];
            dk_i += p * dread[j];
            decay_gradient += p * d;
            store(dS + i * V + j * W, decay * d);
        }
        dk[i] += reduce_add(dk_i);
    }
    *dg = reduce_add(decay_gradient);
}

template <class T, int64_t V>
void delta_rule_backward(const T* q, const T* k, const T* v, const float* log_decay, const float* beta, const T* dout,
                         const float* kept, T* dq, T* dk, T* dv, float* dlog_decay, float* dbeta,
                         int64_t B, int64_t L, int64_t H, int64_t K, int64_t stride, int threads) {
    int64_t spans = (L + stride - 1) / stride, size = K * V;
    float root = 1.0f / std::sqrt(float(K));
#pragma omp parallel for num_threads(threads)
    for (int64_t job = 0; job < B * H; ++job) {
        int64_t b = job / H, h = job % H;
        std::vector<float> decayed(stride * size), S(size), dS(size, 0.0f);
        std::vector<float> qn(stride * K), kn(stride * K), vf(stride * V);
        float o[V], dof[V], dqn[256], dkn[256], dvf[V];
        for (int64_t span = spans - 1; span >= 0; --span) {
            int64_t first = span * stride, last = first + stride < L ? first + stride : L;
            std::memcpy(S.data(), kept + (job * spans + span) * size, size * sizeof(float));
            for (int64_t t = first; t < last; ++t) {  // forward again, keeping every token's decayed state
                int64_t at = (b * L + t) * H + h, i = t - first;
                float decay = std::exp(log_decay[at]), *P = decayed.data() + i * size;
                scaled_copy(q + at * K, inverse_norm(q + at * K, K) * root, qn.data() + i * K, K);
                scaled_copy(k + at * K, inverse_norm(k + at * K, K), kn.data() + i * K, K);
                scaled_copy(v + at * V, 1.0f, vf.data() + i * V, V);
                scaled_copy(S.data(), decay, P, size);
                delta_step<V>(qn.data() + i * K, kn.data() + i * K, vf.data() + i * V, decay, beta[at], S.data(), o, K);
            }
            for (int64_t t = last - 1; t >= first; --t) {
                int64_t at = (b * L + t) * H + h, i = t - first;
                scaled_copy(dout + at * V, 1.0f, dof, V);
                delta_step_backward<V>(qn.data() + i * K, kn.data() + i * K, vf.data() + i * V,
                                       std::exp(log_decay[at]), beta[at], dof, decayed.data() + i * size, dS.data(),
                                       dqn, dkn, dvf, dlog_decay + at, dbeta + at, K);
                norm_backward(q + at * K, dqn, root, dq + at * K, K);
                norm_backward(k + at * K, dkn, 1.0f, dk + at * K, K);
                for (int64_t j = 0; j < V; j += W) store(dv + at * V + j, load(dvf + j));
            }
        }
    }
}

}  // namespace
