"""The definition of every kernel in PyTorch: what the compiled kernels are tested against, and the fallback.

These functions are written for clarity. Recurrences and attention compute one token after another. Except for those
that advance a cache, all are differentiable. matmul/reference.py defines the matrix products with frozen weights,
sampling_reference.py how tokens are drawn.

Shapes: T tokens, S sequences, C channels, J convolution taps, H heads, Q key heads, K key width, V value width, R rows,
N blocks, P tokens per block, G key/value heads, D head width, F inner width. In the Mamba-2 scan: P head width, G
groups, N state width.
"""

import torch
from torch import Tensor
from torch.nn import functional

from model.kernels.types import GatedDelta, Paging, QKNorms, SelectiveScan

FORGET = -60.0  # a log decay that leaves nothing in float32, and whose sums keep their precision


def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    """x / rms(x) * (weight + offset) over the last dimension, computed in float32, returned in x's type."""
    x32 = x.float()
    scale = torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)
    return (x32 * scale * (weight.float() + offset)).to(x.dtype)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """(x - mean(x)) / std(x) * weight + bias over the last dimension, computed in float32, returned in x's type."""
    return functional.layer_norm(x.float(), weight.shape, weight.float(), bias.float(), eps).to(x.dtype)


def add_norm(
    x: Tensor, y: Tensor, scale: float, weight: Tensor, eps: float, offset: float = 0.0
) -> tuple[Tensor, Tensor]:
    """x + scale * y, and rms_norm of it."""
    out = add_scaled(x, y, scale)
    return out, rms_norm(out, weight, eps, offset)


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight * silu(gate) over the last dimension, computed in float32, returned in x's type."""
    x32 = x.float()
    scale = torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)
    return (x32 * scale * weight.float() * functional.silu(gate.float())).to(x.dtype)


def silu_mul(x_T2F: Tensor) -> Tensor:
    """silu(gate) * up for x = [gate | up]."""
    gate, up = x_T2F.chunk(2, dim=-1)
    return functional.silu(gate) * up


def gelu_mul(x_T2F: Tensor) -> Tensor:
    """gelu(gate) * up for x = [gate | up], with the tanh approximation of GELU."""
    gate, up = x_T2F.chunk(2, dim=-1)
    return functional.gelu(gate, approximate="tanh") * up


def squared_relu(x: Tensor) -> Tensor:
    """relu(x)^2, elementwise."""
    return x.relu().square()


def clamped_mul(x_T2F: Tensor, alpha: float, limit: float) -> Tensor:
    """gate * sigmoid(alpha * gate) * (up + 1) for x = [gate | up], with gate <= limit and |up| <= limit.

    Computed in float32, returned in x's type.
    """
    gate, up = x_T2F.float().chunk(2, dim=-1)
    gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return (gate * torch.sigmoid(alpha * gate) * (up + 1)).to(x_T2F.dtype)


def sigmoid_mul(x: Tensor, gate: Tensor) -> Tensor:
    """x * sigmoid(gate), elementwise."""
    return x * torch.sigmoid(gate)


def scaled(x: Tensor, scale: float) -> Tensor:
    """scale * x, in x's type."""
    return x * scale


def embedding(matrix_VD: Tensor, ids_T: Tensor) -> Tensor:
    """The rows of a matrix with these ids: [T, D]."""
    return functional.embedding(ids_T, matrix_VD)


def add_scaled(x: Tensor, y: Tensor, scale: float) -> Tensor:
    """x + scale * y, elementwise."""
    return x + y if scale == 1 else x + y * scale


def rotate(x_THD: Tensor, cos_TW: Tensor, sin_TW: Tensor) -> Tensor:
    """Rotate coordinate i with i + W / 2, for the first W coordinates of every head, in float32; copy the others."""
    width = cos_TW.shape[-1]
    x_THW, rest = x_THD[..., :width].float(), x_THD[..., width:]
    first, second = x_THW.chunk(2, dim=-1)
    rotated_THW = x_THW * cos_TW[:, None] + torch.cat([-second, first], dim=-1) * sin_TW[:, None]
    return torch.cat([rotated_THW.to(x_THD.dtype), rest], dim=-1)


def qk_norm_rotate(
    q_THD: Tensor, k_TGD: Tensor, cos_TW: Tensor, sin_TW: Tensor, norms: QKNorms | None = None
) -> tuple[Tensor, Tensor]:
    """Queries and keys, each head normalized if there are norms, and rotated."""
    if norms is not None:
        q_THD = rms_norm(q_THD, norms.q_weight_K, norms.eps, norms.offset)
        k_TGD = rms_norm(k_TGD, norms.k_weight_K, norms.eps, norms.offset)
    return rotate(q_THD, cos_TW, sin_TW), rotate(k_TGD, cos_TW, sin_TW)


def rotary_tables(positions_T: Tensor, frequency_F: Tensor, magnitude: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of position * frequency, times the magnitude: float32 [T, 2F] each, with equal halves."""
    angles_TF = positions_T[:, None].float() * frequency_F
    angles_TW = torch.cat([angles_TF, angles_TF], dim=-1)
    return angles_TW.cos() * magnitude, angles_TW.sin() * magnitude


def top_k_softmax(logits_TE: Tensor, k: int, over_all: bool) -> tuple[Tensor, Tensor]:
    """The k highest logits, highest first, ties in the order of their index: weights and indices, [T, k] each.

    Weights are a softmax over the chosen logits, or with `over_all` their shares of a softmax over all.
    """
    experts_TK = logits_TE.sort(dim=-1, descending=True, stable=True).indices[:, :k]
    if over_all:
        return logits_TE.softmax(-1).gather(1, experts_TK), experts_TK
    return logits_TE.gather(1, experts_TK).softmax(-1), experts_TK


def count_routing(
    router_logits_LTE: Tensor, weights_LTK: Tensor, experts_LTK: Tensor, groups_T: Tensor, num_groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The choices and the entropy of T tokens that belong to N groups, in L layers.

    Returns how many tokens of each group went to each expert, int64 [N, L, E], choices of weight zero left out; and of
    each layer the sum of the entropies of a softmax over the logits in nats, float64 [L], and of how many tokens that
    is, int64 [L]: a token whose softmax is NaN has none.
    """
    layers, _, num_experts = router_logits_LTE.shape
    rows_L = torch.arange(layers, device=groups_T.device)
    places_LTK = ((groups_T[:, None] * layers + rows_L[:, None, None]) * num_experts) + experts_LTK
    pairs = torch.bincount(places_LTK[weights_LTK != 0], minlength=num_groups * layers * num_experts)
    logprobs_LTE = router_logits_LTE.log_softmax(-1)
    finite_LTE = logprobs_LTE.clamp(min=torch.finfo(logprobs_LTE.dtype).min)  # 0 times -inf would be NaN
    entropy_LT = -(logprobs_LTE.exp() * finite_LTE).sum(-1)
    counted_L = (~entropy_LT.isnan()).sum(1)
    return pairs.view(num_groups, layers, num_experts), entropy_LT.nansum(1, dtype=torch.float64), counted_L


def moe_combine(y_TKD: Tensor, weights_TK: Tensor, shared_TD: Tensor | None, gate_T: Tensor | None) -> Tensor:
    """The weighted sum of the outputs of a token's experts, plus sigmoid(gate) * shared if there is a shared expert."""
    out_TD = (y_TKD.float() * weights_TK[..., None]).sum(1)
    if shared_TD is not None and gate_T is not None:
        out_TD = out_TD + shared_TD.float() * torch.sigmoid(gate_T)[:, None]
    return out_TD.to(y_TKD.dtype)


def delta_gates(a_TH: Tensor, b_TH: Tensor, A_log_H: Tensor, dt_bias_H: Tensor) -> tuple[Tensor, Tensor]:
    """The log decay -e^A_log softplus(a + dt_bias) and the write strength sigmoid(b), both float32 [T, H]."""
    log_decay_TH = -A_log_H.float().exp() * functional.softplus(a_TH.float() + dt_bias_H.float())
    return log_decay_TH, torch.sigmoid(b_TH.float())


def short_conv(
    x_TC: Tensor,
    weight_CJ: Tensor,
    bias_C: Tensor | None,
    state_RJC: Tensor,
    rows_S: Tensor,
    starts_S1: Tensor,
    silu: bool,
) -> Tensor:
    """Causal depthwise convolution, with `silu` followed by SiLU; advances `state_RJC`, the last J - 1 inputs."""
    out_TC = torch.empty_like(x_TC)
    for row, start, end in _spans(rows_S, starts_S1):
        window = torch.cat([state_RJC[row], x_TC[start:end].float()])
        taps = window.unfold(0, weight_CJ.shape[1], 1)
        y_TC = (taps * weight_CJ.float()).sum(-1)
        if bias_C is not None:
            y_TC = y_TC + bias_C.float()
        out_TC[start:end] = (functional.silu(y_TC) if silu else y_TC).to(x_TC.dtype)
        state_RJC[row] = window[end - start :]
    return out_TC


def short_conv_train(
    x_BLC: Tensor, weight_CJ: Tensor, bias_C: Tensor | None, silu: bool, positions_BL: Tensor | None = None
) -> Tensor:
    """The same convolution over whole rows, each preceded by zeros; differentiable.

    With `positions_BL` a row may hold several sequences: position 0 starts one, and it sees nothing before itself.
    """
    channels, taps = weight_CJ.shape
    if positions_BL is None:
        padded_BCL = functional.pad(x_BLC.transpose(1, 2), (taps - 1, 0))
        weight, bias = weight_CJ[:, None].to(x_BLC.dtype), bias_C.to(x_BLC.dtype) if bias_C is not None else None
        y_BLC = functional.conv1d(padded_BCL, weight, bias, groups=channels).transpose(1, 2)
    else:
        y_BLC = _packed_conv(x_BLC, weight_CJ, bias_C, positions_BL).to(x_BLC.dtype)
    return functional.silu(y_BLC) if silu else y_BLC


def _packed_conv(x_BLC: Tensor, weight_CJ: Tensor, bias_C: Tensor | None, positions_BL: Tensor) -> Tensor:
    """The convolution tap by tap: each reads the row shifted, and nothing from before the start of its sequence."""
    taps, length = weight_CJ.shape[1], x_BLC.shape[1]
    padded_BLC = functional.pad(x_BLC, (0, 0, taps - 1, 0)).float()
    y_BLC = x_BLC.float() * weight_CJ[:, -1]
    for back in range(1, taps):
        shifted_BLC = padded_BLC[:, taps - 1 - back :][:, :length]
        y_BLC = y_BLC + shifted_BLC * weight_CJ[:, -1 - back] * (positions_BL >= back)[..., None]
    return y_BLC if bias_C is None else y_BLC + bias_C


def normalize(x: Tensor) -> Tensor:
    """x / |x| over the last dimension in float32, as the delta rule normalizes queries and keys."""
    x32 = x.float()
    return x32 * torch.rsqrt(x32.square().sum(-1, keepdim=True) + 1e-6)


def delta_rule(
    q_TQK: Tensor,
    k_TQK: Tensor,
    v_THV: Tensor,
    log_decay_TH: Tensor,
    beta_TH: Tensor,
    state_RHKV: Tensor,
    rows_S: Tensor,
    starts_S1: Tensor,
) -> Tensor:
    """The gated delta rule (arXiv 2412.06464), one token after another; advances `state_RHKV`. Returns [T, H, V].

    S <- e^g S;  u = beta (v - S^T k);  S <- S + k u^T;  o = S^T q / sqrt(K), with q and k of unit length.
    """
    groups = v_THV.shape[1] // q_TQK.shape[1]
    q = (normalize(q_TQK) * q_TQK.shape[-1] ** -0.5).repeat_interleave(groups, dim=1)
    k = normalize(k_TQK).repeat_interleave(groups, dim=1)
    return _delta_scan(q, k, v_THV, log_decay_TH.exp()[..., None], beta_TH, state_RHKV, rows_S, starts_S1)


def _delta_scan(
    q: Tensor,
    k: Tensor,
    v_THV: Tensor,
    decay: Tensor,
    beta_TH: Tensor,
    state_RHKV: Tensor,
    rows_S: Tensor,
    starts_S1: Tensor,
) -> Tensor:
    out_THV = torch.empty_like(v_THV)
    for row, start, end in _spans(rows_S, starts_S1):
        S_HKV = state_RHKV[row].clone()
        for t in range(start, end):
            S_HKV, o_HV = _delta_step(S_HKV, q[t], k[t], v_THV[t].float(), decay[t], beta_TH[t])
            out_THV[t] = o_HV.to(v_THV.dtype)
        state_RHKV[row] = S_HKV
    return out_THV


def _delta_step(S: Tensor, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """The next state [..., H, K, V] and the output [..., H, V]; `decay` is [..., H, K] or [..., H, 1]."""
    S = S * decay[..., None]
    u = beta[..., None] * (v - torch.einsum("...kv,...k->...v", S, k))
    S = S + k[..., :, None] * u[..., None, :]
    return S, torch.einsum("...kv,...k->...v", S, q)


def gated_delta(
    x_TP: Tensor, weights: GatedDelta, conv_RJC: Tensor, state_RHKV: Tensor, rows_S: Tensor, starts_S1: Tensor
) -> Tensor:
    """A Gated DeltaNet layer without its two matrix products; advances both states. Returns [T, H * V]."""
    mixed_TC, z, b_TH, a_TH = weights.split(x_TP)
    mixed_TC = short_conv(mixed_TC, weights.conv_CJ, None, conv_RJC, rows_S, starts_S1, silu=True)
    gates = delta_gates(a_TH, b_TH, weights.A_log_H, weights.dt_bias_H)
    out_THV = delta_rule(*weights.heads(mixed_TC), *gates, state_RHKV, rows_S, starts_S1)
    return gated_rms_norm(out_THV, z.unflatten(-1, out_THV.shape[1:]), weights.norm_V, weights.eps).flatten(1)


def gated_delta_train(x_BLP: Tensor, weights: GatedDelta, positions_BL: Tensor | None = None) -> Tensor:
    """The same layer over whole rows from a zero state; differentiable: [B, L, H * V].

    With `positions_BL` a row may hold several sequences, each from a zero state: see `short_conv_train`.
    """
    mixed_BLC, z, b_BLH, a_BLH = weights.split(x_BLP)
    q, k, v_BLHV = weights.heads(short_conv_train(mixed_BLC, weights.conv_CJ, None, True, positions_BL))
    out_BLHV = delta_rule_train(q, k, v_BLHV, *train_gates(a_BLH, b_BLH, weights, positions_BL))
    return gated_rms_norm(out_BLHV, z.unflatten(-1, out_BLHV.shape[2:]), weights.norm_V, weights.eps).flatten(2)


def train_gates(
    a_BLH: Tensor, b_BLH: Tensor, weights: GatedDelta, positions_BL: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`delta_gates`, with a decay that forgets all at the first token of each sequence."""
    log_decay_BLH, beta_BLH = delta_gates(a_BLH, b_BLH, weights.A_log_H, weights.dt_bias_H)
    if positions_BL is not None:
        log_decay_BLH = log_decay_BLH.masked_fill((positions_BL == 0)[..., None], FORGET)
    return log_decay_BLH, beta_BLH


def kimi_delta(
    q_THK: Tensor,
    k_THK: Tensor,
    v_THV: Tensor,
    a_THK: Tensor,
    b_TH: Tensor,
    A_log_H: Tensor,
    dt_bias_HK: Tensor,
    state_RHKV: Tensor,
    rows_S: Tensor,
    starts_S1: Tensor,
) -> Tensor:
    """Kimi Delta Attention (arXiv 2510.26692): the delta rule with a decay per key coordinate; advances `state_RHKV`.

    S <- diag(e^g) S;  u = beta (v - S^T k);  S <- S + k u^T;  o = S^T q / sqrt(K), with q and k of unit length,
    g = -e^A_log softplus(a + dt_bias) and beta = sigmoid(b). Returns [T, H, V].
    """
    q, k, decay_THK, beta_TH = _kimi_inputs(q_THK, k_THK, a_THK, b_TH, A_log_H, dt_bias_HK)
    return _delta_scan(q, k, v_THV, decay_THK, beta_TH, state_RHKV, rows_S, starts_S1)


def kimi_delta_train(
    q_BLHK: Tensor,
    k_BLHK: Tensor,
    v_BLHV: Tensor,
    a_BLHK: Tensor,
    b_BLH: Tensor,
    A_log_H: Tensor,
    dt_bias_HK: Tensor,
) -> Tensor:
    """The same rule over whole rows from a zero state, token by token; differentiable: [B, L, H, V]."""
    q, k, decay_BLHK, beta_BLH = _kimi_inputs(q_BLHK, k_BLHK, a_BLHK, b_BLH, A_log_H, dt_bias_HK)
    v = v_BLHV.float()
    S_BHKV, outs = v.new_zeros(len(v), *k.shape[2:], v.shape[-1]), []
    for t in range(v.shape[1]):
        S_BHKV, o_BHV = _delta_step(S_BHKV, q[:, t], k[:, t], v[:, t], decay_BLHK[:, t], beta_BLH[:, t])
        outs.append(o_BHV)
    return torch.stack(outs, 1).to(v_BLHV.dtype)


def _kimi_inputs(
    q: Tensor, k: Tensor, a: Tensor, b: Tensor, A_log_H: Tensor, dt_bias_HK: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalized queries and keys, decays and write strengths."""
    log_decay, beta = delta_gates(a, b, A_log_H[:, None], dt_bias_HK)
    return normalize(q) * q.shape[-1] ** -0.5, normalize(k), log_decay.exp(), beta


def delta_rule_train(q_BLHK: Tensor, k_BLHK: Tensor, v_BLHV: Tensor, log_decay_BLH: Tensor, beta_BLH: Tensor) -> Tensor:
    """The gated delta rule over whole rows from a zero state, as products over chunks; differentiable: [B, L, H, V].

    Within a chunk (G: cumulative sum of log decays), the writes u solve (I + A) u = beta (v - decayed S^T k), where A
    is strictly lower triangular.
    """
    chunk = 64 if q_BLHK.is_cuda else 32  # on a GPU, fewer small products one after another
    groups = v_BLHV.shape[2] // q_BLHK.shape[2]
    if groups > 1:
        q_BLHK, k_BLHK = q_BLHK.repeat_interleave(groups, dim=2), k_BLHK.repeat_interleave(groups, dim=2)
    q = _chunks(normalize(q_BLHK) * q_BLHK.shape[-1] ** -0.5, chunk)
    k, v = _chunks(normalize(k_BLHK), chunk), _chunks(v_BLHV, chunk)
    G = _chunks(log_decay_BLH, chunk).cumsum(-1)
    beta = _chunks(beta_BLH, chunk)[..., None]
    decay = _decay_between(G)
    A = ((k @ k.transpose(-1, -2)) * decay * beta).tril(-1)
    inverse = _inverse_of_unit_lower(A)
    grown = G.exp()[..., None]
    U, K_in = inverse @ (beta * v), inverse @ (beta * grown * k)
    inside = (q @ k.transpose(-1, -2)) * decay
    k_out = k * (G[..., -1:] - G).exp()[..., None]
    S = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])
    outs = []
    for n in range(q.shape[2]):
        u = U[:, :, n] - K_in[:, :, n] @ S
        outs.append((q * grown)[:, :, n] @ S + inside[:, :, n] @ u)
        S = S * grown[:, :, n, -1:] + k_out[:, :, n].transpose(-1, -2) @ u
    out = torch.stack(outs, 2).flatten(2, 3)[:, :, : v_BLHV.shape[1]]
    return out.transpose(1, 2).to(v_BLHV.dtype)


def _inverse_of_unit_lower(A: Tensor) -> Tensor:
    """(I + A)^-1 for strictly lower triangular A: [..., n, n], where n is 8 times a power of two.

    Blocks of 8 on the diagonal are inverted as (I - A)(I + A^2)(I + A^4), then blocks are joined in pairs. For the
    whole of A such products lose all their digits where keys are alike: its powers grow like binomial coefficients.
    """
    size = 8
    block = A.unflatten(-2, (-1, size)).unflatten(-1, (-1, size)).diagonal(dim1=-4, dim2=-2).movedim(-1, -3)
    square = _small_product(block, block)
    eye = torch.eye(size, device=A.device)
    inverse = _small_product(eye - block, eye + square)
    inverse = inverse + _small_product(inverse, _small_product(square, square))
    while size < A.shape[-1]:
        first, second = inverse.unflatten(-3, (-1, 2)).unbind(-3)
        below = A.unflatten(-2, (-1, 2 * size)).unflatten(-1, (-1, 2 * size)).diagonal(dim1=-4, dim2=-2).movedim(-1, -3)
        joined = -(second @ below[..., size:, :size] @ first)
        upper = torch.cat([first, torch.zeros_like(first)], -1)
        inverse, size = torch.cat([upper, torch.cat([joined, second], -1)], -2), 2 * size
    return inverse.squeeze(-3)


def _small_product(x: Tensor, y: Tensor) -> Tensor:
    """x @ y in full float32, which the products of a GPU may not be."""
    return (x[..., :, :, None] * y[..., None, :, :]).sum(-2)


def time_steps(dt_TH: Tensor, dt_bias_H: Tensor, low: float, high: float) -> Tensor:
    """The time steps of Mamba-2, softplus(dt + dt_bias) clamped to [low, high]: float32 [T, H]."""
    return functional.softplus(dt_TH.float() + dt_bias_H.float()).clamp(low, high)


def mamba_scan(
    x_THP: Tensor,
    dt_TH: Tensor,
    A_H: Tensor,
    B_TGN: Tensor,
    C_TGN: Tensor,
    state_RHPN: Tensor,
    rows_S: Tensor,
    starts_S1: Tensor,
) -> Tensor:
    """The recurrence of Mamba-2 (arXiv 2405.21060), one token after another; advances `state_RHPN`. Returns [T, H, P].

    S <- e^(dt A) S + dt x B^T;  y = S C, in float32. Head h reads group h // (H / G).
    """
    heads = x_THP.shape[1] // B_TGN.shape[1]
    B, C = (x.float().repeat_interleave(heads, dim=1) for x in (B_TGN, C_TGN))
    dt_x, log_decay_TH = x_THP.float() * dt_TH.float()[..., None], dt_TH.float() * A_H.float()
    y_THP = torch.empty_like(x_THP)
    for row, start, end in _spans(rows_S, starts_S1):
        S_HPN = state_RHPN[row].clone()
        for t in range(start, end):
            S_HPN = S_HPN * log_decay_TH[t].exp()[:, None, None] + dt_x[t, :, :, None] * B[t, :, None, :]
            y_THP[t] = torch.einsum("hpn,hn->hp", S_HPN, C[t]).to(x_THP.dtype)
        state_RHPN[row] = S_HPN
    return y_THP


def mamba_scan_train(
    x_BLHP: Tensor, dt_BLH: Tensor, A_H: Tensor, B_BLGN: Tensor, C_BLGN: Tensor, chunk: int = 64
) -> Tensor:
    """The same recurrence over whole rows from a zero state, as matrix products over chunks; differentiable.

    The output of a token is the sum over earlier tokens of its chunk, by (C B^T) times the decay between them, plus
    what the state at the start of the chunk adds.
    """
    heads = x_BLHP.shape[2] // B_BLGN.shape[2]
    k, q = (_chunks(x.repeat_interleave(heads, dim=2), chunk) for x in (B_BLGN, C_BLGN))
    v = _chunks(x_BLHP.float() * dt_BLH.float()[..., None], chunk)
    G = _chunks(dt_BLH.float() * A_H.float(), chunk).cumsum(-1)
    grown, k_out = G.exp()[..., None], k * (G[..., -1:] - G).exp()[..., None]
    inside = (q @ k.transpose(-1, -2)) * _decay_between(G) @ v
    S = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])
    outs = []
    for n in range(q.shape[2]):
        outs.append((q * grown)[:, :, n] @ S + inside[:, :, n])
        S = S * grown[:, :, n, -1:] + k_out[:, :, n].transpose(-1, -2) @ v[:, :, n]
    out = torch.stack(outs, 2).flatten(2, 3)[:, :, : x_BLHP.shape[1]]
    return out.transpose(1, 2).to(x_BLHP.dtype)


def selective_scan(
    x_TC: Tensor,
    dt_TC: Tensor,
    B_TN: Tensor,
    C_TN: Tensor,
    gate_TC: Tensor,
    weights: SelectiveScan,
    state_RCN: Tensor,
    rows_S: Tensor,
    starts_S1: Tensor,
) -> Tensor:
    """The recurrence of Mamba-1 (arXiv 2312.00752), one token after another; advances `state_RCN`. Returns [T, C].

    d = softplus(dt + dt_bias);  S <- e^(d A) S + d x B^T;  y = (S C + D x) silu(gate), in float32, with A = -e^A_log.
    """
    step_TC = functional.softplus(dt_TC.float() + weights.dt_bias_C)
    x, B, C, gate = x_TC.float(), B_TN.float(), C_TN.float(), functional.silu(gate_TC.float())
    y_TC = torch.empty_like(x_TC)
    for row, start, end in _spans(rows_S, starts_S1):
        S_CN = state_RCN[row].clone()
        for t in range(start, end):
            S_CN = _selective_step(S_CN, x[t], step_TC[t], B[t], weights)
            y_TC[t] = ((S_CN @ C[t] + weights.D_C * x[t]) * gate[t]).to(x_TC.dtype)
        state_RCN[row] = S_CN
    return y_TC


def selective_scan_train(
    x_BLC: Tensor, dt_BLC: Tensor, B_BLN: Tensor, C_BLN: Tensor, gate_BLC: Tensor, weights: SelectiveScan
) -> Tensor:
    """The same recurrence over whole rows from a zero state, token by token; differentiable: [B, L, C]."""
    step_BLC = functional.softplus(dt_BLC.float() + weights.dt_bias_C)
    x, B, C = x_BLC.float(), B_BLN.float(), C_BLN.float()
    S_BCN, reads = x.new_zeros(len(x), *weights.A_log_CN.shape), []
    for t in range(x.shape[1]):
        S_BCN = _selective_step(S_BCN, x[:, t], step_BLC[:, t], B[:, t], weights)
        reads.append((S_BCN @ C[:, t, :, None]).squeeze(-1))
    y_BLC = torch.stack(reads, 1) + weights.D_C * x
    return (y_BLC * functional.silu(gate_BLC.float())).to(x_BLC.dtype)


def _selective_step(S: Tensor, x: Tensor, step: Tensor, B: Tensor, weights: SelectiveScan) -> Tensor:
    decay = (step[..., None] * -weights.A_log_CN.float().exp()).exp()
    return decay * S + (step * x)[..., None] * B[..., None, :]


def _chunks(x: Tensor, chunk: int) -> Tensor:
    """[B, L, H, ...] as float32 [B, H, n, chunk, ...]; tokens of zeros, which have no effect, fill the last chunk."""
    x = functional.pad(x.float(), (0, 0) * (x.dim() - 2) + (0, -x.shape[1] % chunk))
    return x.transpose(1, 2).unflatten(2, (-1, chunk))


def _decay_between(G: Tensor) -> Tensor:
    """e^(G_i - G_j) for j <= i, otherwise 0, from cumulative sums of log decays: [..., chunk, chunk]."""
    future = torch.ones(G.shape[-1], G.shape[-1], dtype=torch.bool, device=G.device).triu(1)
    return (G[..., :, None] - G[..., None, :]).masked_fill(future, float("-inf")).exp()


def softmax_gradient(logits_RV: Tensor, targets_R: Tensor, weights_R: Tensor) -> tuple[Tensor, Tensor]:
    """-log p(target) per row, float32 [R], and the gradient weight * (softmax - one-hot), which may reuse logits."""
    log_p_RV = logits_RV.float().log_softmax(-1)
    losses_R = -log_p_RV.gather(1, targets_R[:, None]).squeeze(1)
    is_target_RV = targets_R[:, None] == torch.arange(logits_RV.shape[1], device=logits_RV.device)
    return losses_R, ((log_p_RV.exp() - is_target_RV.float()) * weights_R[:, None]).to(logits_RV.dtype)


def store_kv(
    k_TGD: Tensor,
    v_TGD: Tensor | None,
    keys_NPGD: Tensor,
    values_NPGD: Tensor,
    paging: Paging,
) -> None:
    """Store the key and, unless it is None, the value of every token in the paged cache."""
    positions_T, starts_S1, block_table_SB = paging
    block_size = keys_NPGD.shape[1]
    counts = (starts_S1[1:] - starts_S1[:-1]).long()
    owner_T = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    blocks_T = block_table_SB[owner_T, positions_T // block_size].long()
    keys_NPGD[blocks_T, positions_T % block_size] = k_TGD
    if v_TGD is not None:
        values_NPGD[blocks_T, positions_T % block_size] = v_TGD


def paged_attention(
    q_THD: Tensor,
    keys_NPGD: Tensor,
    values_NPGV: Tensor,
    paging: Paging,
    scale: float,
    window: int | None,
    sinks_H: Tensor | None,
) -> Tensor:
    """Causal softmax attention of every token over its own sequence, computed in float32: [T, H, V].

    A token attends to the last `window` positions, its own included; None: to all. Values may be narrower than keys and
    may be a view of them (latent attention). A sink is a score that takes part in the softmax and has no value.
    """
    positions_T, starts_S1, block_table_SB = paging
    groups, block_size = q_THD.shape[1] // keys_NPGD.shape[2], keys_NPGD.shape[1]
    out_THV = q_THD.new_empty(*q_THD.shape[:2], values_NPGV.shape[-1])
    for sequence, start, end in _spans(torch.arange(len(block_table_SB)), starts_S1):
        for t in range(start, end):
            last = int(positions_T[t])
            seen = torch.arange(max(0, last - window + 1) if window else 0, last + 1, device=q_THD.device)
            places = block_table_SB[sequence, seen // block_size].long(), seen % block_size
            keys, values = (x[places].float().repeat_interleave(groups, dim=1) for x in (keys_NPGD, values_NPGV))
            scores_HP = torch.einsum("hd,phd->hp", q_THD[t].float() * scale, keys)
            if sinks_H is not None:
                scores_HP = torch.cat([scores_HP, sinks_H.float()[:, None]], dim=1)
            weights_HP = scores_HP.softmax(-1)[:, : len(seen)]
            out_THV[t] = torch.einsum("hp,phd->hd", weights_HP, values).to(q_THD.dtype)
    return out_THV


def _spans(rows_S: Tensor, starts_S1: Tensor) -> list[tuple[int, int, int]]:
    """(row, first token, end) of every sequence."""
    starts = starts_S1.tolist()
    return list(zip(rows_S.tolist(), starts[:-1], starts[1:], strict=True))
