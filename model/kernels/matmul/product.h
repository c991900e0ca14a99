// A product as jobs, and the threads that compute them.

#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace {

// A buffer that grows and is not initialized.
class Scratch {
    std::unique_ptr<uint8_t[]> data;
    size_t size = 0;

public:
    // Room for `count` elements, aligned to 64 bytes. The content is lost when it grows.
    template <class T> T* reserve(int64_t count) {
        if (size < count * sizeof(T) + 64) {
            size = count * sizeof(T) + 64;
            data.reset(new uint8_t[size]);
        }
        return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(data.get()) + 63) & ~uintptr_t(63));
    }
};

// Jobs in stages. Those of a stage do not depend on each other, but on all stages before.
class Product {
public:
    std::vector<int64_t> stage_ends;  // job numbers
    bool few_rows = false;            // so that a job takes as long as it takes to read its weights

    virtual ~Product() = default;

    // Writes the same bits whenever it is called, and nothing else: a job may be computed twice, by two threads at once.
    virtual void compute(int64_t job, Scratch& scratch) = 0;

    // After all jobs: hands over the results.
    virtual void finish() = 0;

    int64_t stage_start(size_t stage) const { return stage ? stage_ends[stage - 1] : 0; }
    int64_t jobs() const { return stage_ends.back(); }
};

// With few rows, a thread takes many neighbouring jobs at first, whose weights it reads in one go, and single ones at the
// end. With more, jobs may differ in their rows, so each thread takes one at a time.
inline void compute_in_parallel(Product& product, int64_t threads) {
#pragma omp parallel num_threads(threads)
    {
        Scratch scratch;
        for (size_t s = 0; s < product.stage_ends.size(); ++s) {
            if (product.stage_start(s) > 0) {
#pragma omp barrier
            }
            int64_t first = product.stage_start(s), end = product.stage_ends[s];
            if (product.few_rows) {
#pragma omp for schedule(guided) nowait
                for (int64_t job = first; job < end; ++job) product.compute(job, scratch);
            } else {
#pragma omp for schedule(dynamic) nowait
                for (int64_t job = first; job < end; ++job) product.compute(job, scratch);
            }
        }
    }
    product.finish();
}

}  // namespace
