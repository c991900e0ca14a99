"""The compiled CPU kernels without gradients. Same signatures as in reference.py, which defines them.

A shape that the compiled code does not take (a width that is not a multiple of 16) goes to the definition instead.
"""

import torch
from torch import Tensor

from model.kernels import reference
from model.kernels.native import STATE_WIDTHS, SUFFIXES, call, fits


def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    width = x.shape[-1]
    if not fits(x, width):
        return reference.rms_norm(x, weight, eps, offset)
    x = x.contiguous()
    out = torch.empty_like(x)
    call("rms_norm", x.dtype, x, weight, float(offset), eps, out, x.numel() // width, width, width)
    return out


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    width = x.shape[-1]
    if not fits(x, width):
        return reference.gated_rms_norm(x, gate, weight, eps)
    x, gate = x.contiguous(), gate.contiguous()
    out = torch.empty_like(x)
    call("gated_rms_norm", x.dtype, x, gate, weight, eps, out, x.numel() // width, width)
    return out


def silu_mul(x_T2F: Tensor) -> Tensor:
    width = x_T2F.shape[-1] // 2
    if not fits(x_T2F, width):
        return reference.silu_mul(x_T2F)
    x_T2F = x_T2F.contiguous()
    out = x_T2F.new_empty(*x_T2F.shape[:-1], width)
    call("silu_mul", x_T2F.dtype, x_T2F, out, out.numel() // width, width)
    return out


def sigmoid_mul(x: Tensor, gate: Tensor) -> Tensor:
    if not fits(x, x.shape[-1]):
        return reference.sigmoid_mul(x, gate)
    x, gate = x.contiguous(), gate.contiguous()
    out = torch.empty_like(x)
    call("sigmoid_mul", x.dtype, x, gate, out, x.numel())
    return out


def combine(y_TKD: Tensor, weights_TK: Tensor, shared_TD: Tensor | None, gate_T: Tensor | None) -> Tensor:
    tokens, k, width = y_TKD.shape
    if not fits(y_TKD, width):
        return reference.combine(y_TKD, weights_TK, shared_TD, gate_T)
    y_TKD, weights_TK = y_TKD.contiguous(), weights_TK.contiguous()
    out = y_TKD.new_empty(tokens, width)
    shared = shared_TD.contiguous() if shared_TD is not None else None
    gate = gate_T.contiguous() if gate_T is not None else None
    call("combine", y_TKD.dtype, y_TKD, weights_TK, shared, gate, out, tokens, k, width)
    return out


def delta_gates(a_TH: Tensor, b_TH: Tensor, A_log_H: Tensor, dt_bias_H: Tensor) -> tuple[Tensor, Tensor]:
    if a_TH.dtype not in SUFFIXES:
        return reference.delta_gates(a_TH, b_TH, A_log_H, dt_bias_H)
    a_TH, b_TH = a_TH.contiguous(), b_TH.contiguous()
    log_decay_TH = torch.empty(a_TH.shape, dtype=torch.float32)
    beta_TH = torch.empty_like(log_decay_TH)
    call("delta_gates", a_TH.dtype, a_TH, b_TH, A_log_H, dt_bias_H, log_decay_TH, beta_TH, *a_TH.shape)
    return log_decay_TH, beta_TH


def short_conv(x_TC: Tensor, weight_CJ: Tensor, state_RJC: Tensor, rows_S: Tensor, starts_S1: Tensor) -> Tensor:
    channels, taps = weight_CJ.shape
    if not fits(x_TC, channels) or taps > 8:
        return reference.short_conv(x_TC, weight_CJ, state_RJC, rows_S, starts_S1)
    x_TC, weight_JC = x_TC.contiguous(), weight_CJ.t().float().contiguous()
    out = torch.empty_like(x_TC)
    call("short_conv", x_TC.dtype, x_TC, weight_JC, state_RJC, rows_S, starts_S1, out, len(rows_S), channels, taps)
    return out


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
    arguments = (q_TQK, k_TQK, v_THV, log_decay_TH, beta_TH)
    (_, heads, value_width), (key_heads, key_width) = v_THV.shape, q_TQK.shape[1:]
    if not (fits(v_THV, key_width) and value_width in STATE_WIDTHS and key_width <= 256):
        return reference.delta_rule(*arguments, state_RHKV, rows_S, starts_S1)
    inputs = [x.contiguous() for x in arguments]
    out = torch.empty_like(inputs[2])
    sizes = (len(rows_S), key_heads, heads, key_width, value_width)
    call("delta_rule", v_THV.dtype, *inputs, state_RHKV, rows_S, starts_S1, out, *sizes)
    return out


def store_kv(
    k_TGD: Tensor,
    v_TGD: Tensor,
    keys_NPGD: Tensor,
    values_NPGD: Tensor,
    positions_T: Tensor,
    starts_S1: Tensor,
    block_table_SB: Tensor,
) -> None:
    if k_TGD.dtype not in SUFFIXES:
        return reference.store_kv(k_TGD, v_TGD, keys_NPGD, values_NPGD, positions_T, starts_S1, block_table_SB)
    k_TGD, v_TGD = k_TGD.contiguous(), v_TGD.contiguous()
    sizes = (*block_table_SB.shape, keys_NPGD.shape[1], k_TGD.shape[1] * k_TGD.shape[2])
    arguments = (k_TGD, v_TGD, keys_NPGD, values_NPGD, positions_T, starts_S1, block_table_SB)
    return call("store_kv", k_TGD.dtype, *arguments, *sizes)


def paged_attention(
    q_THD: Tensor,
    keys_NPGD: Tensor,
    values_NPGD: Tensor,
    positions_T: Tensor,
    starts_S1: Tensor,
    block_table_SB: Tensor,
) -> Tensor:
    (_, heads, width), groups = q_THD.shape, keys_NPGD.shape[2]
    if not fits(q_THD, width) or heads // groups > 64:
        return reference.paged_attention(q_THD, keys_NPGD, values_NPGD, positions_T, starts_S1, block_table_SB)
    q_THD = q_THD.contiguous()
    out = torch.empty_like(q_THD)
    arguments = (q_THD, keys_NPGD, values_NPGD, positions_T, starts_S1, block_table_SB, out)
    sizes = (*block_table_SB.shape, keys_NPGD.shape[1], heads, groups, width)
    call("paged_attention", q_THD.dtype, *arguments, *sizes, width**-0.5)
    return out
