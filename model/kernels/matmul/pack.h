// From rows of weights, as checkpoints store them, to panels. INT8 and Q8_0 come as int8 [outputs, inputs]; INT4
// and Q4_1 as bytes [outputs, inputs / 2] with the even input in the low half; all but Q4_1 in two's complement.

#pragma once

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "weights.h"

namespace {

// Bytes of two neighbouring inputs of one output.
constexpr int64_t pair_bytes(int64_t format) { return 2 * step_bytes(format) / (STEP * PANEL); }

// Stores inputs i and i + 1 of output c of the panel.
template <int FORMAT> INLINE void store_weights(const uint8_t* pair, int64_t i, int64_t c, uint8_t* panel) {
    uint8_t* step = panel + i / STEP * step_bytes(FORMAT);
    int64_t p = i % STEP / 2;
    if (FORMAT == F32) {
        std::memcpy(step + 256 * p + 4 * c, pair, 4);
        std::memcpy(step + 256 * p + 4 * c + 128, pair + 4, 4);
    } else if (FORMAT == BF16) {
        std::memcpy(step + 128 * p + 4 * c, pair, 4);
    } else if (FORMAT == INT8) {
        std::memcpy(step + 64 * p + 2 * c, pair, 2);
    } else {  // flipping the sign bit of four bits adds 8
        constexpr int64_t NEXT = FORMAT == INT4 ? 1 : 2;  // bytes to the second of a pair
        uint8_t both = FORMAT == INT4 ? *pair ^ 0x88 : *pair, *to = step + 4 * (c % 16) + (FORMAT == INT4 ? 2 * p : p);
        to[0] |= (both & 15) << (c / 16 * 4), to[NEXT] |= both >> 4 << (c / 16 * 4);
    }
}

// Packs `count` rows into a panel, BLOCK inputs at a time, so that what is read and written stays in the L1 cache.
template <int FORMAT>
void pack_panel(const uint8_t* rows, int64_t row_bytes, int64_t count, int64_t inputs, uint8_t* panel) {
    constexpr int64_t BLOCK = 128;
    int64_t even = inputs / 2 * 2;
    if (step_bytes(FORMAT) == 64 || count < PANEL || padded(inputs) > inputs)
        std::memset(panel, 0, padded(inputs) / STEP * step_bytes(FORMAT));
    for (int64_t start = 0; start < even; start += BLOCK) {
        int64_t end = start + BLOCK < even ? start + BLOCK : even;
        for (int64_t c = 0; c < count; ++c)
            for (int64_t i = start; i < end; i += 2)
                store_weights<FORMAT>(rows + c * row_bytes + i / 2 * pair_bytes(FORMAT), i, c, panel);
    }
    for (int64_t c = 0; even < inputs && c < count; ++c) {  // the last of an odd number of inputs
        uint8_t pair[8] = {};
        std::memcpy(pair, rows + (c + 1) * row_bytes - pair_bytes(FORMAT) / 2, pair_bytes(FORMAT) / 2);
        store_weights<FORMAT>(pair, even, c, panel);
    }
}

// Asks for huge pages in memory that starts on one: reading weights then misses the TLB less often.
inline void advise_huge_pages(uint8_t* start, int64_t bytes) {
#ifdef MADV_HUGEPAGE
    constexpr int64_t PAGE = 2 << 20;
    if (reinterpret_cast<uintptr_t>(start) % PAGE == 0) madvise(start, bytes / PAGE * PAGE, MADV_HUGEPAGE);
#endif
}

inline void pack(const uint8_t* rows, uint8_t* out, int64_t format, int64_t experts, int64_t outputs, int64_t inputs,
                 int64_t threads) {
    PackedMatrix m{nullptr, nullptr, nullptr, nullptr, outputs, inputs, format};
    int64_t row_bytes = inputs * pair_bytes(format) / 2;
    auto pack_one = format == F32    ? pack_panel<F32>
                    : format == BF16 ? pack_panel<BF16>
                    : format == INT4 ? pack_panel<INT4>
                    : format == Q4_1 ? pack_panel<Q4_1>
                                     : pack_panel<INT8>;
    advise_huge_pages(out, experts * m.panels() * m.panel_bytes());
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t job = 0; job < experts * m.panels(); ++job) {
        int64_t e = job / m.panels(), first = job % m.panels() * PANEL;
        int64_t count = outputs - first < PANEL ? outputs - first : PANEL;
        pack_one(rows + (e * outputs + first) * row_bytes, row_bytes, count, inputs, out + job * m.panel_bytes());
    }
}

}  // namespace
