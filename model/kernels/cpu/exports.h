// The C interface for one element type T: cpu.cpp includes this file once per type. The number of threads comes last.

extern "C" {

void EXPORT(rms_norm)(const T* x, const float* weight, float offset, float eps, T* out, int64_t rows, int64_t width,
                      int64_t rows_per_group, int64_t stride, int threads) {
    rms_norm(x, weight, offset, eps, out, rows, width, rows_per_group, stride, threads);
}

void EXPORT(add_norm)(const T* x, const T* y, float scale, const float* weight, float offset, float eps, T* out,
                      T* normed, int64_t rows, int64_t width, int threads) {
    add_norm(x, y, scale, weight, offset, eps, out, normed, rows, width, threads);
}

void EXPORT(gated_rms_norm)(const T* x, const T* gate, const float* weight, float eps, T* out, int64_t rows,
                            int64_t width, int threads) {
    gated_rms_norm(x, gate, weight, eps, out, rows, width, threads);
}

void EXPORT(silu_mul)(const T* x, T* out, int64_t rows, int64_t width, int threads) {
    silu_mul(x, out, rows, width, threads);
}

void EXPORT(layer_norm)(const T* x, const float* weight, const float* bias, float eps, T* out, int64_t rows,
                        int64_t width, int threads) {
    layer_norm(x, weight, bias, eps, out, rows, width, threads);
}

void EXPORT(gelu_mul)(const T* x, T* out, int64_t rows, int64_t width, int threads) {
    gelu_mul(x, out, rows, width, threads);
}

void EXPORT(squared_relu)(const T* x, T* out, int64_t rows, int64_t width, int threads) {
    squared_relu(x, out, rows, width, threads);
}

void EXPORT(clamped_mul)(const T* x, T* out, int64_t rows, int64_t width, float alpha, float limit, int threads) {
    clamped_mul(x, out, rows, width, alpha, limit, threads);
}

void EXPORT(sigmoid_mul)(const T* x, const T* gate, T* out, int64_t rows, int64_t width, int64_t stride, int threads) {
    sigmoid_mul(x, gate, out, rows, width, stride, threads);
}

void EXPORT(scaled)(const T* x, float scale, T* out, int64_t count, int threads) {
    scaled(x, scale, out, count, threads);
}

void EXPORT(embedding)(const T* matrix, const int64_t* ids, T* out, int64_t rows, int64_t width, int threads) {
    embedding(matrix, ids, out, rows, width, threads);
}

void EXPORT(add_scaled)(const T* x, const T* y, float scale, T* out, int64_t count, int threads) {
    add_scaled(x, y, scale, out, count, threads);
}

void EXPORT(rotate)(const T* x, const float* cos, const float* sin, T* out, int64_t tokens, int64_t heads,
                    int64_t width, int64_t rotated, int64_t token_stride, int64_t head_stride, int threads) {
    rotate(x, cos, sin, out, tokens, heads, width, rotated, token_stride, head_stride, threads);
}

void EXPORT(qk_norm_rotate)(const T* q, const T* k, const float* cos, const float* sin, const float* q_weight,
                            const float* k_weight, float offset, float eps, T* q_out, T* k_out, int64_t tokens,
                            int64_t q_heads, int64_t k_heads, int64_t width, int64_t rotated, int64_t q_stride,
                            int64_t k_stride, int threads) {
    qk_norm_rotate<T>({q, q_weight, q_out, q_heads, q_stride}, {k, k_weight, k_out, k_heads, k_stride}, offset, eps,
                      cos, sin, tokens, width, rotated, threads);
}

void EXPORT(moe_combine)(const T* y, const float* weights, const T* shared, const float* gate, T* out, int64_t tokens,
                     int64_t K, int64_t width, int threads) {
    moe_combine(y, weights, shared, gate, out, tokens, K, width, threads);
}

void EXPORT(short_conv)(const T* x, const float* weight, const float* bias, float* state, const int32_t* rows,
                        const int32_t* starts, T* out, int64_t sequences, int64_t channels, int64_t taps,
                        int64_t activate, int threads) {
#define CASE(J) \
    case J: \
        short_conv<T, J>(x, weight, bias, state, rows, starts, out, sequences, channels, activate, threads); \
        break;
    switch (taps) { CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) }
#undef CASE
}

void EXPORT(mamba_scan)(const T* x, const float* dt, const float* A, const T* B, const T* C, float* state,
                        const int32_t* rows, const int32_t* starts, T* out, int64_t sequences, int64_t H, int64_t P,
                        int64_t G, int64_t N, int threads) {
    mamba_scan(x, dt, A, B, C, state, rows, starts, out, sequences, H, P, G, N, threads);
}

void EXPORT(time_steps)(const T* dt, const float* dt_bias, float* out, int64_t tokens, int64_t H, float low, float high,
                        int threads) {
    time_steps(dt, dt_bias, out, tokens, H, low, high, threads);
}

void EXPORT(selective_scan)(const T* x, const T* dt, const T* B, const T* C, const T* gate, const float* dt_bias,
                            const float* A_log, const float* D, float* state, const int32_t* rows,
                            const int32_t* starts, T* out, int64_t sequences, int64_t channels, int64_t N,
                            int threads) {
    SelectiveScan<T> p{x, dt, B, C, gate, dt_bias, A_log, D, state, rows, starts, out, sequences, channels, N};
    selective_scan(p, threads);
}

void EXPORT(kimi_delta)(const T* q, const T* k, const T* v, const T* a, const T* b, const float* A_log,
                        const float* dt_bias, float* state, const int32_t* rows, const int32_t* starts, T* out,
                        int64_t sequences, int64_t H, int64_t K, int64_t V, int threads) {
    KimiDelta<T> p{q, k, v, a, b, A_log, dt_bias, state, rows, starts, out, sequences, H, K};
#define CASE(N) \
    case N: kimi_delta<T, N>(p, threads); break;
    switch (V) { CASE(16) CASE(32) CASE(64) CASE(128) }
#undef CASE
}

void EXPORT(delta_net)(const T* x, const float* conv, const float* A_log, const float* dt_bias, const float* norm,
                       float eps, float* history, float* state, const int32_t* rows, const int32_t* starts, T* out,
                       int64_t sequences, int64_t taps, int64_t Hk, int64_t H, int64_t K, int64_t V, int threads) {
    DeltaNet<T> d{x, conv, A_log, dt_bias, norm, eps, history, state, rows, starts, out, sequences, taps, Hk, H, K};
#define CASE(N) \
    case N: delta_net<T, N>(d, threads); break;
    switch (V) { CASE(16) CASE(32) CASE(64) CASE(128) }
#undef CASE
}

void EXPORT(delta_rule_forward)(const T* q, const T* k, const T* v, const float* log_decay, const float* beta, T* out,
                                float* kept, int64_t B, int64_t L, int64_t H, int64_t K, int64_t V, int64_t stride,
                                int threads) {
#define CASE(N) \
    case N: delta_rule_forward<T, N>(q, k, v, log_decay, beta, out, kept, B, L, H, K, stride, threads); break;
    switch (V) { CASE(16) CASE(32) CASE(64) CASE(128) }
#undef CASE
}

void EXPORT(delta_rule_backward)(const T* q, const T* k, const T* v, const float* log_decay, const float* beta,
                                 const T* dout, const float* kept, T* dq, T* dk, T* dv, float* dlog_decay,
                                 float* dbeta, int64_t B, int64_t L, int64_t H, int64_t K, int64_t V, int64_t stride,
                                 int threads) {
#define CASE(N) \
    case N: \
        delta_rule_backward<T, N>(q, k, v, log_decay, beta, dout, kept, dq, dk, dv, dlog_decay, dbeta, B, L, H, K, \
                                  stride, threads); \
        break;
    switch (V) { CASE(16) CASE(32) CASE(64) CASE(128) }
#undef CASE
}

void EXPORT(rms_norm_backward)(const T* x, const T* gate, const float* weight, float offset, float eps, const T* dy,
                               T* dx, T* dgate, float* dweight, int64_t rows, int64_t width, int threads) {
    rms_norm_backward(x, gate, weight, offset, eps, dy, dx, dgate, dweight, rows, width, threads);
}

void EXPORT(silu_mul_backward)(const T* x, const T* dy, T* dx, int64_t rows, int64_t width, int threads) {
    silu_mul_backward(x, dy, dx, rows, width, threads);
}

void EXPORT(short_conv_forward)(const T* x, const float* weight, const float* bias, T* out, int64_t B, int64_t L,
                                int64_t C, int64_t taps, int64_t activate, int threads) {
#define CASE(J) \
    case J: short_conv_forward<T, J>(x, weight, bias, out, B, L, C, activate, threads); break;
    switch (taps) { CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) }
#undef CASE
}

void EXPORT(short_conv_backward)(const T* x, const float* weight, const float* bias, const T* dy, T* dx,
                                 float* dweight, int64_t B, int64_t L, int64_t C, int64_t taps, int64_t activate,
                                 int threads) {
#define CASE(J) \
    case J: short_conv_backward<T, J>(x, weight, bias, dy, dx, dweight, B, L, C, activate, threads); break;
    switch (taps) { CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) }
#undef CASE
}

void EXPORT(softmax_gradient)(T* logits, const int64_t* targets, const float* weights, float* losses, int64_t rows,
                              int64_t width, int threads) {
    softmax_gradient(logits, targets, weights, losses, rows, width, threads);
}

void EXPORT(store_kv)(const T* k, const T* v, T* keys, T* values, const int64_t* positions, const int32_t* starts,
                      const int32_t* table, int64_t sequences, int64_t table_width, int64_t block_size,
                      int64_t key_row, int64_t value_row, int64_t key_stride, int64_t value_stride, int threads) {
    store_kv(k, v, keys, values, positions, starts, table, sequences, table_width, block_size, key_row, value_row,
             key_stride, value_stride, threads);
}

void EXPORT(paged_attention)(const T* q, const T* keys, const T* values, const int64_t* positions,
                             const int32_t* starts, const int32_t* table, const float* sinks, T* out,
                             int64_t sequences, int64_t table_width, int64_t block_size, int64_t H, int64_t G,
                             int64_t D, int64_t V, int64_t key_block, int64_t key_position, int64_t key_head,
                             int64_t value_block, int64_t value_position, int64_t value_head, float scale,
                             int64_t window, int threads) {
    paged_attention<T>({q, keys, values, positions, starts, table, sinks, out, sequences, table_width, block_size, H,
                        G, D, V, {key_block, key_position, key_head}, {value_block, value_position, value_head},
                        scale, window}, threads);
}

}  // extern "C"
