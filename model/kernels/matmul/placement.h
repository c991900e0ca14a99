// On which processors an owner and its helper run. Elsewhere than on Linux that is left to the system.

#pragma once

#include <cstdint>

#ifdef __linux__
#include <pthread.h>
#include <sched.h>
#include <time.h>
#endif

namespace {

#ifdef __linux__

inline int current_cpu() { return sched_getcpu(); }

// Keeps a thread away from one of the processors that the calling thread may use.
inline void keep_away(pthread_t thread, int cpu) {
    cpu_set_t allowed;
    pthread_getaffinity_np(pthread_self(), sizeof allowed, &allowed);
    CPU_CLR(cpu, &allowed);
    if (CPU_COUNT(&allowed)) pthread_setaffinity_np(thread, sizeof allowed, &allowed);
}

// Moves the calling thread there. It may be moved again.
inline void move_to(int cpu) {
    cpu_set_t allowed, there;
    pthread_getaffinity_np(pthread_self(), sizeof allowed, &allowed);
    CPU_ZERO(&there);
    CPU_SET(cpu, &there);
    pthread_setaffinity_np(pthread_self(), sizeof there, &there);
    pthread_setaffinity_np(pthread_self(), sizeof allowed, &allowed);
}

inline int64_t nanoseconds(clockid_t clock) {
    timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * 1000000000ll + time.tv_nsec;
}

// Of the calling thread since an arbitrary start: nanoseconds in which it did not run.
inline int64_t time_off() { return nanoseconds(CLOCK_MONOTONIC) - nanoseconds(CLOCK_THREAD_CPUTIME_ID); }

#else

inline int current_cpu() { return 0; }
template <class Thread> void keep_away(Thread, int) {}
inline void move_to(int) {}
inline int64_t time_off() { return 0; }

#endif

}  // namespace
