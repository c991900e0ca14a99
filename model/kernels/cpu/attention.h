// The paged key/value cache: storing keys and values, and attention over them.
//
// A row is one query: one head of one token. Rows that read the same keys are computed together, but each row adds over
// its own positions in ascending order, in tiles that start at fixed positions. So neither the rows that share a job
// nor the number of threads affect the bits of a row.

#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "attention_tile.h"

namespace {

// Elements between neighbouring blocks, positions and heads of a cache.
struct Strides { int64_t block, position, head; };

// Copies each token's keys and values (`key_row` and `value_row` elements) to its slot in the cache. Without values
// (null), only the keys.
template <class T>
void store_kv(const T* k, const T* v, T* keys, T* values, const int64_t* positions, const int32_t* starts,
              const int32_t* table, int64_t sequences, int64_t table_width, int64_t block_size, int64_t key_row,
              int64_t value_row, int64_t key_stride, int64_t value_stride, int threads) {
    int64_t tokens = starts[sequences];
#pragma omp parallel for num_threads(threads) if (tokens * (key_row + value_row) > 65536)
    for (int64_t t = 0; t < tokens; ++t) {
        int64_t s = std::upper_bound(starts, starts + sequences + 1, t) - starts - 1;
        int64_t block = table[s * table_width + positions[t] / block_size];
        int64_t place = block * block_size + positions[t] % block_size;
        std::memcpy(keys + place * key_row, k + t * key_stride, key_row * sizeof(T));
        if (v) std::memcpy(values + place * value_row, v + t * value_stride, value_row * sizeof(T));
    }
}

constexpr int64_t MAX_ROWS = 32;  // rows of a job

// The offsets of the keys and values of TILE positions. A job reads the positions [start + low, start + high); key
// offsets outside of them repeat that of `low`, because scores are computed 16 / R at a time and must have something to
// read.
struct Tile {
    int64_t start, low, high;
    int64_t key[TILE], value[TILE];
};

// One call of paged_attention.
template <class T> struct Attention {
    const T *q, *keys, *values;
    const int64_t* positions;
    const int32_t *starts, *table;
    const float* sinks;  // one score per head that takes part in the softmax, or null
    T* out;
    int64_t sequences, table_width, block_size, heads, groups, key_width, value_width;
    Strides key_strides, value_strides;
    float scale;
    int64_t window;  // positions that a token attends to, its own included
};

// The rows of one unit of work: `tokens` tokens times, in each of `groups` key/value heads, `heads` query heads
// starting at `head`. A job with more than one group has all query heads of each.
struct Job { int64_t sequence, token, tokens, group, groups, head, heads; };

// The rows of a job, ordered by group, then by token, with the state of their softmax.
struct Rows {
    int64_t count, first[MAX_ROWS], end[MAX_ROWS];  // each attends to the positions [first, end)
    int64_t token[MAX_ROWS], head[MAX_ROWS];
    float top[MAX_ROWS], total[MAX_ROWS];  // highest score, sum of e^(score - top)
    std::vector<f32x16> memory;
    float *queries, *acc, *weights;  // [MAX_ROWS, key width], [MAX_ROWS, value width], [MAX_ROWS, TILE]

    Rows(int64_t key_width, int64_t value_width) : memory(MAX_ROWS * (key_width + value_width + TILE) / W) {
        queries = reinterpret_cast<float*>(memory.data());
        acc = queries + MAX_ROWS * key_width;
        weights = acc + MAX_ROWS * value_width;
    }
};

template <class T> void begin_rows(const Attention<T>& a, const Job& job, Rows& rows) {
    int64_t group = a.heads / a.groups, each = job.tokens * job.heads;
    rows.count = job.groups * each;
    for (int64_t r = 0; r < rows.count; ++r) {
        int64_t t = job.token + r % each / job.heads, i = 0;
        int64_t h = (job.group + r / each) * group + job.head + r % job.heads;
        rows.token[r] = t, rows.head[r] = h;
        rows.end[r] = a.positions[t] + 1;
        rows.first[r] = rows.end[r] > a.window ? rows.end[r] - a.window : 0;
        rows.top[r] = a.sinks ? a.sinks[h] : -INFINITY;
        rows.total[r] = a.sinks ? 1.0f : 0.0f;
        const T* q = a.q + (t * a.heads + h) * a.key_width;
        float* query = rows.queries + r * a.key_width;
        for (; i + 2 * W <= a.key_width; i += 2 * W) {
            Pair pair = load_pair(q + i);
            store(query + i, pair.even * a.scale);
            store(query + i + W, pair.odd * a.scale);
        }
        if (i < a.key_width) store(query + i, load(q + i) * a.scale);
    }
    std::fill(rows.acc, rows.acc + rows.count * a.value_width, 0.0f);
}

template <class T> void end_rows(const Attention<T>& a, Rows& rows) {
    for (int64_t r = 0; r < rows.count; ++r) {
        T* out = a.out + (rows.token[r] * a.heads + rows.head[r]) * a.value_width;
        float share = 1.0f / rows.total[r], *acc = rows.acc + r * a.value_width;
        int64_t i = 0;
        for (; i + 2 * W <= a.value_width; i += 2 * W)
            store_pair(out + i, {load(acc + i) * share, load(acc + i + W) * share});
        if (i < a.value_width) store(out + i, load(acc + i) * share);
    }
}

template <class T> void find_tile(const Attention<T>& a, int64_t sequence, int64_t first, int64_t end, Tile& tile) {
    tile.start = first / TILE * TILE, tile.low = first - tile.start;
    tile.high = std::min(end - tile.start, TILE);
    const int32_t* block = a.table + sequence * a.table_width + first / a.block_size;
    int64_t place = first % a.block_size, run;
    for (int64_t p = tile.low; p < tile.high; p += run, place = 0, ++block) {
        run = std::min(a.block_size - place, tile.high - p);
        for (int64_t i = 0; i < run; ++i) {
            tile.key[p + i] = *block * a.key_strides.block + (place + i) * a.key_strides.position;
            tile.value[p + i] = *block * a.value_strides.block + (place + i) * a.value_strides.position;
        }
    }
    std::fill(tile.key, tile.key + tile.low, tile.key[tile.low]);
    std::fill(tile.key + tile.high, tile.key + TILE, tile.key[tile.low]);
}

// How many positions every group processes before the next ones: with several groups, 16, so that the cache is read in
// the order of memory, where the groups of a position are neighbours.
inline int64_t positions_per_step(const Job& job) { return job.groups > 1 ? W : TILE; }

// Prefetches what one group reads of the positions [from, to) of a tile. Inlined: a call has no effect that the compiler
// knows of, so it may leave it out, and then attention over keys in memory takes more than twice as long.
template <class T>
INLINE void prefetch(const T* memory, const int64_t* offsets, int64_t from, int64_t to, int64_t width) {
    for (int64_t p = from; p < to; ++p)
        for (int64_t i = 0; i < width; i += 64 / int64_t(sizeof(T))) __builtin_prefetch(memory + offsets[p] + i, 0, 2);
}

// Scores of R rows from row `r` against the tile's positions [from, to), rounded up to a multiple of 16 / R: the extra
// scores are not used.
template <class T, int64_t R>
void score_rows(const Attention<T>& a, Rows& rows, int64_t r, const T* keys, const Tile& tile, int64_t from,
                int64_t to) {
    for (int64_t p = from; p < to; p += 16 / R)
        score<T, R>(rows.queries + r * a.key_width, keys, tile.key + p, a.key_width, rows.weights + r * TILE + p);
}

// Softmax of all rows over a tile; sums of earlier tiles are rescaled.
inline void softmax_rows(Rows& rows, const Tile& tile, int64_t width) {
    for (int64_t r = 0; r < rows.count; ++r) {
        int64_t begin = std::max(rows.first[r] - tile.start, int64_t(0));
        int64_t end = std::min(rows.end[r] - tile.start, TILE);
        if (begin >= end) continue;
        float factor = softmax_tile(rows.weights + r * TILE, begin, end, &rows.top[r], &rows.total[r]);
        if (factor == 1.0f) continue;
        float* acc = rows.acc + r * width;
        for (int64_t i = 0; i < width; i += W) store(acc + i, load(acc + i) * factor);
    }
}

// Adds the weighted values of the tile's positions [from, to) to R rows from row `r`, in the order of positions.
template <class T, int64_t R>
void add_rows(Rows& rows, int64_t r, const T* values, const Tile& tile, int64_t width, int64_t from, int64_t to) {
    int64_t begin[R], end[R], low = from, high = to;
    float *acc = rows.acc + r * width, *weights = rows.weights + r * TILE;
    for (int64_t i = 0; i < R; ++i) {
        begin[i] = std::max(rows.first[r + i] - tile.start, from), end[i] = std::min(rows.end[r + i] - tile.start, to);
        low = std::max(low, begin[i]), high = std::min(high, end[i]);
    }
    if (low > high) low = high = to;  // no position is visible to all rows
    auto add_one = [&](int64_t i, int64_t first, int64_t last) {
        add_values<T, 1>(weights + i * TILE, values, tile.value, first, last, acc + i * width, width);
    };
    for (int64_t i = 0; i < R; ++i) add_one(i, begin[i], std::min(end[i], low));
    add_values<T, R>(weights, values, tile.value, low, high, acc, width);
    for (int64_t i = 0; i < R; ++i) add_one(i, std::max(high, begin[i]), end[i]);
}

// Calls work(R, r) for the rows [begin, end) in blocks of R rows, starting at r.
template <class Work> void in_blocks(int64_t begin, int64_t end, Work work) {
    int64_t r = begin;
    for (; r + BLOCK <= end; r += BLOCK) work(std::integral_constant<int64_t, BLOCK>{}, r);
    for (; r + 2 <= end; r += 2) work(std::integral_constant<int64_t, 2>{}, r);
    for (; r < end; ++r) work(std::integral_constant<int64_t, 1>{}, r);
}

template <class T> void attend(const Attention<T>& a, const Job& job, Rows& rows) {
    begin_rows(a, job, rows);
    int64_t first = *std::min_element(rows.first, rows.first + rows.count);
    int64_t end = *std::max_element(rows.end, rows.end + rows.count), each = job.tokens * job.heads;
    int64_t step = positions_per_step(job);
    const T *keys = a.keys + job.group * a.key_strides.head, *values = a.values + job.group * a.value_strides.head;
    Tile tile, next;
    for (find_tile(a, job.sequence, first, end, tile);; tile = next) {
        bool more = tile.start + TILE < end;
        if (more) find_tile(a, job.sequence, tile.start + TILE, end, next);
        for (int64_t p = tile.low / step * step; p < tile.high; p += step) {
            int64_t to = std::min(p + step, tile.high), soon = std::min(to + step, tile.high);
            for (int64_t g = 0; g < job.groups; ++g) {
                const T *own = keys + g * a.key_strides.head, *later = values + g * a.value_strides.head;
                if (to < tile.high) prefetch(own, tile.key, to, soon, a.key_width);
                else prefetch(later, tile.value, tile.low, std::min(tile.low + step, tile.high), a.value_width);
                in_blocks(g * each, (g + 1) * each,
                          [&](auto R, int64_t r) { score_rows<T, R.value>(a, rows, r, own, tile, p / W * W, to); });
            }
        }
        softmax_rows(rows, tile, a.value_width);
        for (int64_t p = tile.low; p < tile.high; p += step) {
            int64_t to = std::min(p + step, tile.high), soon = std::min(to + step, tile.high);
            for (int64_t g = 0; g < job.groups; ++g) {
                const T *own = values + g * a.value_strides.head, *later = keys + g * a.key_strides.head;
                if (to < tile.high) prefetch(own, tile.value, to, soon, a.value_width);
                else if (more) prefetch(later, next.key, 0, std::min(step, next.high), a.key_width);
                in_blocks(g * each, (g + 1) * each,
                          [&](auto R, int64_t r) { add_rows<T, R.value>(rows, r, own, tile, a.value_width, p, to); });
            }
        }
        if (!more) break;
    }
    end_rows(a, rows);
}

// Splits the queries into jobs: large ones, because a job reads every key once, but enough for all threads.
template <class T> std::vector<Job> attention_jobs(const Attention<T>& a, int64_t threads) {
    int64_t group = a.heads / a.groups;
    int64_t rows = std::clamp(a.starts[a.sequences] * a.heads / threads, int64_t(1), MAX_ROWS);
    int64_t heads = std::min(group, rows);
    std::vector<Job> jobs;
    for (int64_t s = 0; s < a.sequences; ++s) {
        int64_t length = a.starts[s + 1] - a.starts[s];
        if (length == 0) continue;
        int64_t tokens = std::min(length, rows / heads), groups = std::min(a.groups, rows / (heads * tokens));
        for (int64_t t = 0; t < length; t += tokens)
            for (int64_t g = 0; g < a.groups; g += groups)
                for (int64_t h = 0; h < group; h += heads)
                    jobs.push_back({s, a.starts[s] + t, std::min(tokens, length - t), g,
                                    std::min(groups, a.groups - g), h, std::min(heads, group - h)});
    }
    return jobs;
}

template <class T> void paged_attention(const Attention<T>& a, int threads) {
    std::vector<Job> jobs = attention_jobs(a, threads);
#pragma omp parallel num_threads(threads) if (jobs.size() > 1)
    {
        Rows rows(a.key_width, a.value_width);
#pragma omp for schedule(dynamic)
        for (size_t j = 0; j < jobs.size(); ++j) attend(a, jobs[j], rows);
    }
}

}  // namespace
