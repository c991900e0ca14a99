// The recurrence of Mamba-2 (arXiv 2405.21060) on served sequences.

#pragma once

#include <algorithm>
#include <cmath>

#include "elementwise.h"

namespace {

// One token on one head, S being [P, N]:  S <- decay S + x B^T;  y = S C.  x is already multiplied by the time step.
inline void mamba_step(const float* x, const float* B, const float* C, float decay, float* S, float* y, int64_t P,
                       int64_t N) {
    for (int64_t p = 0; p < P; p += W) {
        f32x16 read[W];
        for (int64_t i = 0; i < W; i += 4) {  // four rows of the state at a time
            f32x16 acc[4] = {f32x16{}, f32x16{}, f32x16{}, f32x16{}};
            for (int64_t n = 0; n < N; n += W) {
                f32x16 b = load(B + n), c = load(C + n);
#pragma GCC unroll 4
                for (int64_t j = 0; j < 4; ++j) {
                    float* at = S + (p + i + j) * N + n;
                    f32x16 s = decay * load(at) + x[p + i + j] * b;
                    store(at, s);
                    acc[j] += s * c;
                }
            }
            for (int64_t j = 0; j < 4; ++j) read[i + j] = acc[j];
        }
        store(y + p, reduce_add_each(read));
    }
}

// All tokens of ragged sequences. `state` is [row, H, P, N]; head h reads B and C of group h / (H / G). P and N are
// multiples of 16, at most 256.
template <class T>
void mamba_scan(const T* x, const float* dt, const float* A, const T* B, const T* C, float* state, const int32_t* rows,
                const int32_t* starts, T* out, int64_t sequences, int64_t H, int64_t P, int64_t G, int64_t N,
                int threads) {
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (starts[sequences] * H > 4)
    for (int64_t job = 0; job < sequences * H; ++job) {
        int64_t s = job / H, h = job % H, g = h / (H / G);
        float *S = state + (rows[s] * H + h) * P * N, xs[256], Bs[256], Cs[256], y[256];
        for (int64_t t = starts[s]; t < starts[s + 1]; ++t) {
            float step = dt[t * H + h];
            scaled_copy(x + (t * H + h) * P, step, xs, P);
            scaled_copy(B + (t * G + g) * N, 1.0f, Bs, N);
            scaled_copy(C + (t * G + g) * N, 1.0f, Cs, N);
            mamba_step(xs, Bs, Cs, std::exp(step * A[h]), S, y, P, N);
            for (int64_t p = 0; p < P; p += W) store(out + (t * H + h) * P + p, load(y + p));
        }
    }
}

// The time steps: softplus(dt + dt_bias), clamped to [low, high].
template <class T>
void time_steps(const T* dt, const float* dt_bias, float* out, int64_t tokens, int64_t H, float low, float high,
                int threads) {
#pragma omp parallel for num_threads(threads) if (tokens * H > 4096)
    for (int64_t i = 0; i < tokens * H; ++i)
        out[i] = std::clamp(softplus(load_scalar(dt + i) + dt_bias[i % H]), low, high);
}

}  // namespace
