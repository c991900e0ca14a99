// bfloat16 in three quarters of its bits, without loss: what is read from memory is what a product of few rows waits for.
//
// Weights near each other have few exponents (Zhang et al., "70% Size, 100% Accuracy", arXiv 2504.11651, which codes them
// by Huffman). Here a group of 32 inputs and 32 outputs, whose exponents span less than 16, has four bits for each: its
// distance from the largest one. A group that spans more, or has zeros, is stored as in BF16. The layout of a step is
//
//   64 bytes for each of its pairs, in the order of BF16: the sign and the seven bits of the fraction
//   32 bytes for each of its pairs: the distances of the outputs below 16 in the low halves, of the others in the high ones

#pragma once

#include <vector>

#include "integer_dot.h"
#include "pack.h"

namespace {

constexpr int SPAN = 16;                         // exponents of a group
constexpr uint16_t SIGN_AND_FRACTION = 0x807f, EXPONENT = 0x7f80;
constexpr int64_t GROUP_STEPS = GROUP / STEP;

constexpr int64_t group_bytes(bool is_short) { return GROUP_STEPS * step_bytes(is_short ? SHORT_BF16 : BF16); }

// The pairs of BF16 (bf16_pairs), of a group whose largest exponent is `largest`, in its place in all lanes.
INLINE u32v short_pairs(const uint8_t* w, int p, int v, i16v largest) {
    i16v fractions = widen(load_bits<i8v>(w + 64 * p + 2 * LANES * v));  // the sign fills the upper byte
    i16v both = widen(load_bits<i8v>(w + 128 + 32 * p + 2 * LANES * (v % HALF)));
    i16v distances = (v < HALF ? both << 7 : both << 3) & int16_t((SPAN - 1) << 7);
    return bit_cast<u32v>((fractions & int16_t(SIGN_AND_FRACTION)) | (largest - distances));
}

// The largest exponent of a group of `outputs` rows and `inputs` inputs; 0 if it cannot be stored short.
inline uint8_t largest_exponent(const uint16_t* rows, int64_t stride, int64_t outputs, int64_t inputs) {
    if (outputs < PANEL || inputs < GROUP) return 0;  // it is padded with zeros
    uint16_t least = EXPONENT, largest = 0;
    for (int64_t c = 0; c < PANEL; ++c)
        for (int64_t i = 0; i < GROUP; ++i) {
            uint16_t exponent = rows[c * stride + i] & EXPONENT;
            least = exponent < least ? exponent : least, largest = exponent > largest ? exponent : largest;
        }
    return (largest - least) >> 7 < SPAN ? largest >> 7 : 0;
}

// The exponents of the groups of all panels, and where each panel starts; behind the last one, where it ends.
inline void measure(const uint16_t* rows, uint8_t* exponents, int64_t* starts, int64_t experts, int64_t outputs,
                    int64_t inputs, int64_t threads) {
    int64_t panels = (outputs + PANEL - 1) / PANEL, groups = padded(inputs) / GROUP;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t panel = 0; panel < experts * panels; ++panel) {
        int64_t first = panel % panels * PANEL;
        const uint16_t* start = rows + (panel / panels * outputs + first) * inputs;
        for (int64_t g = 0; g < groups; ++g)
            exponents[panel * groups + g] =
                largest_exponent(start + g * GROUP, inputs, outputs - first, inputs - g * GROUP);
    }
    starts[0] = 0;
    for (int64_t panel = 0; panel < experts * panels; ++panel) {
        starts[panel + 1] = starts[panel];
        for (int64_t g = 0; g < groups; ++g) starts[panel + 1] += group_bytes(exponents[panel * groups + g] > 0);
    }
}

// A group of BF16 as a short one.
inline void shorten(const uint8_t* group, uint8_t largest, uint8_t* out) {
    for (int64_t s = 0; s < GROUP_STEPS; ++s, group += step_bytes(BF16), out += step_bytes(SHORT_BF16))
        for (int64_t p = 0; p < 2; ++p) {
            uint16_t pair[2 * PANEL];
            std::memcpy(pair, group + sizeof pair * p, sizeof pair);
            for (int64_t j = 0; j < 2 * PANEL; ++j) out[64 * p + j] = (pair[j] >> 8 & 0x80) | (pair[j] & 0x7f);
            for (int64_t j = 0; j < PANEL; ++j) {
                int low = largest - ((pair[j] & EXPONENT) >> 7), high = largest - ((pair[j + PANEL] & EXPONENT) >> 7);
                out[128 + 32 * p + j] = low | high << 4;
            }
        }
}

// Packs rows of BF16 with the results of `measure`.
inline void pack_short(const uint8_t* rows, uint8_t* out, const uint8_t* exponents, const int64_t* starts,
                       int64_t experts, int64_t outputs, int64_t inputs, int64_t threads) {
    int64_t panels = (outputs + PANEL - 1) / PANEL, groups = padded(inputs) / GROUP;
    advise_huge_pages(out, starts[experts * panels]);
#pragma omp parallel num_threads(threads)
    {
        std::vector<uint8_t> plain(groups * group_bytes(false));
#pragma omp for schedule(static)
        for (int64_t panel = 0; panel < experts * panels; ++panel) {
            int64_t first = panel % panels * PANEL, count = outputs - first < PANEL ? outputs - first : PANEL;
            const uint8_t* start = rows + (panel / panels * outputs + first) * 2 * inputs;
            pack_panel<BF16>(start, 2 * inputs, count, inputs, plain.data());
            uint8_t* to = out + starts[panel];
            for (int64_t g = 0; g < groups; ++g) {
                uint8_t largest = exponents[panel * groups + g];
                const uint8_t* group = plain.data() + g * group_bytes(false);
                if (largest)
                    shorten(group, largest, to);
                else
                    std::memcpy(to, group, group_bytes(false));
                to += group_bytes(largest > 0);
            }
        }
    }
}

// Output o of a matrix as it was before packing.
inline void unpack_short_row(const PackedMatrix& m, int64_t o, uint8_t* out) {
    const uint8_t *group = m.panel(o / PANEL), *exponents = m.exponents(o / PANEL);
    int64_t c = o % PANEL;
    for (int64_t i = 0; i < m.inputs; ++i) {
        uint8_t largest = exponents[i / GROUP];
        int64_t s = i % GROUP / STEP, p = i % STEP / 2, j = 2 * c + i % 2;
        const uint8_t* step = group + s * step_bytes(largest ? SHORT_BF16 : BF16);
        uint16_t value;
        if (largest) {
            uint8_t fraction = step[64 * p + j], both = step[128 + 32 * p + j % PANEL];
            int distance = j < PANEL ? both & 15 : both >> 4;
            value = (fraction & 0x80) << 8 | (largest - distance) << 7 | (fraction & 0x7f);
        } else {
            std::memcpy(&value, step + 128 * p + 2 * j, sizeof value);
        }
        std::memcpy(out + 2 * i, &value, sizeof value);
        if (i % GROUP == GROUP - 1) group += group_bytes(largest > 0);
    }
}

}  // namespace
