// The CPU kernels behind model/kernels: plain C functions over raw pointers, loaded with ctypes.
//
// Every output element is computed by one thread, from its own token's inputs and state, in an order that does not
// depend on how many tokens or sequences stand beside it. That is what makes answers bitwise reproducible in any batch.
// There is no tail code: widths are multiples of 16 (the Python side checks), so one vector path serves every element.
//
// Vectors are the compiler's own vector extension, 16 floats wide; on narrower machines the compiler splits them.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));
typedef uint16_t bf16;

namespace {

constexpr int64_t W = 16;

inline f32x16 splat(float x) { return f32x16{} + x; }

inline f32x16 load(const float* p) { f32x16 v; std::memcpy(&v, p, sizeof v); return v; }
inline void store(float* p, f32x16 v) { std::memcpy(p, &v, sizeof v); }

inline f32x16 load(const bf16* p) {
    u16x16 half; std::memcpy(&half, p, sizeof half);
    u32x16 bits = __builtin_convertvector(half, u32x16) << 16;
    f32x16 v; std::memcpy(&v, &bits, sizeof v); return v;
}

inline void store(bf16* p, f32x16 v) {  // round to nearest, ties to even
    u32x16 bits; std::memcpy(&bits, &v, sizeof bits);
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    u16x16 half = __builtin_convertvector(bits, u16x16);
    std::memcpy(p, &half, sizeof half);
}

inline float scalar(const float* p) { return *p; }
inline float scalar(const bf16* p) {
    uint32_t bits = uint32_t(*p) << 16;
    float x; std::memcpy(&x, &bits, sizeof x); return x;
}

// Sum of the 16 lanes, as a fixed tree.
inline float sum(f32x16 v) {
    f32x16 a = v + __builtin_shuffle(v, i32x16{8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7});
    a = a + __builtin_shuffle(a, i32x16{4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11});
    a = a + __builtin_shuffle(a, i32x16{2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13});
    return a[0] + a[1];
}

// e^x to about one unit in the last place: x = n ln 2 + r, a polynomial in r, then n into the exponent bits.
inline f32x16 exp(f32x16 x) {
    x = x < -87.0f ? splat(-87.0f) : x;
    x = x > 88.0f ? splat(88.0f) : x;
    f32x16 shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the sum is rounded to an integer
    f32x16 n = shifted - 12582912.0f;
    f32x16 r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    f32x16 y = splat(1.0f / 5040);
    y = y * r + 1.0f / 720;
    y = y * r + 1.0f / 120;
    y = y * r + 1.0f / 24;
    y = y * r + 1.0f / 6;
    y = y * r + 0.5f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
    i32x16 power = (__builtin_convertvector(n, i32x16) + 127) << 23;
    f32x16 scale; std::memcpy(&scale, &power, sizeof scale);
    return y * scale;
}

inline f32x16 sigmoid(f32x16 x) { return 1.0f / (1.0f + exp(-x)); }
inline f32x16 silu(f32x16 x) { return x * sigmoid(x); }

template <class T> float dot(const T* a, const T* b, int64_t n) {
    f32x16 acc{};
    for (int64_t i = 0; i < n; i += W) acc += load(a + i) * load(b + i);
    return sum(acc);
}

template <class T>
void rms_norm(const T* x, const float* weight, float offset, float eps, T* out,
              int64_t rows, int64_t width, int64_t stride, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > 32768)
    for (int64_t r = 0; r < rows; ++r) {
        const T* in = x + r * stride;
        float scale = 1.0f / std::sqrt(dot(in, in, width) / float(width) + eps);
        for (int64_t i = 0; i < width; i += W)
            store(out + r * width + i, load(in + i) * scale * (load(weight + i) + offset));
    }
}

// out = rms_norm(x) * weight * silu(gate)
template <class T>
void gated_rms_norm(const T* x, const T* gate, const float* weight, float eps, T* out,
                    int64_t rows, int64_t width, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > 16384)
    for (int64_t r = 0; r < rows; ++r) {
        const T* in = x + r * width;
        float scale = 1.0f / std::sqrt(dot(in, in, width) / float(width) + eps);
        for (int64_t i = 0; i < width; i += W) {
            f32x16 y = load(in + i) * scale * load(weight + i);
            store(out + r * width + i, y * silu(load(gate + r * width + i)));
        }
    }
}

// out = silu(x[:, :width]) * x[:, width:]
template <class T>
void silu_mul(const T* x, T* out, int64_t rows, int64_t width, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > 16384)
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < width; i += W)
            store(out + r * width + i, silu(load(x + 2 * r * width + i)) * load(x + (2 * r + 1) * width + i));
}

template <class T>
void sigmoid_mul(const T* x, const T* gate, T* out, int64_t count, int threads) {
#pragma omp parallel for num_threads(threads) if (count > 16384)
    for (int64_t i = 0; i < count; i += W) store(out + i, load(x + i) * sigmoid(load(gate + i)));
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

// Causal depthwise convolution of `taps` taps and SiLU. `state` holds the last taps - 1 inputs of a sequence:
// [row, taps - 1, channel], oldest first. `weight` is [tap, channel].
template <class T>
void short_conv(const T* x, const float* weight, float* state, const int32_t* rows, const int32_t* starts, T* out,
                int64_t sequences, int64_t channels, int64_t taps, int threads) {
    int64_t blocks = channels / W;
#pragma omp parallel for num_threads(threads) if (starts[sequences] * channels > 8192)
    for (int64_t job = 0; job < sequences * blocks; ++job) {
        int64_t s = job / blocks, c = (job % blocks) * W;
        float* history = state + rows[s] * (taps - 1) * channels + c;
        f32x16 past[8], w[8];
        for (int64_t j = 0; j < taps; ++j) w[j] = load(weight + j * channels + c);
        for (int64_t j = 0; j + 1 < taps; ++j) past[j] = load(history + j * channels);
        for (int64_t t = starts[s]; t < starts[s + 1]; ++t) {
            past[taps - 1] = load(x + t * channels + c);
            f32x16 y{};
            for (int64_t j = 0; j < taps; ++j) y += w[j] * past[j];
            for (int64_t j = 0; j + 1 < taps; ++j) past[j] = past[j + 1];
            store(out + t * channels + c, silu(y));
        }
        for (int64_t j = 0; j + 1 < taps; ++j) store(history + j * channels, past[j]);
    }
}

// Inverse length of a vector as the delta rule uses it: rsqrt(|x|^2 + 1e-6).
template <class T> float inverse_norm(const T* x, int64_t n) { return 1.0f / std::sqrt(dot(x, x, n) + 1e-6f); }

template <class T> void scaled_copy(const T* x, float scale, float* out, int64_t n) {
    for (int64_t i = 0; i < n; i += W) store(out + i, load(x + i) * scale);
}

// One token of the gated delta rule on one head; q and k are normalized, q is scaled. S is [K, V].
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

// The gated delta rule over ragged sequences. `state` is [row, H, K, V]; value head h reads key head h / (H / Hk).
template <class T, int64_t V>
void delta_rule(const T* q, const T* k, const T* v, const float* log_decay, const float* beta, float* state,
                const int32_t* rows, const int32_t* starts, T* out,
                int64_t sequences, int64_t Hk, int64_t H, int64_t K, int threads) {
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (starts[sequences] * H > 4)
    for (int64_t job = 0; job < sequences * H; ++job) {
        int64_t s = job / H, h = job % H, hk = h / (H / Hk);
        float* S = state + (rows[s] * H + h) * K * V;
        float qn[256], kn[256], vf[V], o[V];
        float root = 1.0f / std::sqrt(float(K));
        for (int64_t t = starts[s]; t < starts[s + 1]; ++t) {
            const T *qt = q + (t * Hk + hk) * K, *kt = k + (t * Hk + hk) * K;
            scaled_copy(qt, inverse_norm(qt, K) * root, qn, K);
            scaled_copy(kt, inverse_norm(kt, K), kn, K);
            scaled_copy(v + (t * H + h) * V, 1.0f, vf, V);
            delta_step<V>(qn, kn, vf, std::exp(log_decay[t * H + h]), beta[t * H + h], S, o, K);
            for (int64_t j = 0; j < V; j += W) store(out + (t * H + h) * V + j, load(o + j));
        }
    }
}

// Training: rows of L tokens from a zero state. q, k, v are [B, L, H, K or V]. Every `stride` tokens the state is kept
// in `kept` [B, H, ceil(L / stride), K, V] (the state before that token), so that backward can recompute from there.
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

// Gradient through y = x * inverse_norm(x) * root: dx = n root (dy - xn (xn . dy)), xn the normalized x.
template <class T>
void norm_backward(const T* x, const float* dy, float root, T* dx, int64_t n) {
    float inverse = inverse_norm(x, n), along = 0.0f;
    f32x16 acc{};
    for (int64_t i = 0; i < n; i += W) acc += load(x + i) * inverse * load(dy + i);
    along = sum(acc);
    for (int64_t i = 0; i < n; i += W)
        store(dx + i, root * inverse * (load(dy + i) - load(x + i) * inverse * along));
}

// One token of the backward pass. P is the decayed state before the token's own write; dS arrives as the gradient of
// the state after the token and leaves as the gradient of the state before it. All vectors are fp32.
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
    float u_dot_do = sum(udo);
    for (int64_t i = 0; i < K; ++i) {
        f32x16 dk_i{}, dq_i{};
        for (int64_t j = 0; j < N; ++j) {
            f32x16 d = load(dS + i * V + j * W) + q[i] * dO[j];
            store(dS + i * V + j * W, d);
            du[j] += k[i] * d;
            dk_i += d * u[j];
            dq_i += load(P + i * V + j * W) * dO[j];
        }
        dk[i] = sum(dk_i);
        dq[i] = sum(dq_i) + k[i] * u_dot_do;
    }
    f32x16 db{};
    for (int64_t j = 0; j < N; ++j) {
        db += du[j] * (load(v + j * W) - read[j]);
        store(dv + j * W, beta * du[j]);
        dread[j] = -beta * du[j];
    }
    *dbeta = sum(db);
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
        dk[i] += sum(dk_i);
    }
    *dg = sum(decay_gradient);
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
            for (int64_t t = first; t < last; ++t) {  // forward again, keeping the decayed state of every token
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

// Write each token's keys and values [T, G, D] to its place in the paged cache [block, position, G, D].
template <class T>
void store_kv(const T* k, const T* v, T* keys, T* values, const int64_t* positions, const int32_t* starts,
              const int32_t* table, int64_t sequences, int64_t table_width, int64_t block_size, int64_t row) {
    for (int64_t s = 0; s < sequences; ++s)
        for (int64_t t = starts[s]; t < starts[s + 1]; ++t) {
            int64_t block = table[s * table_width + positions[t] / block_size];
            int64_t place = (block * block_size + positions[t] % block_size) * row;
            std::memcpy(keys + place, k + t * row, row * sizeof(T));
            std::memcpy(values + place, v + t * row, row * sizeof(T));
        }
}

// Attention of every token over its own past, straight from the paged cache: all keys in the order of their
// positions, so that a token's result does not depend on which other tokens share the step.
template <class T>
void paged_attention(const T* q, const T* keys, const T* values, const int64_t* positions, const int32_t* starts,
                     const int32_t* table, T* out, int64_t sequences, int64_t table_width, int64_t block_size,
                     int64_t H, int64_t G, int64_t D, float scale, int threads) {
    int64_t tokens = starts[sequences], group = H / G;
    std::vector<int32_t> owner(tokens);
    for (int64_t s = 0; s < sequences; ++s)
        for (int64_t t = starts[s]; t < starts[s + 1]; ++t) owner[t] = int32_t(s);
#pragma omp parallel num_threads(threads) if (tokens * G > 1)
    {
        std::vector<float> scores, acc(group * D), queries(group * D);
#pragma omp for schedule(dynamic, 4)
        for (int64_t job = 0; job < tokens * G; ++job) {
            int64_t t = job / G, g = job % G, count = positions[t] + 1, padded = (count + W - 1) / W * W;
            const int32_t* blocks = table + owner[t] * table_width;
            scores.resize(group * padded);
            for (int64_t h = 0; h < group; ++h)
                scaled_copy(q + (t * H + g * group + h) * D, scale, queries.data() + h * D, D);
            for (int64_t p = 0; p < count; ++p) {
                const T* key = keys + ((blocks[p / block_size] * block_size + p % block_size) * G + g) * D;
                for (int64_t h = 0; h < group; ++h) {
                    f32x16 s{};
                    for (int64_t i = 0; i < D; i += W) s += load(queries.data() + h * D + i) * load(key + i);
                    scores[h * padded + p] = sum(s);
                }
            }
            float inverse_total[64];
            for (int64_t h = 0; h < group; ++h) {
                float* s = scores.data() + h * padded;
                float top = s[0];
                for (int64_t p = 1; p < count; ++p) top = s[p] > top ? s[p] : top;
                for (int64_t p = count; p < padded; ++p) s[p] = -INFINITY;
                f32x16 total{};
                for (int64_t p = 0; p < padded; p += W) {
                    f32x16 e = exp(load(s + p) - top);
                    if (p + W > count)
                        for (int64_t i = count - p; i < W; ++i) e[i] = 0.0f;
                    store(s + p, e);
                    total += e;
                }
                inverse_total[h] = 1.0f / sum(total);
            }
            std::fill(acc.begin(), acc.end(), 0.0f);
            for (int64_t p = 0; p < count; ++p) {
                const T* value = values + ((blocks[p / block_size] * block_size + p % block_size) * G + g) * D;
                for (int64_t h = 0; h < group; ++h) {
                    float weight = scores[h * padded + p];
                    for (int64_t i = 0; i < D; i += W)
                        store(acc.data() + h * D + i, load(acc.data() + h * D + i) + weight * load(value + i));
                }
            }
            for (int64_t h = 0; h < group; ++h)
                for (int64_t i = 0; i < D; i += W)
                    store(out + (t * H + g * group + h) * D + i, load(acc.data() + h * D + i) * inverse_total[h]);
        }
    }
}

// log_decay = -e^{A_log} softplus(a + dt_bias), beta = sigmoid(b), element by element.
template <class T>
void delta_gates(const T* a, const T* b, const float* A_log, const float* dt_bias, float* log_decay, float* beta,
                 int64_t tokens, int64_t H) {
    for (int64_t i = 0; i < tokens * H; ++i) {
        float x = scalar(a + i) + dt_bias[i % H];
        float softplus = x > 20.0f ? x : std::log1p(std::exp(x));
        log_decay[i] = -std::exp(A_log[i % H]) * softplus;
        beta[i] = 1.0f / (1.0f + std::exp(-scalar(b + i)));
    }
}

// ---- training ----

// Derivative of silu at x.
inline f32x16 silu_slope(f32x16 x) {
    f32x16 s = sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
}

// Rows are summed into weight gradients in this many pieces, so that the sum does not depend on the thread count.
constexpr int64_t PIECES = 16;

inline void sum_pieces(const std::vector<float>& pieces, float* total, int64_t width) {
    for (int64_t i = 0; i < width; ++i) {
        float t = 0.0f;
        for (int64_t p = 0; p < PIECES; ++p) t += pieces[p * width + i];
        total[i] = t;
    }
}

// Backward of rms_norm, and of gated_rms_norm where `gate` is given.
template <class T>
void rms_norm_backward(const T* x, const T* gate, const float* weight, float offset, float eps, const T* dy,
                       T* dx, T* dgate, float* dweight, int64_t rows, int64_t width, int threads) {
    std::vector<float> pieces(PIECES * width, 0.0f);
#pragma omp parallel for num_threads(threads)
    for (int64_t piece = 0; piece < PIECES; ++piece) {
        float* dw = pieces.data() + piece * width;
        std::vector<float> g(width);
        for (int64_t r = rows * piece / PIECES; r < rows * (piece + 1) / PIECES; ++r) {
            const T *in = x + r * width, *out = dy + r * width;
            float scale = 1.0f / std::sqrt(dot(in, in, width) / float(width) + eps);
            f32x16 along{};
            for (int64_t i = 0; i < width; i += W) {
                f32x16 d = load(out + i), normed = load(in + i) * scale, w = load(weight + i) + offset;
                if (gate) {
                    f32x16 z = load(gate + r * width + i);
                    store(dgate + r * width + i, d * normed * w * silu_slope(z));
                    d *= silu(z);
                }
                store(dw + i, load(dw + i) + d * normed);
                store(g.data() + i, d * w);
                along += d * w * normed;
            }
            float mean = sum(along) / float(width);
            for (int64_t i = 0; i < width; i += W)
                store(dx + r * width + i, scale * (load(g.data() + i) - load(in + i) * scale * mean));
        }
    }
    sum_pieces(pieces, dweight, width);
}

template <class T>
void silu_mul_backward(const T* x, const T* dy, T* dx, int64_t rows, int64_t width, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t r = 0; r < rows; ++r) {
        const T *gate = x + 2 * r * width, *up = gate + width;
        T *dgate = dx + 2 * r * width, *dup = dgate + width;
        for (int64_t i = 0; i < width; i += W) {
            f32x16 d = load(dy + r * width + i), g = load(gate + i);
            store(dgate + i, d * load(up + i) * silu_slope(g));
            store(dup + i, d * silu(g));
        }
    }
}

// The convolution's value before SiLU at token t of a row that starts at x.
template <class T>
inline f32x16 conv_at(const T* x, const f32x16* w, int64_t t, int64_t channels, int64_t taps) {
    f32x16 y{};
    for (int64_t j = t < taps - 1 ? taps - 1 - t : 0; j < taps; ++j) y += w[j] * load(x + (t - taps + 1 + j) * channels);
    return y;
}

// The short convolution over whole rows [B, L, C] that start from nothing.
template <class T>
void short_conv_forward(const T* x, const float* weight, T* out, int64_t B, int64_t L, int64_t C, int64_t taps,
                        int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t b = 0; b < B; ++b)
        for (int64_t c = 0; c < C; c += W) {
            f32x16 w[8];
            for (int64_t j = 0; j < taps; ++j) w[j] = load(weight + j * C + c);
            for (int64_t t = 0; t < L; ++t)
                store(out + (b * L + t) * C + c, silu(conv_at(x + b * L * C + c, w, t, C, taps)));
        }
}

template <class T>
void short_conv_backward(const T* x, const float* weight, const T* dy, T* dx, float* dweight, int64_t B, int64_t L,
                         int64_t C, int64_t taps, int threads) {
    std::vector<float> pieces(PIECES * taps * C, 0.0f);
#pragma omp parallel for num_threads(threads)
    for (int64_t piece = 0; piece < PIECES; ++piece)
        for (int64_t b = B * piece / PIECES; b < B * (piece + 1) / PIECES; ++b)
            for (int64_t c = 0; c < C; c += W) {
                const T *in = x + b * L * C + c, *out = dy + b * L * C + c;
                float* dw = pieces.data() + piece * taps * C + c;
                f32x16 w[8], dw_sum[8] = {}, dp[8] = {};  // dp: gradients before SiLU of tokens t .. t + taps - 1
                for (int64_t j = 0; j < taps; ++j) w[j] = load(weight + j * C + c);
                for (int64_t t = L - 1; t >= 0; --t) {
                    for (int64_t j = taps - 1; j > 0; --j) dp[j] = dp[j - 1];
                    dp[0] = load(out + t * C) * silu_slope(conv_at(in, w, t, C, taps));
                    f32x16 here = load(in + t * C), d{};
                    for (int64_t j = 0; j < taps; ++j) {  // token t is tap taps - 1 - j of token t + j
                        d += w[taps - 1 - j] * dp[j];
                        dw_sum[taps - 1 - j] += here * dp[j];
                    }
                    store(dx + (b * L + t) * C + c, d);
                }
                for (int64_t j = 0; j < taps; ++j) store(dw + j * C, load(dw + j * C) + dw_sum[j]);
            }
    sum_pieces(pieces, dweight, taps * C);
}

// Turns rows of logits into the gradient weight * (softmax - one-hot), in place, and gives each row's -log p(target).
template <class T>
void softmax_gradient(T* logits, const int64_t* targets, const float* weights, float* losses, int64_t rows,
                      int64_t width, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t r = 0; r < rows; ++r) {
        T* row = logits + r * width;
        f32x16 most = load(row), total{};
        for (int64_t i = W; i < width; i += W) {
            f32x16 v = load(row + i);
            most = v > most ? v : most;
        }
        float top = most[0];
        for (int64_t i = 1; i < W; ++i) top = most[i] > top ? most[i] : top;
        for (int64_t i = 0; i < width; i += W) total += exp(load(row + i) - top);
        float norm = sum(total), target = scalar(row + targets[r]);
        losses[r] = std::log(norm) + top - target;
        float scale = weights[r] / norm;
        for (int64_t i = 0; i < width; i += W) store(row + i, exp(load(row + i) - top) * scale);
        f32x16 one[1] = {load(row + targets[r] / W * W)};
        one[0][targets[r] % W] = weights[r] * (std::exp(-losses[r]) - 1.0f);
        store(row + targets[r] / W * W, one[0]);
    }
}

}  // namespace

// The C interface: every function once for float32 and once for bfloat16.
#define T float
#define EXPORT(name) name##_f32
#include "cpu_exports.inc"
#undef T
#undef EXPORT
#define T bf16
#define EXPORT(name) name##_bf16
#include "cpu_exports.inc"
