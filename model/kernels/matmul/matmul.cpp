// Matrix products for serving on a CPU: few to many rows times weights that were packed once (weights.h), loaded with
// ctypes by model/kernels/matmul.
//
// Every output element is one chain of additions in the order of the inputs, computed by one thread. So the bits of a
// row depend neither on the other rows nor on the number of threads. Any numbers of inputs and outputs are supported.

#include <system_error>

#include "../build_info.h"
#include "gemm_driver.h"
#include "moe.h"
#include "pack_short.h"
#include "quantize.h"
#include "unpack.h"

namespace {

// The helper of the calling thread, if it has started one.
thread_local std::unique_ptr<Helper> helper;

// A helper helps one thread; several have no time to spare for it.
Workers workers(int64_t threads) { return {threads, threads == 1 ? helper.get() : nullptr}; }

// x in the form in which this processor multiplies it by the matrix.
template <class T, class Out>
void matmul_any(const T* x, const int64_t* counts, int64_t experts, const PackedMatrix* matrix, Out* out, int64_t rows,
                int64_t threads) {
    with_compute_type<T>(matrix->format, [=](auto in) {
        matmul<decltype(in)>(x, counts, experts, *matrix, out, rows, workers(threads));
    });
}

template <class T> void moe_any(const T* x, const MoECall* call, T* out, int64_t threads) {
    with_compute_type<T>(call->format(), [=](auto in) { moe<decltype(in)>(x, *call, out, workers(threads)); });
}

}  // namespace

extern "C" {

void pack_weights(const void* weights, uint8_t* out, int64_t format, int64_t experts, int64_t outputs, int64_t inputs,
                  int64_t threads) {
    pack(static_cast<const uint8_t*>(weights), out, format, experts, outputs, inputs, threads);
}

// Whether BF16 is faster as SHORT_BF16 at this level. Where a product takes several instructions, reading a weight takes
// too many more: steps with four streams and more are then slower by up to a ninth.
int short_exponents_pay() {
#ifdef ROUTELM_BF16_DOT
    return 1;
#else
    return 0;
#endif
}

// BF16 as SHORT_BF16: first `exponents` [experts, panels, groups] and `starts` [experts * panels + 1], the last of which is
// the size, then `out`.
void measure_short(const uint16_t* weights, uint8_t* exponents, int64_t* starts, int64_t experts, int64_t outputs,
                   int64_t inputs, int64_t threads) {
    measure(weights, exponents, starts, experts, outputs, inputs, threads);
}

void pack_short_weights(const void* weights, uint8_t* out, const uint8_t* exponents, const int64_t* starts,
                        int64_t experts, int64_t outputs, int64_t inputs, int64_t threads) {
    pack_short(static_cast<const uint8_t*>(weights), out, exponents, starts, experts, outputs, inputs, threads);
}

void unpack_rows(const PackedMatrix* matrix, const int64_t* outputs, int64_t rows, uint8_t* out, int64_t threads) {
    unpack(*matrix, outputs, rows, out, threads);
}

// Named by the type of the weights.
void quantize_int4_f32(const float* weights, int64_t groups, uint8_t* out, bf16* scales, int64_t threads) {
    quantize_int4(weights, groups, out, scales, threads);
}

void quantize_int4_bf16(const bf16* weights, int64_t groups, uint8_t* out, bf16* scales, int64_t threads) {
    quantize_int4(weights, groups, out, scales, threads);
}

// Named by the types of x and of the result.
void matmul_f32_f32(const float* x, const int64_t* counts, int64_t experts, const PackedMatrix* matrix, float* out,
                    int64_t rows, int64_t threads) {
    matmul_any(x, counts, experts, matrix, out, rows, threads);
}

void matmul_bf16_bf16(const bf16* x, const int64_t* counts, int64_t experts, const PackedMatrix* matrix, bf16* out,
                      int64_t rows, int64_t threads) {
    matmul_any(x, counts, experts, matrix, out, rows, threads);
}

void matmul_bf16_f32(const bf16* x, const int64_t* counts, int64_t experts, const PackedMatrix* matrix, float* out,
                     int64_t rows, int64_t threads) {
    matmul_any(x, counts, experts, matrix, out, rows, threads);
}

void moe_f32(const float* x, const MoECall* call, float* out, int64_t threads) { moe_any(x, call, out, threads); }

void moe_bf16(const bf16* x, const MoECall* call, bf16* out, int64_t threads) { moe_any(x, call, out, threads); }

// From now on a second thread helps the calling thread with products that it computes alone, if the system allows one
// more thread. The weights must stay in place until `stop_helper`.
void start_helper() {
    if (helper) return;
    try {
        helper.reset(new Helper);
    } catch (const std::system_error&) {  // a limit on threads is reached
    }
}

void stop_helper() { helper.reset(); }

// Of the calling thread's helper, as in Helper::counts; zeros without one.
void helper_counts(int64_t* counts) {
    counts[0] = counts[1] = 0;
    if (helper) helper->counts(counts);
}

}  // extern "C"
