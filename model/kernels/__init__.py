"""The few operations the network's speed hangs on, as functions on plain tensors.

`reference.py` defines each of them. `cpu.py` is the compiled version and `cpu_autograd.py` the compiled one with
gradients. The choice is made here and nowhere else: compiled where the library was built and the tensors are on the
CPU, otherwise the definition. ROUTELM_REFERENCE_KERNELS=1 forces the definition.
"""

import os
from types import ModuleType

import torch
from torch import Tensor

from model.kernels import cpu, cpu_autograd, library, native, product, reference
from model.kernels.reference import GatedDelta

_FORCED = os.environ.get("ROUTELM_REFERENCE_KERNELS") == "1"


def compiled() -> bool:
    """Whether the compiled CPU kernels are in use."""
    return not _FORCED and native.available()


def instruction_set() -> str | None:
    """What the compiled kernels in use were built for: that of the matrix products. None: the definitions compute."""
    return library.instruction_set("product") if compiled() and product.available() else None


def _pick(x: Tensor) -> ModuleType:
    """The implementation of everything that works token by token."""
    if x.device.type != "cpu" or not compiled():
        return reference
    return cpu_autograd if torch.is_grad_enabled() else cpu


def _pick_serving(x: Tensor) -> ModuleType:
    """The implementation of what is compiled without gradients."""
    return cpu if _pick(x) is cpu else reference


def _pick_rows(x: Tensor) -> ModuleType:
    """The implementation of what runs over whole rows, with or without gradients."""
    return reference if _pick(x) is reference else cpu_autograd


def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    """See `reference.rms_norm`."""
    return _pick(x).rms_norm(x, weight, eps, offset)


def add_norm(
    x: Tensor, y: Tensor, scale: float, weight: Tensor, eps: float, offset: float = 0.0
) -> tuple[Tensor, Tensor]:
    """See `reference.add_norm`."""
    if _pick(x) is cpu:
        return cpu.add_norm(x, y, scale, weight, eps, offset)
    out = add_scaled(x, y, scale)
    return out, rms_norm(out, weight, eps, offset)


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `reference.gated_rms_norm`."""
    return _pick(x).gated_rms_norm(x, gate, weight, eps)


def silu_mul(x_T2F: Tensor) -> Tensor:
    """See `reference.silu_mul`."""
    return _pick(x_T2F).silu_mul(x_T2F)


def clamped_mul(x_T2F: Tensor, alpha: float, limit: float) -> Tensor:
    """See `reference.clamped_mul`."""
    return _pick(x_T2F).clamped_mul(x_T2F, alpha, limit)


def sigmoid_mul(x: Tensor, gate: Tensor) -> Tensor:
    """See `reference.sigmoid_mul`."""
    return _pick(x).sigmoid_mul(x, gate)


def scaled(x: Tensor, scale: float) -> Tensor:
    """See `reference.scaled`."""
    return _pick_serving(x).scaled(x, scale)


def rows_of(matrix_VD: Tensor, chosen_T: Tensor) -> Tensor:
    """See `reference.rows_of`."""
    return _pick_serving(matrix_VD).rows_of(matrix_VD, chosen_T)


def add_scaled(x: Tensor, y: Tensor, scale: float) -> Tensor:
    """See `reference.add_scaled`."""
    return _pick_serving(x).add_scaled(x, y, scale)


def rotate(x_THD: Tensor, cos_TW: Tensor, sin_TW: Tensor) -> Tensor:
    """See `reference.rotate`."""
    return _pick_serving(x_THD).rotate(x_THD, cos_TW, sin_TW)


def rotary_tables(positions_T: Tensor, frequency_F: Tensor, magnitude: float) -> tuple[Tensor, Tensor]:
    """See `reference.rotary_tables`."""
    return _pick_serving(positions_T).rotary_tables(positions_T, frequency_F, magnitude)


def top_k_softmax(scores_TE: Tensor, k: int, over_all: bool) -> tuple[Tensor, Tensor]:
    """See `reference.top_k_softmax`."""
    return _pick_serving(scores_TE).top_k_softmax(scores_TE, k, over_all)


def highest(scores_RV: Tensor) -> Tensor:
    """See `reference.highest`."""
    return _pick_serving(scores_RV).highest(scores_RV)


def combine(y_TKD: Tensor, weights_TK: Tensor, shared_TD: Tensor | None, gate_T: Tensor | None) -> Tensor:
    """See `reference.combine`."""
    return _pick(y_TKD).combine(y_TKD, weights_TK, shared_TD, gate_T)


def delta_gates(a_TH: Tensor, b_TH: Tensor, A_log_H: Tensor, dt_bias_H: Tensor) -> tuple[Tensor, Tensor]:
    """See `reference.delta_gates`. For training: serving has it inside `gated_delta`."""
    return reference.delta_gates(a_TH, b_TH, A_log_H, dt_bias_H)


def time_steps(dt_TH: Tensor, dt_bias_H: Tensor, low: float, high: float) -> Tensor:
    """See `reference.time_steps`."""
    return _pick(dt_TH).time_steps(dt_TH, dt_bias_H, low, high)


def short_conv(
    x_TC: Tensor,
    weight_CJ: Tensor,
    bias_C: Tensor | None,
    state_RJC: Tensor,
    rows_S: Tensor,
    starts_S1: Tensor,
    silu: bool,
) -> Tensor:
    """See `reference.short_conv`."""
    return _pick_serving(x_TC).short_conv(x_TC, weight_CJ, bias_C, state_RJC, rows_S, starts_S1, silu)


def short_conv_train(x_BLC: Tensor, weight_CJ: Tensor, bias_C: Tensor | None, silu: bool) -> Tensor:
    """See `reference.short_conv_train`."""
    return _pick_rows(x_BLC).short_conv_train(x_BLC, weight_CJ, bias_C, silu)


def gated_delta(
    x_TP: Tensor,
    weights: GatedDelta,
    conv_RJC: Tensor,
    state_RHKV: Tensor,
    rows_S: Tensor,
    starts_S1: Tensor,
) -> Tensor:
    """See `reference.gated_delta`."""
    return _pick_serving(x_TP).gated_delta(x_TP, weights, conv_RJC, state_RHKV, rows_S, starts_S1)


def delta_rule_train(q_BLHK: Tensor, k_BLHK: Tensor, v_BLHV: Tensor, log_decay_BLH: Tensor, beta_BLH: Tensor) -> Tensor:
    """See `reference.delta_rule_train`."""
    return _pick_rows(v_BLHV).delta_rule_train(q_BLHK, k_BLHK, v_BLHV, log_decay_BLH, beta_BLH)


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
    """See `reference.mamba_scan`."""
    return _pick_serving(x_THP).mamba_scan(x_THP, dt_TH, A_H, B_TGN, C_TGN, state_RHPN, rows_S, starts_S1)


def mamba_scan_train(x_BLHP: Tensor, dt_BLH: Tensor, A_H: Tensor, B_BLGN: Tensor, C_BLGN: Tensor) -> Tensor:
    """See `reference.mamba_scan_train`."""
    return _pick_rows(x_BLHP).mamba_scan_train(x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN)


def softmax_gradient(logits_RV: Tensor, targets_R: Tensor, weights_R: Tensor) -> tuple[Tensor, Tensor]:
    """See `reference.softmax_gradient`."""
    return _pick_rows(logits_RV).softmax_gradient(logits_RV, targets_R, weights_R)


def store_kv(
    k_TGD: Tensor,
    v_TGD: Tensor | None,
    keys_NPGD: Tensor,
    values_NPGD: Tensor,
    positions_T: Tensor,
    starts_S1: Tensor,
    block_table_SB: Tensor,
) -> None:
    """See `reference.store_kv`."""
    arguments = (k_TGD, v_TGD, keys_NPGD, values_NPGD, positions_T, starts_S1, block_table_SB)
    _pick_serving(k_TGD).store_kv(*arguments)


def paged_attention(
    q_THD: Tensor,
    keys_NPGD: Tensor,
    values_NPGV: Tensor,
    positions_T: Tensor,
    starts_S1: Tensor,
    block_table_SB: Tensor,
    scale: float,
    window: int | None,
    sinks_H: Tensor | None,
) -> Tensor:
    """See `reference.paged_attention`."""
    arguments = (q_THD, keys_NPGD, values_NPGV, positions_T, starts_S1, block_table_SB, scale, window, sinks_H)
    return _pick_serving(q_THD).paged_attention(*arguments)
