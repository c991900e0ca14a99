// Choosing the experts of a token.

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

}  // namespace
