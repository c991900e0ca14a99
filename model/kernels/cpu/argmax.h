// Greedy sampling: the index of the highest score.

#pragma once

#include <algorithm>
#include <cmath>

#include "../vectors.h"

namespace {

// The index of the largest of n numbers, the first of equals; 0 if all are NaN.
inline int64_t argmax(const float* x, int64_t n) {
    constexpr int64_t BLOCK = 16 * W;
    float best = -INFINITY;
    int64_t block = 0;
    for (int64_t start = 0; start < n; start += BLOCK) {
        int64_t end = std::min(start + BLOCK, n), i = start;
        f32x16 lanes = splat(-INFINITY);
        for (; i + W <= end; i += W) lanes = max(load(x + i), lanes);
        float found = reduce_max(lanes);
        for (; i < end; ++i) found = std::max(found, x[i]);
        if (found > best) best = found, block = start;
    }
    for (int64_t i = block; i < std::min(block + BLOCK, n); ++i)
        if (x[i] == best) return i;
    return 0;
}

inline void argmax_rows(const float* x, int64_t* indices, int64_t rows, int64_t width, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > 262144)
    for (int64_t r = 0; r < rows; ++r) indices[r] = argmax(x + r * width, width);
}

}  // namespace
