// Matrix products of a CPU that serves: few to many rows times weights that were packed once (product_weights.inc).
//
// Every output element is one chain of additions in the order of the inputs, computed by one thread: a row's bits
// depend neither on the other rows, nor on the number of threads. Any number of inputs and outputs will do.

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

#if defined(__AVX512VBMI__)
#include <immintrin.h>
#define ROUTELM_TABLES  // codes become bfloat16 by instructions that look bytes up
#if defined(__AVX512BF16__)
#define ROUTELM_DOT  // products of bfloat16 pairs in one instruction; elsewhere activations become float32 first
#endif
#endif

#include "built_of.inc"
#include "supported.inc"
#include "product_vectors.inc"
#include "product_weights.inc"
#include "product_tile.inc"
#include "product_drive.inc"
#include "product_experts.inc"
#include "product_pack.inc"

extern "C" {

void pack(const void* codes, uint8_t* out, int64_t kind, int64_t experts, int64_t outputs, int64_t inputs,
          int64_t threads) {
    pack_matrices(static_cast<const uint8_t*>(codes), out, kind, experts, outputs, inputs, threads);
}

void product_f32(const float* x, const int64_t* counts, int64_t experts, const Matrix* matrix, float* out, int64_t rows,
                 int64_t threads) {
    product<float>(x, counts, experts, *matrix, out, rows, threads);
}

void product_bf16(const bf16* x, const int64_t* counts, int64_t experts, const Matrix* matrix, bf16* out, int64_t rows,
                  int64_t threads) {
    auto compute = needs_floats(matrix) ? product<float, bf16, bf16> : product<Multiplied<bf16>::type, bf16, bf16>;
    compute(x, counts, experts, *matrix, out, rows, threads);
}

// The sums as they are, not rounded to the type of x.
void sums_f32(const float* x, const int64_t* counts, int64_t experts, const Matrix* matrix, float* out, int64_t rows,
              int64_t threads) {
    product<float>(x, counts, experts, *matrix, out, rows, threads);
}

void sums_bf16(const bf16* x, const int64_t* counts, int64_t experts, const Matrix* matrix, float* out, int64_t rows,
               int64_t threads) {
    auto compute = needs_floats(matrix) ? product<float, bf16, float> : product<Multiplied<bf16>::type, bf16, float>;
    compute(x, counts, experts, *matrix, out, rows, threads);
}

void unpack_rows(const Matrix* matrix, const int64_t* chosen, int64_t rows, uint8_t* out, int64_t threads) {
    unpack(*matrix, chosen, rows, out, threads);
}

void experts_f32(const float* x, const Choice* choice, float* out, int64_t threads) {
    run_experts<float>(x, *choice, out, threads);
}

void experts_bf16(const bf16* x, const Choice* choice, bf16* out, int64_t threads) {
    bool floats = choice->routed.needs_floats() || choice->shared.needs_floats();
    auto compute = floats ? run_experts<float, bf16> : run_experts<Multiplied<bf16>::type, bf16>;
    compute(x, *choice, out, threads);
}

}  // extern "C"
