// Matrix products for serving on a CPU: few to many rows times weights that were packed once (weights.h), loaded with
// ctypes by model/kernels/matmul.
//
// Every output element is one chain of additions in the order of the inputs, computed by one thread. So the bits of a
// row depend neither on the other rows nor on the number of threads. Any numbers of inputs and outputs are supported.

#include "../build_info.h"
#include "gemm_driver.h"
#include "moe.h"
#include "pack.h"

namespace {

// x of bfloat16, in the type in which this processor multiplies it.
template <class Out>
void matmul_of_bf16(const bf16* x, const int64_t* counts, int64_t experts, const PackedMatrix* matrix, Out* out,
                    int64_t rows, int64_t threads) {
    auto compute = needs_float(matrix) ? matmul<float, bf16, Out> : matmul<ComputeType<bf16>::type, bf16, Out>;
    compute(x, counts, experts, *matrix, out, rows, threads);
}

}  // namespace

extern "C" {

void pack_weights(const void* weights, uint8_t* out, int64_t format, int64_t experts, int64_t outputs, int64_t inputs,
                  int64_t threads) {
    pack(static_cast<const uint8_t*>(weights), out, format, experts, outputs, inputs, threads);
}

void unpack_rows(const PackedMatrix* matrix, const int64_t* outputs, int64_t rows, uint8_t* out, int64_t threads) {
    unpack(*matrix, outputs, rows, out, threads);
}

// Named by the types of x and of the result.
void matmul_f32_f32(const float* x, const int64_t* counts, int64_t experts, const PackedMatrix* matrix, float* out,
                    int64_t rows, int64_t threads) {
    matmul<float>(x, counts, experts, *matrix, out, rows, threads);
}

void matmul_bf16_bf16(const bf16* x, const int64_t* counts, int64_t experts, const PackedMatrix* matrix, bf16* out,
                      int64_t rows, int64_t threads) {
    matmul_of_bf16(x, counts, experts, matrix, out, rows, threads);
}

void matmul_bf16_f32(const bf16* x, const int64_t* counts, int64_t experts, const PackedMatrix* matrix, float* out,
                     int64_t rows, int64_t threads) {
    matmul_of_bf16(x, counts, experts, matrix, out, rows, threads);
}

void moe_f32(const float* x, const MoECall* call, float* out, int64_t threads) { moe<float>(x, *call, out, threads); }

void moe_bf16(const bf16* x, const MoECall* call, bf16* out, int64_t threads) {
    bool floats = call->routed.needs_float() || call->shared.needs_float();
    auto compute = floats ? moe<float, bf16> : moe<ComputeType<bf16>::type, bf16>;
    compute(x, *call, out, threads);
}

}  // extern "C"
