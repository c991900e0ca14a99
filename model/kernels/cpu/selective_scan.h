// The recurrence of Mamba-1 (arXiv 2312.00752) on served sequences: every channel has a state of N numbers, each of which
// decays at a rate of its own.

#pragma once

#include "elementwise.h"

namespace {

template <class T> struct SelectiveScan {
    const T *x, *dt, *B, *C, *gate;  // [tokens, channels], B and C [tokens, N]
    const float *dt_bias, *A_log, *D;  // [channel], A_log [channel, N]
    float* state;  // [row, channel, N]
    const int32_t *rows, *starts;
    T* out;  // [tokens, channels]
    int64_t sequences, channels, N;
};

// One token of W channels, the first of which is `c`; A and S are [W, N].
//   d = softplus(dt + dt_bias);  S <- e^(d A) S + d x B^T;  out = (S C + D x) silu(gate)
template <class T> void selective_step(const SelectiveScan<T>& p, const float* A, float* S, int64_t t, int64_t c) {
    int64_t at = t * p.channels + c;
    f32x16 read[W], x = load(p.x + at);
    for (int64_t j = 0; j < W; ++j) {
        float step = softplus(load_scalar(p.dt + at + j) + p.dt_bias[c + j]);
        float write = step * load_scalar(p.x + at + j);
        f32x16 acc{};
        for (int64_t n = j * p.N, i = 0; i < p.N; i += W) {
            f32x16 s = exp(step * load(A + n + i)) * load(S + n + i) + write * load(p.B + t * p.N + i);
            store(S + n + i, s);
            acc += s * load(p.C + t * p.N + i);
        }
        read[j] = acc;
    }
    f32x16 y = reduce_add_each(read) + load(p.D + c) * x;
    store(p.out + at, y * silu(load(p.gate + at)));
}

// All tokens of ragged sequences. Channels and N are multiples of 16, N at most 256.
template <class T> void selective_scan(const SelectiveScan<T>& p, int threads) {
    int64_t groups = p.channels / W;
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (p.starts[p.sequences] * p.channels > 1024)
    for (int64_t job = 0; job < p.sequences * groups; ++job) {
        int64_t s = job / groups, c = job % groups * W;
        float A[W * 256], *S = p.state + (p.rows[s] * p.channels + c) * p.N;
        for (int64_t i = 0; i < W * p.N; i += W) store(A + i, -exp(load(p.A_log + c * p.N + i)));
        for (int64_t t = p.starts[s]; t < p.starts[s + 1]; ++t) selective_step(p, A, S, t, c);
    }
}

}  // namespace
