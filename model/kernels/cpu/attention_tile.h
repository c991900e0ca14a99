// The inner loops of attention: scores of a few rows against a tile of positions, softmax, and the weighted sum of
// values.
//
// `offsets` are the places of a tile's keys or values in the cache, in elements from position 0 of block 0.

#pragma once

#include <cmath>

#include "../vectors.h"

namespace {

constexpr int64_t TILE = 64;  // positions whose scores are kept at a time
// As many as the registers hold: rows that share a loaded key, and accumulators of 16 lanes.
constexpr int64_t BLOCK = LANES == 16 ? 4 : 2, SUMS = LANES == 16 ? 16 : 4;

// scores[r, p] = queries[r] . key[p] for R rows and 16 / R keys, TOGETHER keys at a time.
template <class T, int64_t R>
void score(const float* queries, const T* keys, const int64_t* offsets, int64_t width, float* scores) {
    constexpr int64_t P = 16 / R, TOGETHER = SUMS / R;
    f32x16 all[16];
#pragma GCC unroll 16
    for (int64_t first = 0; first < P; first += TOGETHER) {
        f32x16 acc[R][TOGETHER];
#pragma GCC unroll 16
        for (int64_t n = 0; n < SUMS; ++n) acc[n / TOGETHER][n % TOGETHER] = f32x16{};
        int64_t i = 0;
        for (; i + 2 * W <= width; i += 2 * W) {
#pragma GCC unroll 16
            for (int64_t p = 0; p < TOGETHER; ++p) {
                Pair key = load_pair(keys + offsets[first + p] + i);
#pragma GCC unroll 16
                for (int64_t r = 0; r < R; ++r) {
                    acc[r][p] += load(queries + r * width + i) * key.even;
                    acc[r][p] += load(queries + r * width + i + W) * key.odd;
                }
            }
        }
        if (i < width)
#pragma GCC unroll 16
            for (int64_t p = 0; p < TOGETHER; ++p)
#pragma GCC unroll 16
                for (int64_t r = 0; r < R; ++r)
                    acc[r][p] += load(queries + r * width + i) * load(keys + offsets[first + p] + i);
#pragma GCC unroll 16
        for (int64_t n = 0; n < SUMS; ++n)
            all[n / TOGETHER * P + first + n % TOGETHER] = acc[n / TOGETHER][n % TOGETHER];
    }
    f32x16 found = reduce_add_each(all);
    for (int64_t r = 0; r < R; ++r)
        std::memcpy(scores + r * TILE, reinterpret_cast<const float*>(&found) + r * P, P * sizeof(float));
}

// acc[r, columns] += weights[r, p] * values[p, columns] over p, for R rows and 32 * PAIRS columns.
template <class T, int64_t R, int64_t PAIRS>
void add_columns(const float* weights, const T* values, const int64_t* offsets, int64_t begin, int64_t end, float* acc,
                 int64_t width) {
    f32x16 sum[R][2 * PAIRS];
#pragma GCC unroll 16
    for (int64_t r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int64_t j = 0; j < 2 * PAIRS; ++j) sum[r][j] = load(acc + r * width + j * W);
    for (int64_t p = begin; p < end; ++p)
#pragma GCC unroll 16
        for (int64_t j = 0; j < PAIRS; ++j) {
            Pair value = load_pair(values + offsets[p] + 2 * j * W);
#pragma GCC unroll 16
            for (int64_t r = 0; r < R; ++r) {
                sum[r][2 * j] += weights[r * TILE + p] * value.even;
                sum[r][2 * j + 1] += weights[r * TILE + p] * value.odd;
            }
        }
#pragma GCC unroll 16
    for (int64_t r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int64_t j = 0; j < 2 * PAIRS; ++j) store(acc + r * width + j * W, sum[r][j]);
}

// The same over all columns.
template <class T, int64_t R>
void add_values(const float* weights, const T* values, const int64_t* offsets, int64_t begin, int64_t end, float* acc,
                int64_t width) {
    if (begin >= end) return;
    int64_t i = 0;
    if (LANES == 16)  // enough registers for 64 columns
        for (; i + 4 * W <= width; i += 4 * W)
            add_columns<T, R, 2>(weights, values + i, offsets, begin, end, acc + i, width);
    for (; i + 2 * W <= width; i += 2 * W)
        add_columns<T, R, 1>(weights, values + i, offsets, begin, end, acc + i, width);
    if (i < width)
        for (int64_t r = 0; r < R; ++r) {
            f32x16 sum = load(acc + r * width + i);
            for (int64_t p = begin; p < end; ++p) sum += weights[r * TILE + p] * load(values + offsets[p] + i);
            store(acc + r * width + i, sum);
        }
}

// Online softmax (arXiv 1805.02867): turns the scores [begin, end) of a tile into weights e^(score - top), with `top`
// the highest score so far, and the others into zeros. Returns the factor by which everything summed before must be
// scaled.
inline float softmax_tile(float* scores, int64_t begin, int64_t end, float* top, float* total) {
    f32x16 highest = splat(*top), added{};
    for (int64_t p = 0; p < TILE; p += W) {
        f32x16 s = select_lanes(load(scores + p), int32_t(p), int32_t(begin), int32_t(end), -INFINITY);
        store(scores + p, s);
        highest = max(s, highest);
    }
    float high = reduce_max(highest);
    for (int64_t p = 0; p < TILE; p += W) {
        f32x16 e = select_lanes(exp(load(scores + p) - high), int32_t(p), int32_t(begin), int32_t(end), 0.0f);
        store(scores + p, e);
        added += e;
    }
    float factor = std::exp(*top - high);
    *total = *total * factor + reduce_add(added);
    *top = high;
    return factor;
}

}  // namespace
