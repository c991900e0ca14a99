// From panels back to rows of weights that are not quantized.

#pragma once

#include "short_exponents.h"

namespace {

// Output o of an F32 or BF16 matrix as it was before packing.
template <int FORMAT> void unpack_row(const PackedMatrix& m, int64_t o, uint8_t* out) {
    constexpr int64_t SIZE = FORMAT == F32 ? 4 : 2, NEXT = FORMAT == F32 ? 128 : 2;  // bytes to the second of a pair
    const uint8_t* panel = m.data + o / PANEL * m.panel_bytes();
    int64_t c = o % PANEL;
    for (int64_t i = 0; i < m.inputs; ++i) {
        const uint8_t* pair = panel + i / STEP * step_bytes(FORMAT) + i % STEP / 2 * (step_bytes(FORMAT) / 2) + 4 * c;
        std::memcpy(out + SIZE * i, pair + i % 2 * NEXT, SIZE);
    }
}

// The same of SHORT_BF16.
inline void unpack_short_row(const PackedMatrix& m, int64_t o, uint8_t* out) {
    const uint8_t *group = m.panel(o / PANEL), *exponents = m.exponents(o / PANEL);
    int64_t c = o % PANEL;
    for (int64_t i = 0; i < m.inputs; ++i) {
        uint8_t largest = exponents[i / GROUP];
        int64_t s = i % GROUP / STEP, p = i % STEP / 2, j = 2 * c + i % 2;
        const uint8_t* step = group + s * step_bytes(largest ? SHORT_BF16 : BF16);
        uint16_t value;
        if (largest) {
            int code = step[128 + place(j)] >> 4 * p;
            value = (code & 8) << 12 | (largest - (code & 7)) << 8 | step[64 * p + place(j)];
        } else {
            std::memcpy(&value, step + 128 * p + 2 * j, sizeof value);
        }
        std::memcpy(out + 2 * i, &value, sizeof value);
        if (i % GROUP == GROUP - 1) group += group_bytes(largest > 0);
    }
}

inline void unpack(const PackedMatrix& m, const int64_t* outputs, int64_t rows, uint8_t* out, int64_t threads) {
    auto unpack_one = m.format == F32 ? unpack_row<F32> : m.format == BF16 ? unpack_row<BF16> : unpack_short_row;
    int64_t row_bytes = m.inputs * (m.format == F32 ? 4 : 2);
#pragma omp parallel for num_threads(threads) if (rows * m.inputs > 65536)
    for (int64_t r = 0; r < rows; ++r) unpack_one(m, outputs[r], out + r * row_bytes);
}

}  // namespace
