"""The compiled CPU kernels without gradients, with the signatures of reference.py, which defines them.

Element types and shapes for which nothing is compiled, such as head widths that are no multiple of 16, are computed by
the definition; where it reads a state, token by token, so that the bits of a token do not depend on its piece.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from model.kernels import reference, sampling_reference
from model.kernels.cpu.calls import TAPS, call, fits, fits_delta_rule, fits_scan, fits_selective_scan
from model.kernels.native import SUFFIXES
from model.kernels.types import GatedDelta, Paging, QKNorms, RowSampling, SelectiveScan

UNLIMITED = 2**62  # the window of a token that attends to everything before it


def _has_contiguous_rows(x: Tensor) -> bool:
    """Whether each x[i] is contiguous."""
    return x.is_contiguous() or (x.dim() > 1 and x[:1].is_contiguous())


def _token_by_token(
    definition: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    rest: Sequence[object],
    rows_S: Tensor,
    starts_S1: Tensor,
) -> Tensor:
    """What a definition computes of `inputs` [T, ...] and the rest, each token in a call of its own.

    PyTorch computes the numbers at the end of a tensor that fill no vector with another exp than those before them, so
    in a longer tensor a token may have other bits.
    """
    starts, one_token = starts_S1.tolist(), starts_S1.new_tensor([0, 1])
    return torch.cat(
        [
            definition(*(x[t : t + 1] for x in inputs), *rest, rows_S[s : s + 1], one_token)
            for s in range(len(rows_S))
            for t in range(starts[s], starts[s + 1])
        ]
    )


def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    width = x.shape[-1]
    if x.dtype not in SUFFIXES:
        return reference.rms_norm(x, weight, eps, offset)
    if not _has_contiguous_rows(x):
        x = x.contiguous()
    out = torch.empty(x.shape, dtype=x.dtype)
    rows_per_group = x[0].numel() // width if x.dim() > 1 and len(x) else 1
    stride = x.stride(0) if x.dim() > 1 else width
    sizes = (x.numel() // width, width, rows_per_group, stride)
    call("rms_norm", x.dtype, x, weight, float(offset), float(eps), out, *sizes)
    return out


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    width = x.shape[-1]
    if x.dtype not in SUFFIXES:
        return reference.layer_norm(x, weight, bias, eps)
    x = x.contiguous()
    out = torch.empty_like(x)
    call("layer_norm", x.dtype, x, weight, bias, float(eps), out, x.numel() // width, width)
    return out


def add_norm(
    x: Tensor, y: Tensor, scale: float, weight: Tensor, eps: float, offset: float = 0.0
) -> tuple[Tensor, Tensor]:
    width = x.shape[-1]
    if x.dtype not in SUFFIXES:
        return reference.add_norm(x, y, scale, weight, eps, offset)
    x, y = x.contiguous(), y.contiguous()
    out, normed = torch.empty_like(x), torch.empty_like(x)
    sizes = (x.numel() // width, width)
    call("add_norm", x.dtype, x, y, float(scale), weight, float(offset), float(eps), out, normed, *sizes)
    return out, normed


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    width = x.shape[-1]
    if x.dtype not in SUFFIXES:
        return reference.gated_rms_norm(x, gate, weight, eps)
    x, gate = x.contiguous(), gate.contiguous()
    out = torch.empty_like(x)
    call("gated_rms_norm", x.dtype, x, gate, weight, float(eps), out, x.numel() // width, width)
    return out


def silu_mul(x_T2F: Tensor) -> Tensor:
    return _multiplied(reference.silu_mul, x_T2F)


def gelu_mul(x_T2F: Tensor) -> Tensor:
    return _multiplied(reference.gelu_mul, x_T2F)


def squared_relu(x: Tensor) -> Tensor:
    width = x.shape[-1]
    if x.dtype not in SUFFIXES:
        return reference.squared_relu(x)
    x = x.contiguous()
    out = torch.empty_like(x)
    call("squared_relu", x.dtype, x, out, x.numel() // width, width)
    return out


def clamped_mul(x_T2F: Tensor, alpha: float, limit: float) -> Tensor:
    return _multiplied(reference.clamped_mul, x_T2F, float(alpha), float(limit))


def _multiplied(definition: Callable[..., Tensor], x_T2F: Tensor, *constants: float) -> Tensor:
    """An activation of gate and up, by its definition: [T, 2F] -> [T, F]."""
    width = x_T2F.shape[-1] // 2
    if x_T2F.dtype not in SUFFIXES:
        return definition(x_T2F, *constants)
    x_T2F = x_T2F.contiguous()
    out = x_T2F.new_empty(*x_T2F.shape[:-1], width)
    call(definition.__name__, x_T2F.dtype, x_T2F, out, out.numel() // width, width, *constants)
    return out


def sigmoid_mul(x: Tensor, gate: Tensor) -> Tensor:
    if x.dtype not in SUFFIXES:
        return reference.sigmoid_mul(x, gate)
    x, gate = x.contiguous(), gate if _has_contiguous_rows(gate) else gate.contiguous()
    out, rows = torch.empty_like(x), len(x) if x.dim() > 1 else 1
    call("sigmoid_mul", x.dtype, x, gate, out, rows, x.numel() // max(rows, 1), gate.stride(0) if rows > 1 else 0)
    return out


def scaled(x: Tensor, scale: float) -> Tensor:
    if x.dtype not in SUFFIXES:
        return reference.scaled(x, scale)
    x = x.contiguous()
    out = torch.empty_like(x)
    call("scaled", x.dtype, x, float(scale), out, x.numel())
    return out


def embedding(matrix_VD: Tensor, ids_T: Tensor) -> Tensor:
    if matrix_VD.dtype not in SUFFIXES or not matrix_VD.is_contiguous():
        return reference.embedding(matrix_VD, ids_T)
    ids_T, width = ids_T.contiguous(), matrix_VD.shape[1]
    out_TD = torch.empty(len(ids_T), width, dtype=matrix_VD.dtype)
    call("embedding", matrix_VD.dtype, matrix_VD, ids_T, out_TD, len(ids_T), width)
    return out_TD


def rotary_tables(positions_T: Tensor, frequency_F: Tensor, magnitude: float) -> tuple[Tensor, Tensor]:
    positions_T, half = positions_T.contiguous(), len(frequency_F)
    cos_TW, sin_TW = (torch.empty(len(positions_T), 2 * half) for _ in range(2))
    sizes = (len(positions_T), half, float(magnitude))
    call("rotary_tables", torch.float32, positions_T, frequency_F, cos_TW, sin_TW, *sizes)
    return cos_TW, sin_TW


def add_scaled(x: Tensor, y: Tensor, scale: float) -> Tensor:
    if x.dtype not in SUFFIXES:
        return reference.add_scaled(x, y, scale)
    x, y = x.contiguous(), y.contiguous()
    out = torch.empty_like(x)
    call("add_scaled", x.dtype, x, y, float(scale), out, x.numel())
    return out


def rotate(x_THD: Tensor, cos_TW: Tensor, sin_TW: Tensor) -> Tensor:
    if x_THD.dtype not in SUFFIXES:
        return reference.rotate(x_THD, cos_TW, sin_TW)
    if x_THD.stride(-1) != 1:
        x_THD = x_THD.contiguous()
    out_THD = torch.empty(x_THD.shape, dtype=x_THD.dtype)
    sizes = (*x_THD.shape, cos_TW.shape[-1], *x_THD.stride()[:2])
    call("rotate", x_THD.dtype, x_THD, cos_TW.contiguous(), sin_TW.contiguous(), out_THD, *sizes)
    return out_THD


def qk_norm_rotate(
    q_THD: Tensor, k_TGD: Tensor, cos_TW: Tensor, sin_TW: Tensor, norms: QKNorms | None = None
) -> tuple[Tensor, Tensor]:
    if q_THD.dtype not in SUFFIXES:
        return reference.qk_norm_rotate(q_THD, k_TGD, cos_TW, sin_TW, norms)
    (tokens, heads, width), groups = q_THD.shape, k_TGD.shape[1]
    q_THD, k_TGD = (x if x.stride()[1:] == (width, 1) else x.contiguous() for x in (q_THD, k_TGD))
    q_out, k_out = torch.empty(q_THD.shape, dtype=q_THD.dtype), torch.empty(k_TGD.shape, dtype=k_TGD.dtype)
    weights = (None, None, 0.0, 0.0) if norms is None else (*norms[:2], float(norms.offset), float(norms.eps))
    sizes = (tokens, heads, groups, width, cos_TW.shape[-1], q_THD.stride(0), k_TGD.stride(0))
    tables = (cos_TW.contiguous(), sin_TW.contiguous())
    call("qk_norm_rotate", q_THD.dtype, q_THD, k_TGD, *tables, *weights, q_out, k_out, *sizes)
    return q_out, k_out


def top_k_softmax(logits_TE: Tensor, k: int, over_all: bool) -> tuple[Tensor, Tensor]:
    if logits_TE.dtype != torch.float32:
        return reference.top_k_softmax(logits_TE, k, over_all)
    if logits_TE.stride(1) != 1:
        logits_TE = logits_TE.contiguous()
    tokens, experts = logits_TE.shape
    weights_TK = torch.empty(tokens, k, dtype=torch.float32)
    experts_TK = torch.empty(tokens, k, dtype=torch.int64)
    sizes = (tokens, experts, logits_TE.stride(0), k, int(over_all))
    call("top_k_softmax", torch.float32, logits_TE, weights_TK, experts_TK, *sizes)
    return weights_TK, experts_TK


def count_routing(
    router_logits_LTE: Tensor, weights_LTK: Tensor, experts_LTK: Tensor, groups_T: Tensor, num_groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    layers, tokens, experts = router_logits_LTE.shape
    inputs = [x.contiguous() for x in (router_logits_LTE, weights_LTK, experts_LTK, groups_T)]
    pairs_NLE = torch.zeros(num_groups, layers, experts, dtype=torch.int64)
    entropy_L, counted_L = torch.empty(layers, dtype=torch.float64), torch.empty(layers, dtype=torch.int64)
    outputs = (pairs_NLE, entropy_L, counted_L)
    call("count_routing", torch.float32, *inputs, *outputs, layers, tokens, experts, weights_LTK.shape[2])
    return outputs


def sample(scores_RV: Tensor, rows: Sequence[RowSampling]) -> Tensor:
    if scores_RV.dtype != torch.float32:
        return sampling_reference.sample(scores_RV, rows)
    scores_RV = scores_RV.contiguous()
    integers_R3 = np.array([(_as_int64(how.seed), how.position, how.top_k) for how in rows], dtype=np.int64)
    numbers_R3 = np.array([(how.temperature, how.top_p, _log(how.min_p)) for how in rows], dtype=np.float64)
    tokens_R = torch.empty(len(rows), dtype=torch.int64)
    how_R = torch.from_numpy(integers_R3), torch.from_numpy(numbers_R3)
    call("sample", torch.float32, scores_RV, *how_R, tokens_R, *scores_RV.shape)
    return tokens_R


def _as_int64(seed: int) -> int:
    """The signed number with the same lower 64 bits."""
    return (seed + 2**63) % 2**64 - 2**63


def _log(share: float) -> float:
    return math.log(share) if share else -math.inf


def moe_combine(y_TKD: Tensor, weights_TK: Tensor, shared_TD: Tensor | None, gate_T: Tensor | None) -> Tensor:
    tokens, k, width = y_TKD.shape
    if y_TKD.dtype not in SUFFIXES:
        return reference.moe_combine(y_TKD, weights_TK, shared_TD, gate_T)
    y_TKD, weights_TK = y_TKD.contiguous(), weights_TK.contiguous()
    out = y_TKD.new_empty(tokens, width)
    shared = shared_TD.contiguous() if shared_TD is not None else None
    gate = gate_T.contiguous() if gate_T is not None else None
    call("moe_combine", y_TKD.dtype, y_TKD, weights_TK, shared, gate, out, tokens, k, width)
    return out


def short_conv(
    x_TC: Tensor,
    weight_CJ: Tensor,
    bias_C: Tensor | None,
    state_RJC: Tensor,
    rows_S: Tensor,
    starts_S1: Tensor,
    silu: bool,
) -> Tensor:
    channels, taps = weight_CJ.shape
    if x_TC.dtype not in SUFFIXES or taps not in TAPS:
        rest = (weight_CJ, bias_C, state_RJC)
        return _token_by_token(partial(reference.short_conv, silu=silu), [x_TC], rest, rows_S, starts_S1)
    x_TC, weight_JC = x_TC.contiguous(), weight_CJ.t().float().contiguous()
    bias_C = bias_C.float().contiguous() if bias_C is not None else None
    out = torch.empty_like(x_TC)
    sizes = (len(rows_S), channels, taps, int(silu))
    call("short_conv", x_TC.dtype, x_TC, weight_JC, bias_C, state_RJC, rows_S, starts_S1, out, *sizes)
    return out


def gated_delta(
    x_TP: Tensor,
    weights: GatedDelta,
    conv_RJC: Tensor,
    state_RHKV: Tensor,
    rows_S: Tensor,
    starts_S1: Tensor,
) -> Tensor:
    (channels, taps), (heads, key_width, value_width) = weights.conv_CJ.shape, state_RHKV.shape[1:]
    if not fits_delta_rule(x_TP, key_width, value_width) or taps < 2:
        rest = (weights, conv_RJC, state_RHKV)
        return _token_by_token(reference.gated_delta, [x_TP], rest, rows_S, starts_S1)
    small = (weights.conv_CJ, weights.A_log_H, weights.dt_bias_H, weights.norm_V)
    x_TP, out_TN = x_TP.contiguous(), x_TP.new_empty(len(x_TP), heads * value_width)
    key_heads = (channels - heads * value_width) // (2 * key_width)
    sizes = (len(rows_S), taps, key_heads, heads, key_width, value_width)
    eps = float(weights.eps)
    call("delta_net", x_TP.dtype, x_TP, *small, eps, conv_RJC, state_RHKV, rows_S, starts_S1, out_TN, *sizes)
    return out_TN


def time_steps(dt_TH: Tensor, dt_bias_H: Tensor, low: float, high: float) -> Tensor:
    if dt_TH.dtype not in SUFFIXES:
        return reference.time_steps(dt_TH, dt_bias_H, low, high)
    dt_TH, dt_bias_H = dt_TH.contiguous(), dt_bias_H.float().contiguous()
    out_TH = torch.empty(dt_TH.shape, dtype=torch.float32)
    call("time_steps", dt_TH.dtype, dt_TH, dt_bias_H, out_TH, *dt_TH.shape, float(low), float(high))
    return out_TH


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
    (_, heads, width), (groups, state_width) = x_THP.shape, B_TGN.shape[1:]
    if not fits_scan(x_THP, width, state_width):
        return reference.mamba_scan(x_THP, dt_TH, A_H, B_TGN, C_TGN, state_RHPN, rows_S, starts_S1)
    x_THP, B_TGN, C_TGN = x_THP.contiguous(), B_TGN.contiguous(), C_TGN.contiguous()
    dt_TH, A_H = dt_TH.float().contiguous(), A_H.float().contiguous()
    out = torch.empty_like(x_THP)
    sizes = (len(rows_S), heads, width, groups, state_width)
    call("mamba_scan", x_THP.dtype, x_THP, dt_TH, A_H, B_TGN, C_TGN, state_RHPN, rows_S, starts_S1, out, *sizes)
    return out


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
    channels, state_width = weights.A_log_CN.shape
    inputs = (x_TC, dt_TC, B_TN, C_TN, gate_TC)
    if not fits_selective_scan(x_TC, channels, state_width):
        return _token_by_token(reference.selective_scan, inputs, (weights, state_RCN), rows_S, starts_S1)
    contiguous, out = [x.contiguous() for x in inputs], torch.empty(x_TC.shape, dtype=x_TC.dtype)
    sizes = (len(rows_S), channels, state_width)
    call("selective_scan", x_TC.dtype, *contiguous, *weights, state_RCN, rows_S, starts_S1, out, *sizes)
    return out


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
    heads, key_width, value_width = state_RHKV.shape[1:]
    inputs, small = (q_THK, k_THK, v_THV, a_THK, b_TH), (A_log_H, dt_bias_HK)
    if not fits_delta_rule(q_THK, key_width, value_width):
        return _token_by_token(reference.kimi_delta, inputs, (*small, state_RHKV), rows_S, starts_S1)
    contiguous, out = [x.contiguous() for x in inputs], torch.empty(v_THV.shape, dtype=v_THV.dtype)
    sizes = (len(rows_S), heads, key_width, value_width)
    call("kimi_delta", q_THK.dtype, *contiguous, *small, state_RHKV, rows_S, starts_S1, out, *sizes)
    return out


def store_kv(
    k_TGD: Tensor,
    v_TGD: Tensor | None,
    keys_NPGD: Tensor,
    values_NPGD: Tensor,
    paging: Paging,
) -> None:
    written = (keys_NPGD,) if v_TGD is None else (keys_NPGD, values_NPGD)
    if k_TGD.dtype not in SUFFIXES or not all(cache.is_contiguous() for cache in written):
        return reference.store_kv(k_TGD, v_TGD, keys_NPGD, values_NPGD, paging)
    k_TGD, *v = [x if _has_contiguous_rows(x) else x.contiguous() for x in (k_TGD, v_TGD) if x is not None]
    v_TGD = v[0] if v else None
    rows = (keys_NPGD.stride(1), values_NPGD.stride(1))
    strides = (k_TGD.stride(0), v_TGD.stride(0) if v_TGD is not None else 0)
    sizes = (*paging.block_table_SB.shape, keys_NPGD.shape[1], *rows, *strides)
    return call("store_kv", k_TGD.dtype, k_TGD, v_TGD, keys_NPGD, values_NPGD, *paging, *sizes)


def paged_attention(
    q_THD: Tensor,
    keys_NPGD: Tensor,
    values_NPGV: Tensor,
    paging: Paging,
    scale: float,
    window: int | None,
    sinks_H: Tensor | None,
) -> Tensor:
    (tokens, heads, key_width), value_width = q_THD.shape, values_NPGV.shape[-1]
    if not fits(q_THD, key_width, value_width):
        return reference.paged_attention(q_THD, keys_NPGD, values_NPGV, paging, scale, window, sinks_H)
    q_THD, sinks_H = q_THD.contiguous(), sinks_H.float().contiguous() if sinks_H is not None else None
    out = q_THD.new_empty(tokens, heads, value_width)
    shape = (*paging.block_table_SB.shape, keys_NPGD.shape[1], heads, keys_NPGD.shape[2], key_width, value_width)
    strides = (*keys_NPGD.stride()[:3], *values_NPGV.stride()[:3])
    arguments = (q_THD, keys_NPGD, values_NPGV, *paging, sinks_H, out, *shape, *strides, float(scale))
    call("paged_attention", q_THD.dtype, *arguments, UNLIMITED if window is None else window)
    return out
