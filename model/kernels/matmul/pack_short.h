// From rows of BF16 to panels of SHORT_BF16.

#pragma once

#include <vector>

#include "pack.h"
#include "short_exponents.h"

namespace {

// The largest exponent of a group of `outputs` rows and `inputs` inputs, without its last bit; 0 if it cannot be short.
inline uint8_t largest_exponent(const uint16_t* rows, int64_t stride, int64_t outputs, int64_t inputs) {
    if (outputs < PANEL || inputs < GROUP) return 0;  // it is padded with zeros
    uint16_t least = 0x7f, largest = 0;
    for (int64_t c = 0; c < PANEL; ++c)
        for (int64_t i = 0; i < GROUP; ++i) {
            uint16_t exponent = rows[c * stride + i] >> 8 & 0x7f;
            least = exponent < least ? exponent : least, largest = exponent > largest ? exponent : largest;
        }
    return largest - least < SPAN ? largest : 0;
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
    for (int64_t s = 0; s < GROUP_STEPS; ++s, group += step_bytes(BF16), out += step_bytes(SHORT_BF16)) {
        std::memset(out + 128, 0, 64);
        for (int64_t p = 0; p < 2; ++p)
            for (int64_t j = 0; j < 2 * PANEL; ++j) {
                uint8_t lower = group[128 * p + 2 * j], upper = group[128 * p + 2 * j + 1];
                out[64 * p + place(j)] = lower;
                out[128 + place(j)] |= (upper >> 7 << 3 | (largest - (upper & 0x7f))) << 4 * p;
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

}  // namespace
