// The short causal convolution of served sequences.

#pragma once

#include "../vectors.h"

namespace {

// Causal depthwise convolution with J taps, with or without (null) a bias, optionally followed by SiLU. `state` holds
// the last J - 1 inputs of each sequence: [row, J - 1, channel], oldest first. `weight` is [tap, channel].
template <class T, int64_t J>
void short_conv(const T* x, const float* weight, const float* bias, float* state, const int32_t* rows,
                const int32_t* starts, T* out, int64_t sequences, int64_t channels, bool activate, int threads) {
    auto convolve = [&](int64_t s, int64_t c, auto lanes) {  // the channels from c
        float* history = state + rows[s] * (J - 1) * channels + c;
        f32x16 past[J], w[J], start = bias ? lanes.load(bias + c) : f32x16{};
        for (int64_t j = 0; j < J; ++j) w[j] = lanes.load(weight + j * channels + c);
        for (int64_t j = 0; j + 1 < J; ++j) past[j] = lanes.load(history + j * channels);
        for (int64_t t = starts[s]; t < starts[s + 1]; ++t) {
            past[J - 1] = lanes.load(x + t * channels + c);
            f32x16 y = start;
            for (int64_t j = 0; j < J; ++j) y += w[j] * past[j];
            for (int64_t j = 0; j + 1 < J; ++j) past[j] = past[j + 1];
            lanes.store(out + t * channels + c, activate ? silu(y) : y);
        }
        for (int64_t j = 0; j + 1 < J; ++j) lanes.store(history + j * channels, past[j]);
    };
    int64_t blocks = (channels + W - 1) / W;
#pragma omp parallel for num_threads(threads) if (starts[sequences] * channels > 8192)
    for (int64_t job = 0; job < sequences * blocks; ++job) {
        int64_t s = job / blocks, c = job % blocks * W;
        if (c + W <= channels) convolve(s, c, AllLanes{});
        else convolve(s, c, FirstLanes{channels - c});
    }
}

}  // namespace
