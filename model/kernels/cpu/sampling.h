// Sampling: one token from each row of scores.
//
// A token is drawn by the Gumbel-max trick: with noise -log(-log u) added to every scaled score, the highest one is a
// draw from their softmax. The noise of a token depends on seed, position and token alone (Philox is counter-based), so
// a token that cannot win needs none, and that is nearly all of them.

#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "../vectors.h"

namespace {

// How the token of a row is chosen. A temperature of 0 takes the highest score.
struct Sampling {
    float temperature;
    double top_p;
    float log_min_p;
    uint64_t seed, position;
    int64_t top_k;
};

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

// A row of scores above the highest one, divided by the temperature: all are at most 0.
struct ScaledScores {
    const float* x;
    int64_t n;
    float highest, temperature;

    // Calls step(i, scores, count) for every vector in [begin, end), of which the first `count` lanes are scores.
    template <class Step> INLINE void for_each(int64_t begin, int64_t end, Step step) const {
        for_each_vector(end - begin, [&](int64_t i, auto lanes) {
            i += begin;
            step(i, (lanes.load(x + i) - splat(highest)) / splat(temperature), std::min(end - i, W));
        });
    }
    template <class Step> INLINE void for_each(Step step) const { for_each(0, n, step); }

    double sum_of_exponentials() const {
        double sum = 0;
        for_each([&](int64_t, f32x16 scores, int64_t count) {
            sum += reduce_add(select_lanes(exp(scores), 0, 0, int32_t(count), 0.0f));
        });
        return sum;
    }

    // The scores of at least `least`.
    void collect(float least, std::vector<float>& found) const {
        found.clear();
        for_each([&](int64_t, f32x16 scores, int64_t count) {
            if (reduce_max(scores) < least) return;
            float lane[W];
            store(lane, scores);
            for (int64_t j = 0; j < count; ++j)
                if (lane[j] >= least) found.push_back(lane[j]);
        });
    }
};

typedef std::vector<float>::iterator Scores;

inline double sum_of_exponentials(Scores first, Scores last) {
    double sum = 0;
    for (; last - first >= W; first += W) sum += reduce_add(exp(load(&*first)));
    for (; first < last; ++first) sum += std::exp(*first);
    return sum;
}

constexpr int64_t FEW = 64;  // scores that are simply sorted

// The lowest score that is needed until the exponentials of the highest ones sum to `mass`. Halves the scores in which
// it must be, which for thousands of them takes a third of the time of sorting them.
inline float nucleus_threshold(std::vector<float>& scores, double mass) {
    Scores first = scores.begin(), last = scores.end();
    while (last - first > FEW) {
        Scores middle = first + (last - first) / 2;
        std::nth_element(first, middle, last, std::greater<float>());
        double sum = sum_of_exponentials(first, middle);
        if (sum >= mass) last = middle;
        else mass -= sum, first = middle;
    }
    std::sort(first, last, std::greater<float>());
    while (last - first > 1 && (mass -= std::exp(*first)) > 0) ++first;
    return *first;
}

// The lowest score that the filters keep: top_k the highest scores, top_p the likeliest of these until their
// probabilities sum to it, min_p the tokens that are at least so many times as likely as the likeliest.
inline float filter_threshold(const ScaledScores& scores, const Sampling& how, std::vector<float>& kept) {
    const bool has_top_k = how.top_k > 0 && how.top_k < scores.n, has_top_p = how.top_p < 1;
    if (!has_top_k && !has_top_p) return how.log_min_p;
    double total = has_top_k ? 0 : scores.sum_of_exponentials();
    // Few tokens are likely, so only these are looked at: twice as far down, until they are enough.
    for (float least = -2;; least = least > -100 ? 2 * least : -INFINITY) {
        scores.collect(least, kept);
        bool enough = has_top_k ? int64_t(kept.size()) >= how.top_k
                                : sum_of_exponentials(kept.begin(), kept.end()) >= how.top_p * total;
        if (enough || !(least > -INFINITY)) break;
    }
    if (kept.empty()) return how.log_min_p;  // scores that are no numbers
    if (has_top_k && int64_t(kept.size()) > how.top_k) {
        std::nth_element(kept.begin(), kept.begin() + how.top_k, kept.end(), std::greater<float>());
        kept.resize(how.top_k);
    }
    if (has_top_k) total = sum_of_exponentials(kept.begin(), kept.end());
    float lowest = has_top_p ? nucleus_threshold(kept, how.top_p * total) : *std::min_element(kept.begin(), kept.end());
    return std::max(how.log_min_p, lowest);
}

// Random words of 32 bits for W tokens from number `first` on, by Philox 4x64-10 (Salmon et al., "Parallel random
// numbers: as easy as 1, 2, 3", 2011) with the key {seed, 0} and the counter {block + 1, 0, 0, position}, a block for
// every eight tokens: the words of numpy's generator of that name. The processor computes two blocks at once.
inline void philox(uint64_t seed, uint64_t position, int64_t first, uint32_t words[W]) {
    __extension__ typedef unsigned __int128 uint128;
    constexpr int BLOCKS = W / 8;
    uint64_t c[BLOCKS][4], key0 = seed, key1 = 0;
    for (int b = 0; b < BLOCKS; ++b) c[b][0] = first / 8 + b + 1, c[b][1] = c[b][2] = 0, c[b][3] = position;
    for (int round = 0; round < 10; ++round) {
        for (auto& x : c) {
            uint128 p = uint128(0xD2E7470EE14C6C93u) * x[0], q = uint128(0xCA5A826395121157u) * x[2];
            x[0] = uint64_t(q >> 64) ^ x[1] ^ key0, x[1] = uint64_t(q);
            x[2] = uint64_t(p >> 64) ^ x[3] ^ key1, x[3] = uint64_t(p);
        }
        key0 += 0x9E3779B97F4A7C15u, key1 += 0xBB67AE8584CAA73Bu;
    }
    for (int b = 0; b < BLOCKS; ++b)
        for (int i = 0; i < 8; ++i) words[8 * b + i] = uint32_t(c[b][i / 2] >> (i % 2 * 32));
}

// -log(-log u) for u in [0, 1) in steps of 2^-24. Both ends are moved inwards, which keeps it finite.
inline float gumbel(float uniform) {
    float u = std::min(uniform + 0x1p-25f, 1 - 0x1p-24f);
    return -std::log(-std::log(u));
}
constexpr float MAX_NOISE = 16.7f;

// No less than gumbel(u), without logarithms: that is at most -log(1 - u), of which the exponent of 1 - u is the most.
INLINE float gumbel_bound(float uniform) {
    int32_t exponent = int32_t(bit_cast<uint32_t>(1 - uniform) >> 23) - 127;
    return 0.25f - 0.6931472f * float(exponent);
}

// The best token so far.
struct Draw {
    int64_t token;
    float score;  // with its noise

    // The tokens first .. first + count, of which only those that the filters keep and that can win get noise.
    INLINE void consider(const Sampling& how, int64_t first, f32x16 scores, int64_t count, float threshold) {
        if (!(reduce_max(scores) >= std::max(threshold, score - MAX_NOISE))) return;
        uint32_t words[W];
        philox(how.seed, how.position, first, words);
        float lane[W], uniform[W], bound[W];
        store(lane, scores);
        for (int i = 0; i < W; ++i) uniform[i] = float(int32_t(words[i] >> 8)) * 0x1p-24f;
        for (int i = 0; i < W; ++i) bound[i] = lane[i] + gumbel_bound(uniform[i]);
        if (reduce_max(load(bound)) < score) return;
        for (int64_t i = 0; i < count; ++i) {
            if (!(lane[i] >= threshold) || bound[i] < score) continue;
            float noisy = lane[i] + gumbel(uniform[i]);
            if (noisy > score || (noisy == score && first + i < token)) score = noisy, token = first + i;
        }
    }
};

// A draw from one row; any token if its highest score is no number. `kept` is memory that is used on the way.
inline int64_t draw(const float* x, int64_t n, const Sampling& how, std::vector<float>& kept) {
    const int64_t highest = argmax(x, n);
    if (how.temperature == 0) return highest;
    const ScaledScores scores{x, n, x[highest], how.temperature};
    const float threshold = filter_threshold(scores, how, kept);
    Draw best{highest, -INFINITY};
    auto consider = [&](int64_t first, f32x16 vector, int64_t count) {
        best.consider(how, first, vector, count, threshold);
    };
    const int64_t likeliest = highest / W * W;  // first, because then few others can win
    scores.for_each(likeliest, std::min(likeliest + W, n), consider);
    scores.for_each(consider);
    return best.token;
}

// integers: seed, position and top_k of each row; numbers: temperature, top_p and the logarithm of min_p.
inline void sample_rows(const float* scores, const int64_t* integers, const double* numbers, int64_t* tokens,
                        int64_t rows, int64_t width, int threads) {
#pragma omp parallel num_threads(threads) if (rows > 1 && rows * width > 16384)
    {
        std::vector<float> kept;
#pragma omp for schedule(dynamic)
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t* i = integers + 3 * r;
            const double* f = numbers + 3 * r;
            Sampling how{float(f[0]), f[1], float(f[2]), uint64_t(i[0]), uint64_t(i[1]), i[2]};
            tokens[r] = draw(scores + r * width, width, how, kept);
        }
    }
}

}  // namespace
