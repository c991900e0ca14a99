// Makes many captured kernel calls in one call from Python, which takes no part in them and can release its lock.
//
// The calling conventions of x86-64 (System V) and aarch64 (AAPCS64) pass integers and addresses in one sequence of
// registers and stack slots, and floats in another, independently of how the two alternate in the parameter list; a
// callee never reads slots beyond its own parameters. So one function type can call every kernel.

#pragma once

#include <cstdint>

#if (defined(__x86_64__) || defined(__aarch64__)) && defined(__LP64__) && !defined(_WIN32)

struct Call {
    using Kernel = void (*)(
        int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
        int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
        int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
        int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
        float, float, float, float, float, float, float, float);

    Kernel kernel;
    int64_t n[32];
    float f[8];

    void make() const {
        kernel(n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[9], n[10], n[11], n[12], n[13], n[14], n[15],
               n[16], n[17], n[18], n[19], n[20], n[21], n[22], n[23], n[24], n[25], n[26], n[27], n[28], n[29],
               n[30], n[31], f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7]);
    }
};

extern "C" void replay_calls(const Call* calls, int64_t count) {
    for (const Call* call = calls; call < calls + count; ++call) call->make();
}

#endif
