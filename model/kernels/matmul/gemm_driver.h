// From whole matrices to microkernels: how the work is split over threads, and the plain and the grouped product.

#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "helper.h"
#include "microkernel.h"

namespace {

// Rows of x as In: x itself if it is so already and need not be a copy, otherwise rows in `scratch`.
template <class In, class T>
Activations<In> as_compute_type(const T* x, int64_t rows, int64_t inputs, Scratch& scratch, const Workers& workers) {
    int64_t stride = rows > 1 ? row_stride<In>(inputs) : row_size<In>(inputs);
    if constexpr (std::is_same<T, In>::value)
        if (stride == inputs && !workers.helper) return {x, stride};
    In* out = scratch.reserve<In>(rows * stride);
#pragma omp parallel for num_threads(workers.threads) if (rows * inputs > 65536)
    for (int64_t r = 0; r < rows; ++r) convert_row(x + r * inputs, inputs, out + r * stride);
    return {out, stride};
}

constexpr int64_t FEW_ROWS = 4 * MAX_ROWS;  // up to here each weight is read from memory once, panel by panel
constexpr int64_t PREFETCH_DISTANCE = 8 << 10;  // bytes, where weights are read once; by measurement

// Panels per job: enough to read memory at full speed, and several jobs per thread.
inline int64_t panels_per_job(const PackedMatrix& m, int64_t panels, int64_t threads) {
    int64_t fit = (256 << 10) / m.panel_bytes(), fair = panels / (4 * threads);
    int64_t count = fit < fair ? fit : fair;
    return count < 1 ? 1 : count;
}

// Applies the scales of INT8 and the bias.
inline void scale_and_bias(const PackedMatrix& m, int64_t panel, int64_t rows, float* sums) {
    for (int64_t v = 0; v < PANEL; v += LANES) {
        const float* scales = static_cast<const float*>(m.scales);
        f32v scale = m.format == INT8 ? load<f32v>(scales + panel * PANEL + v) : splat<f32v>(1.0f);
        f32v bias = m.bias ? load<f32v>(m.bias + panel * PANEL + v) : f32v{};
        for (int64_t r = 0; r < rows; ++r)
            store(sums + r * PANEL + v, load<f32v>(sums + r * PANEL + v) * scale + bias);
    }
}

// All rows times the panels [first, last). `sink(row, count, panel, sums)` receives finished sums [count, 32].
//
// Up to four tiles of rows: each panel is multiplied by all tiles while the next panel is prefetched. More tiles: each
// tile is multiplied by all panels.
template <class In, class Sink>
void multiply(const Activations<In>& x, int64_t rows, const PackedMatrix& m, int64_t first, int64_t last, Sink sink) {
    alignas(64) float sums[MAX_ROWS * PANEL];
    int64_t size = m.panel_bytes(), tiles = (rows + MAX_ROWS - 1) / MAX_ROWS;
    bool few = rows <= FEW_ROWS;
    auto multiply_tile = [&](int64_t t, int64_t p) {
        int64_t row = rows * t / tiles, count = rows * (t + 1) / tiles - row;
        const uint8_t* w = m.panel(p);
        int64_t passes = VECTORS / vectors_at_once(count), parts = tiles * passes;
        Prefetch prefetch{w + PREFETCH_DISTANCE, step_bytes(m.format), 0};
        if (few && parts > 1)
            prefetch = {w + size + size / parts * passes * t, step_bytes(m.format) / parts, size / parts};
        multiply_panel(count, m, Panel{w, m.group_scales(p), m.exponents(p)}, x.row(row), x.stride, prefetch, sums);
        if (m.format == INT8 || m.bias) scale_and_bias(m, p, count, sums);
        sink(row, count, p, sums);
    };
    if (few) {
        for (int64_t p = first; p < last; ++p)
            for (int64_t t = 0; t < tiles; ++t) multiply_tile(t, p);
    } else {
        for (int64_t t = 0; t < tiles; ++t)
            for (int64_t p = first; p < last; ++p) multiply_tile(t, p);
    }
}

// Rows [row, row + rows) times the panels [first, last) of expert `group`.
struct Job { int64_t group, first, last, row, rows; };

// Splits the product of rows [starts[g], starts[g + 1]) by matrix g, for all g, into jobs.
inline std::vector<Job> jobs_of(const std::vector<int64_t>& starts, const PackedMatrix& m, int64_t threads) {
    int64_t groups = starts.size() - 1, used = 0;
    for (int64_t g = 0; g < groups; ++g) used += starts[g + 1] > starts[g];
    int64_t step = panels_per_job(m, m.panels() * used, threads), parts = (m.panels() + step - 1) / step;
    int64_t cuts = used * parts < 4 * threads ? 4 * threads / (used * parts + 1) + 1 : 1;
    std::vector<Job> jobs;
    for (int64_t g = 0; g < groups; ++g) {
        int64_t rows = starts[g + 1] - starts[g], tiles = (rows + MAX_ROWS - 1) / MAX_ROWS;
        int64_t blocks = cuts < tiles ? cuts : tiles;
        for (int64_t b = 0; b < blocks; ++b)
            for (int64_t p = 0; p < m.panels(); p += step) {
                int64_t row = rows * b / blocks, end = p + step < m.panels() ? p + step : m.panels();
                jobs.push_back({g, p, end, starts[g] + row, rows * (b + 1) / blocks - row});
            }
    }
    return jobs;
}

// Stores the first `count` of 32 sums.
template <class T> void store_partial(T* to, const float* sums, int64_t count) {
    alignas(64) T all[PANEL];
    T* into = count < PANEL ? all : to;
    for (int64_t v = 0; v < PANEL; v += LANES) store(into + v, load<f32v>(sums + v));
    if (count < PANEL) std::memcpy(to, all, count * sizeof(T));
}

// x [rows, inputs] times one matrix; or with `counts`, the next counts[e] rows times the matrix of expert e.
template <class In, class Out> class Matmul final : public Product {
    PackedMatrix m;
    std::vector<Job> list;
    Scratch converted;
    Activations<In> in;
    Results<Out> results;

public:
    template <class T>
    Matmul(const T* x, const int64_t* counts, int64_t experts, const PackedMatrix& matrix, Out* out, int64_t rows,
           const Workers& workers)
        : m(matrix), in(as_compute_type<In>(x, rows, m.inputs, converted, workers)),
          results(out, rows * m.outputs, workers) {
        std::vector<int64_t> starts(1, 0);
        for (int64_t e = 0; e < experts; ++e) starts.push_back(counts ? starts[e] + counts[e] : rows);
        list = jobs_of(starts, m, workers.count());
        stage_ends = {int64_t(list.size())};
        few_rows = std::all_of(list.begin(), list.end(), [](const Job& job) { return job.rows <= FEW_ROWS; });
    }

    void compute(int64_t number, Scratch&) override {
        const Job& job = list[number];
        Out* out = results.data + job.row * m.outputs;
        Activations<In> rows{in.row(job.row), in.stride};
        multiply(rows, job.rows, m.of_expert(job.group), job.first, job.last,
                 [&](int64_t row, int64_t count, int64_t panel, const float* sums) {
                     int64_t left = m.outputs - panel * PANEL;
                     for (int64_t r = 0; r < count; ++r)
                         store_partial(out + (row + r) * m.outputs + panel * PANEL, sums + r * PANEL,
                                       left < PANEL ? left : PANEL);
                 });
    }

    void finish() override { results.copy_out(); }
};

template <class In, class T, class Out>
void matmul(const T* x, const int64_t* counts, int64_t experts, const PackedMatrix& m, Out* out, int64_t rows,
            const Workers& all) {
    int64_t worth_sharing = all.helper ? 1 << 18 : all.threads << 15;  // multiplications, measured with two threads
    Workers workers = rows * m.outputs * m.inputs > worth_sharing ? all : Workers::one();
    workers.compute(std::make_unique<Matmul<In, Out>>(x, counts, experts, m, out, rows, workers));
}

}  // namespace
