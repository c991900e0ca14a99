// A mixture of experts in one call: gate and up, activation, down, and the weighted sum over experts. The weights of
// each chosen expert are read once. A shared expert is computed as one more expert that every token chose. Hidden and
// inner widths are multiples of 32.

#pragma once

#include <algorithm>

#include "gemm_driver.h"

namespace {

struct GatedMLP {
    const PackedMatrix *gate_up, *down;  // gate_up: all gate outputs, then as many up outputs
    bool has(int64_t format) const { return gate_up && (gate_up->format == format || down->format == format); }
};

// The arguments of a call; Python fills in this structure. Choices with weight zero are not computed.
struct MoECall {
    const int64_t* experts;       // [tokens, K]
    const float* weights;         // [tokens, K]
    GatedMLP routed, shared;      // null pointers if absent
    const float* shared_gate;     // per token, before the sigmoid; null: the shared expert has weight 1
    int64_t shared_gate_stride;   // from token to token
    int64_t tokens, K, num_experts, hidden, clamped;
    float alpha, limit;

    // Of all matrices; F32 if some are F32 and others BF16.
    int64_t format() const {
        if (routed.has(F32) || shared.has(F32)) return F32;
        return routed.gate_up ? routed.gate_up->format : shared.gate_up->format;
    }

    // By one of its three matrices.
    int64_t multiplications() const {
        return tokens * hidden * ((routed.down ? K * routed.down->inputs : 0) + (shared.down ? shared.down->inputs : 0));
    }
};

// One expert and its tokens: rows of x, inner activations, and the weight of each row in the sum.
template <class In> struct ExpertRows {
    PackedMatrix gate_up, down;
    int64_t rows, width;
    const int64_t* tokens;
    const float* weights;
    Activations<In> x;
    In* inner;

    Activations<In> activated() const { return {inner, row_stride<In>(width)}; }
};

// silu(gate) * up; or if clamped, gate * sigmoid(alpha * gate) * (up + 1) with gate <= limit and |up| <= limit.
INLINE f32v activate(const MoECall& call, f32v gate, f32v up) {
    if (!call.clamped) return gate * sigmoid(gate) * up;
    f32v limit = splat<f32v>(call.limit);
    gate = min(limit, gate), up = max(-limit, min(limit, up));
    return gate * sigmoid(call.alpha * gate) * (up + 1.0f);
}

// Tokens and weights of all choices that are computed, sorted by expert, then every token for the shared expert.
struct SortedChoices {
    std::vector<int64_t> starts, tokens;
    std::vector<float> weights;

    explicit SortedChoices(const MoECall& call) : starts(call.num_experts + 1, 0) {
        for (int64_t i = 0; i < call.tokens * call.K; ++i)
            if (call.weights[i] != 0.0f) ++starts[call.experts[i] + 1];
        for (int64_t e = 0; e < call.num_experts; ++e) starts[e + 1] += starts[e];
        std::vector<int64_t> next(starts.begin(), starts.end() - 1);
        tokens.resize(starts.back() + (call.shared.down ? call.tokens : 0)), weights.resize(tokens.size());
        for (int64_t i = 0; i < call.tokens * call.K; ++i)
            if (call.weights[i] != 0.0f) set(next[call.experts[i]]++, i / call.K, call.weights[i]);
        if (call.shared.down)
            for (int64_t t = 0; t < call.tokens; ++t) set(starts.back() + t, t, shared_weight(call, t));
    }

    void set(int64_t place, int64_t token, float weight) { tokens[place] = token, weights[place] = weight; }

    static float shared_weight(const MoECall& call, int64_t t) {
        return call.shared_gate ? sigmoid(splat<f32v>(call.shared_gate[t * call.shared_gate_stride]))[0] : 1.0f;
    }
};

template <class In, class T> class MoE final : public Product {
    MoECall call;
    SortedChoices sorted;
    int64_t routed, column_step;
    Scratch converted, gathered_scratch, inner_scratch;
    Activations<In> in;
    In* gathered;  // the rows of x of all choices
    std::vector<ExpertRows<In>> experts;
    std::vector<Job> gate_up_jobs;
    Results<T> results;

    // Of 64 choices: their rows of x.
    void gather(int64_t job) {
        for (int64_t s = job * 64; s < std::min(routed, job * 64 + 64); ++s)
            std::memcpy(gathered + s * in.stride, in.row(sorted.tokens[s]), in.stride * sizeof(In));
    }

    // The inner activations of some panels of one expert: first all gates, then the ups that are multiplied with them.
    void gate_up(const Job& job, Scratch& scratch) {
        const ExpertRows<In>& e = experts[job.group];
        int64_t half = e.width / PANEL, width = (job.last - job.first) * PANEL;
        float* gates = scratch.reserve<float>(e.rows * width);
        multiply(e.x, e.rows, e.gate_up, job.first, job.last,
                 [&](int64_t row, int64_t count, int64_t panel, const float* sums) {
                     for (int64_t r = 0; r < count; ++r)
                         std::memcpy(gates + (row + r) * width + (panel - job.first) * PANEL, sums + r * PANEL,
                                     PANEL * sizeof(float));
                 });
        multiply(e.x, e.rows, e.gate_up, job.first + half, job.last + half,
                 [&](int64_t row, int64_t count, int64_t panel, const float* sums) {
                     alignas(64) float inner[PANEL];
                     for (int64_t r = 0; r < count; ++r) {
                         const float* gate = gates + (row + r) * width + (panel - half - job.first) * PANEL;
                         for (int64_t v = 0; v < PANEL; v += LANES)
                             store(inner + v, activate(call, load<f32v>(gate + v), load<f32v>(sums + r * PANEL + v)));
                         store_group(e.inner + (row + r) * e.activated().stride, panel - half, inner);
                     }
                 });
    }

    // Some panels of the result: the outputs of the experts, added up in the order of the experts.
    void down(int64_t first, int64_t last, Scratch& scratch) {
        int64_t width = (last - first) * PANEL;
        float* totals = scratch.reserve<float>(call.tokens * width);
        std::memset(totals, 0, call.tokens * width * sizeof(float));
        for (const ExpertRows<In>& e : experts)
            multiply(e.activated(), e.rows, e.down, first, last,
                     [&](int64_t row, int64_t count, int64_t panel, const float* sums) {
                         for (int64_t r = 0; r < count; ++r) {
                             float weight = e.weights[row + r];
                             float* total = totals + e.tokens[row + r] * width + (panel - first) * PANEL;
                             for (int64_t v = 0; v < PANEL; v += LANES)
                                 store(total + v, load<f32v>(total + v) + weight * load<f32v>(sums + r * PANEL + v));
                         }
                     });
        for (int64_t t = 0; t < call.tokens; ++t)
            for (int64_t i = 0; i < width; i += LANES)
                store(results.data + t * call.hidden + first * PANEL + i, load<f32v>(totals + t * width + i));
    }

public:
    MoE(const T* x, const MoECall& arguments, T* out, const Workers& workers)
        : call(arguments), sorted(call), routed(sorted.starts.back()),
          in(as_compute_type<In>(x, call.tokens, call.hidden, converted, workers)),
          gathered(gathered_scratch.reserve<In>(call.tokens > 1 ? routed * in.stride : 0)),
          results(out, call.tokens * call.hidden, workers) {
        int64_t panels = add_experts();
        for (size_t e = 0; e < experts.size(); ++e) {
            int64_t step = panels_per_job(experts[e].gate_up, panels, workers.count()), end = experts[e].width / PANEL;
            for (int64_t p = 0; p < end; p += step)
                gate_up_jobs.push_back({int64_t(e), p, std::min(p + step, end), 0, 0});
        }
        int64_t columns = call.hidden / PANEL, fit = (256 << 10) / (call.tokens * 4 * PANEL);
        int64_t parts = (workers.helper ? 4 : 2) * workers.count();  // long ones are read faster; a helper's may be repeated
        column_step = std::max(std::min(columns / parts, fit), int64_t(1));
        int64_t gathers = call.tokens > 1 ? (routed + 63) / 64 : 0, gate_ups = gathers + gate_up_jobs.size();
        few_rows = std::all_of(experts.begin(), experts.end(),
                               [](const ExpertRows<In>& e) { return e.rows <= FEW_ROWS; });
        stage_ends = {gathers, gate_ups, gate_ups + (columns + column_step - 1) / column_step};
    }

    // Fills in `experts`. Returns the sum of their inner widths in panels.
    int64_t add_experts() {
        int64_t routed_width = call.routed.down ? call.routed.down->inputs : 0, panels = 0;
        int64_t shared_width = call.shared.down ? call.shared.down->inputs : 0;
        int64_t inner_stride = row_stride<In>(routed_width);
        In* inner = inner_scratch.reserve<In>(routed * inner_stride + call.tokens * row_stride<In>(shared_width));
        for (int64_t e = 0; e < call.num_experts; ++e) {
            int64_t start = sorted.starts[e], rows = sorted.starts[e + 1] - start;
            if (rows == 0) continue;
            experts.push_back({call.routed.gate_up->of_expert(e), call.routed.down->of_expert(e), rows, routed_width,
                               sorted.tokens.data() + start, sorted.weights.data() + start,
                               call.tokens > 1 ? Activations<In>{gathered + start * in.stride, in.stride}
                                               : Activations<In>{in.data, 0},  // the same token, however often
                               inner + start * inner_stride});
            panels += routed_width / PANEL;
        }
        if (call.shared.down) {
            experts.push_back({*call.shared.gate_up, *call.shared.down, call.tokens, shared_width,
                               sorted.tokens.data() + routed, sorted.weights.data() + routed, in,
                               inner + routed * inner_stride});
            panels += shared_width / PANEL;
        }
        return panels;
    }

    void compute(int64_t job, Scratch& scratch) override {
        if (job < stage_ends[0]) return gather(job);
        if (job < stage_ends[1]) return gate_up(gate_up_jobs[job - stage_ends[0]], scratch);
        int64_t first = (job - stage_ends[1]) * column_step;
        down(first, std::min(first + column_step, call.hidden / PANEL), scratch);
    }

    void finish() override { results.copy_out(); }
};

template <class In, class T> void moe(const T* x, const MoECall& call, T* out, const Workers& all) {
    Workers workers = call.multiplications() > (1 << 17) ? all : Workers::one();
    workers.compute(std::make_unique<MoE<In, T>>(x, call, out, workers));
}

}  // namespace
