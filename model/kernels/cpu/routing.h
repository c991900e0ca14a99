// Choosing the experts of tokens, and counting the choices.

#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "../vectors.h"

namespace {

// The K experts with the highest logits of every token, highest first, ties in the order of the experts. Their weights
// are a softmax over the chosen ones, or their shares of a softmax over all experts. NaN affects only its own token.
// Rows of logits are `stride` elements apart.
inline void top_k_softmax(const float* logits, float* weights, int64_t* chosen, int64_t tokens, int64_t E,
                          int64_t stride, int64_t K, bool over_all, int threads) {
#pragma omp parallel num_threads(threads) if (tokens * E > 16384)
    {
        std::vector<char> taken(E);
#pragma omp for
        for (int64_t t = 0; t < tokens; ++t) {
            const float* s = logits + t * stride;
            std::fill(taken.begin(), taken.end(), 0);
            for (int64_t k = 0; k < K; ++k) {
                int64_t best = -1;
                for (int64_t e = 0; e < E; ++e)
                    if (!taken[e] && (best < 0 || s[e] > s[best])) best = e;
                taken[best] = 1, chosen[t * K + k] = best;
            }
            float top = s[chosen[t * K]], total = 0.0f;
            for (int64_t e = 0; e < E; ++e)
                if (over_all || taken[e]) total += std::exp(s[e] - top);
            for (int64_t k = 0; k < K; ++k) weights[t * K + k] = std::exp(s[chosen[t * K + k]] - top) / total;
        }
    }
}

// The entropy of a softmax over E numbers, in nats; NaN where that is.
INLINE float softmax_entropy(const float* x, int64_t E) {
    float top = x[0];
    for (int64_t e = 1; e < E; ++e) top = x[e] > top ? x[e] : top;
    f32x16 total{}, weighted{};
    for (int64_t i = 0; i < E; i += W) {
        int64_t count = std::min(W, E - i);
        f32x16 below = max(splat(-87.0f), (count == W ? load(x + i) : FirstLanes{count}.load(x + i)) - top);
        below = select_lanes(below, 0, 0, int32_t(count), -87.0f);  // of which e^x is as good as zero
        f32x16 share = exp(below);
        total += share, weighted += share * below;
    }
    float sum = reduce_add(total);
    return std::log(sum) - reduce_add(weighted) / sum;
}

// pairs [N, L, E] are increased by the choices of weight other than zero, by group of the token, layer and expert;
// entropy and counted [L] are set to the sum of the tokens' entropies, and to how many are not NaN. logits are
// [L, T, E], weights and experts [L, T, K].
inline void count_routing(const float* logits, const float* weights, const int64_t* experts, const int64_t* groups,
                          int64_t* pairs, double* entropy, int64_t* counted, int64_t L, int64_t T, int64_t E, int64_t K,
                          int threads) {
#pragma omp parallel for num_threads(threads) if (L * T * E > 32768)
    for (int64_t l = 0; l < L; ++l) {
        double sum = 0;
        int64_t defined = 0;
        for (int64_t t = 0, at = l * T; t < T; ++t, ++at) {
            for (int64_t k = at * K; k < (at + 1) * K; ++k)
                pairs[(groups[t] * L + l) * E + experts[k]] += weights[k] != 0;
            double h = softmax_entropy(logits + at * E, E);
            if (h == h) sum += h, ++defined;
        }
        entropy[l] = sum, counted[l] = defined;
    }
}

}  // namespace
