// A second thread for large products, on a processor that other processes use as well.
//
// The system may interrupt such a thread at any time, for milliseconds. So nobody waits for it: the owner, the thread
// whose product it is, takes all jobs that the helper has not begun, and computes again the one that it does not finish
// in time (backup tasks: Dean and Ghemawat, MapReduce, 2004, section 3.6). Both write the same bits, so it does not
// matter who is last.
//
// A late helper still reads and writes the memory of a product that is long over. That memory belongs to the product,
// which is kept until the helper has let go of it (a hazard pointer: Michael, 2004). Only the weights do not: they must
// stay in place until the helper is stopped.

#pragma once

#include <semaphore.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "placement.h"
#include "product.h"

namespace {

inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// A product and who computes which of its jobs.
class SharedProduct {
    enum State : uint8_t { FREE, BEGUN, DONE };

    std::unique_ptr<Product> product;
    std::unique_ptr<std::atomic<uint8_t>[]> states;  // of the jobs
    std::atomic<size_t> stage{0};

    bool begin(int64_t job) {
        uint8_t expected = FREE;
        return states[job].compare_exchange_strong(expected, BEGUN);
    }

    bool is_done(int64_t job) const { return states[job].load(std::memory_order_acquire) == DONE; }

    void compute(int64_t job, Scratch& scratch) {
        product->compute(job, scratch);
        states[job].store(DONE, std::memory_order_release);
    }

public:
    explicit SharedProduct(std::unique_ptr<Product> whole)
        : product(std::move(whole)), states(new std::atomic<uint8_t>[product->jobs()]()) {}

    // The owner's part: all jobs. It waits for the helper as long as a job takes, and no longer. Returns the number of
    // jobs that were computed again.
    int64_t complete(Scratch& scratch) {
        using Clock = std::chrono::steady_clock;
        Clock::duration patience = std::chrono::microseconds(10);
        int64_t repeated = 0;
        for (size_t s = 0; s < product->stage_ends.size(); ++s) {
            stage.store(s, std::memory_order_release);
            int64_t first = product->stage_start(s), end = product->stage_ends[s];
            for (int64_t job = first; job < end; ++job) {
                if (!begin(job)) continue;
                Clock::time_point started = Clock::now();
                compute(job, scratch);
                patience = Clock::now() - started;
            }
            Clock::time_point deadline = Clock::now() + patience;
            for (int64_t job = first; job < end; ++job) {
                while (!is_done(job) && Clock::now() < deadline) relax();
                if (!is_done(job)) compute(job, scratch), ++repeated;
            }
        }
        product->finish();
        return repeated;
    }

    // The helper's part: the last job of the stage that nobody has begun. Returns whether there was one.
    bool help(Scratch& scratch) {
        size_t s = stage.load(std::memory_order_acquire);
        for (int64_t job = product->stage_ends[s] - 1; job >= product->stage_start(s); --job)
            if (begin(job)) return compute(job, scratch), true;
        return false;
    }
};

// The helper of one owner, which calls all public functions.
class Helper {
    static constexpr int SPINS = 2000;              // 50 to 100 us: longer than the kernels between two products take
    static constexpr int64_t INTERRUPTED = 1000000;  // nanoseconds off the processor

    std::atomic<SharedProduct*> offered{nullptr}, held{nullptr};
    std::atomic<bool> asleep{false}, stopping{false};
    std::atomic<int> helper_cpu{0};
    std::atomic<int64_t> helped{0};  // jobs
    int64_t repeated = 0;            // jobs
    int owner_cpu = -1;
    sem_t wake;
    std::vector<std::unique_ptr<SharedProduct>> kept;  // the latest product, and one before that the helper may hold
    Scratch scratch;                                   // of the owner
    std::thread thread;

    void work() {
        Scratch own;
        for (int idle = 0; !stopping; ++idle) {
            helper_cpu = current_cpu();
            if (help(own)) idle = 0;
            if (idle == SPINS) sleep(), idle = 0;
            relax();
        }
    }

    // Returns whether there was anything to do.
    bool help(Scratch& own) {
        SharedProduct* product = offered;
        if (!product) return false;
        held = product;
        int64_t jobs = 0;
        if (product == offered)  // otherwise its owner may not have seen in time that it is held
            while (product->help(own)) ++jobs;
        held = nullptr;
        helped += jobs;
        return jobs > 0;
    }

    void sleep() {
        asleep = true;
        if ((offered || stopping) && asleep.exchange(false)) return;
        while (sem_wait(&wake) != 0) {}  // signals interrupt it
    }

    void wake_up() {
        if (asleep && asleep.exchange(false)) sem_post(&wake);
    }

    // Both run on different processors, although the system may move the owner at any time.
    void part() {
        int cpu = current_cpu();
        if (cpu == owner_cpu) return;
        owner_cpu = cpu;
        keep_away(thread.native_handle(), cpu);
    }

public:
    Helper() {
        sem_init(&wake, 0, 0);
        thread = std::thread([this] { work(); });
    }

    ~Helper() {
        stopping = true;
        wake_up();
        thread.join();
        sem_destroy(&wake);
    }

    void compute(std::unique_ptr<Product> product) {
        part();
        kept.push_back(std::make_unique<SharedProduct>(std::move(product)));
        int64_t before = time_off();
        offered = kept.back().get();
        wake_up();
        repeated += kept.back()->complete(scratch);
        offered = nullptr;
        if (time_off() - before > INTERRUPTED) move_to(helper_cpu);  // nobody waits for the helper if it is interrupted
        const SharedProduct* late = held;
        kept.erase(std::remove_if(kept.begin(), kept.end(), [=](auto& product) { return product.get() != late; }),
                   kept.end());
    }

    // Jobs that the helper finished, and those of its jobs that the owner computed again.
    void counts(int64_t* out) const { out[0] = helped, out[1] = repeated; }
};

// Who computes a product: threads of OpenMP, or the caller and its helper.
struct Workers {
    int64_t threads;
    Helper* helper;

    static Workers one() { return {1, nullptr}; }

    int64_t count() const { return helper ? 2 : threads; }

    void compute(std::unique_ptr<Product> product) const {
        if (helper)
            helper->compute(std::move(product));
        else
            compute_in_parallel(*product, threads);
    }
};

// Where a product writes: at `out`, or where a helper may be late, into memory of its own, from which its owner copies.
template <class T> class Results {
    T* out;
    int64_t count;
    Scratch own;

public:
    T* data;

    Results(T* out, int64_t count, const Workers& workers)
        : out(out), count(count), data(workers.helper ? own.reserve<T>(count) : out) {}

    void copy_out() const {
        if (data != out) std::memcpy(out, data, count * sizeof(T));
    }
};

}  // namespace
