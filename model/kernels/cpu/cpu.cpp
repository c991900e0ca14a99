// The CPU kernels other than matrix products: C functions on raw pointers, loaded with ctypes by model/kernels/cpu.
//
// Every output element is computed by one thread, from the inputs and the state of its own token, in an order that does
// not depend on how many tokens or sequences are in the call. That makes answers bitwise reproducible in any batch.
// There is no scalar code for remainders, whose bits would differ: see for_each_vector in vectors.h. Attention, the
// recurrences and the gradients require widths that are multiples of 16, which the Python side checks.

#include "../build_info.h"
#include "attention.h"
#include "delta_net.h"
#include "elementwise.h"
#include "gradients.h"
#include "kimi_delta.h"
#include "mamba2.h"
#include "norms.h"
#include "replay.h"
#include "rotary.h"
#include "routing.h"
#include "sampling.h"
#include "selective_scan.h"
#include "short_conv.h"

extern "C" void top_k_softmax_f32(const float* logits, float* weights, int64_t* chosen, int64_t tokens, int64_t E,
                                  int64_t stride, int64_t K, int64_t over_all, int threads) {
    top_k_softmax(logits, weights, chosen, tokens, E, stride, K, over_all, threads);
}

extern "C" void count_routing_f32(const float* logits, const float* weights, const int64_t* experts,
                                  const int64_t* groups, int64_t* pairs, double* entropy, int64_t* counted, int64_t L,
                                  int64_t T, int64_t E, int64_t K, int threads) {
    count_routing(logits, weights, experts, groups, pairs, entropy, counted, L, T, E, K, threads);
}

extern "C" void rotary_tables_f32(const int64_t* positions, const float* frequencies, float* cos, float* sin,
                                  int64_t tokens, int64_t half, float magnitude, int threads) {
    rotary_tables(positions, frequencies, cos, sin, tokens, half, magnitude, threads);
}

extern "C" void sample_f32(const float* scores, const int64_t* integers, const double* numbers, int64_t* tokens,
                           int64_t rows, int64_t width, int threads) {
    sample_rows(scores, integers, numbers, tokens, rows, width, threads);
}

// All other functions exist for float32 and bfloat16.
#define T float
#define EXPORT(name) name##_f32
#include "exports.h"
#undef T
#undef EXPORT
#define T bf16
#define EXPORT(name) name##_bf16
#include "exports.h"
