"""The compiled CPU kernels with gradients; forward and backward are one pass over memory each.

The signatures are those of reference.py, against whose gradients the kernels are tested. PyTorch differentiates the
definitions of all other kernels.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

import torch
from torch import Tensor
from torch.autograd import Function

from model.kernels import reference
from model.kernels.cpu import inference
from model.kernels.cpu.calls import call, fits, fits_convolution, fits_delta_rule
from model.kernels.types import GatedDelta, QKNorms


class _RMSNorm(Function):
    @staticmethod
    def forward(ctx, x, weight, eps, offset):
        ctx.save_for_backward(x, weight)
        ctx.constants = (offset, eps)
        return inference.rms_norm(x, weight, eps, offset)

    @staticmethod
    def backward(ctx, dy):
        x, weight = (tensor.contiguous() for tensor in ctx.saved_tensors)
        dx, dweight, dy = torch.empty_like(x), torch.empty_like(weight), dy.contiguous()
        sizes = (x.numel() // x.shape[-1], x.shape[-1])
        call("rms_norm_backward", x.dtype, x, None, weight, *ctx.constants, dy, dx, None, dweight, *sizes)
        return dx, dweight, None, None


def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    if not fits(x, x.shape[-1]):
        return reference.rms_norm(x, weight, eps, offset)
    return _RMSNorm.apply(x, weight, float(eps), float(offset))


def add_norm(
    x: Tensor, y: Tensor, scale: float, weight: Tensor, eps: float, offset: float = 0.0
) -> tuple[Tensor, Tensor]:
    out = reference.add_scaled(x, y, scale)
    return out, rms_norm(out, weight, eps, offset)


def qk_norm_rotate(
    q_THD: Tensor, k_TGD: Tensor, cos_TW: Tensor, sin_TW: Tensor, norms: QKNorms | None = None
) -> tuple[Tensor, Tensor]:
    if norms is not None:
        q_THD = rms_norm(q_THD, norms.q_weight_K, norms.eps, norms.offset)
        k_TGD = rms_norm(k_TGD, norms.k_weight_K, norms.eps, norms.offset)
    return reference.qk_norm_rotate(q_THD, k_TGD, cos_TW, sin_TW)


class _GatedRMSNorm(Function):
    @staticmethod
    def forward(ctx, x, gate, weight, eps):
        ctx.save_for_backward(x, gate, weight)
        ctx.eps = eps
        return inference.gated_rms_norm(x, gate, weight, eps)

    @staticmethod
    def backward(ctx, dy):
        x, gate, weight = (tensor.contiguous() for tensor in ctx.saved_tensors)
        dx, dgate, dweight, dy = torch.empty_like(x), torch.empty_like(gate), torch.empty_like(weight), dy.contiguous()
        sizes = (x.numel() // x.shape[-1], x.shape[-1])
        call("rms_norm_backward", x.dtype, x, gate, weight, 0.0, ctx.eps, dy, dx, dgate, dweight, *sizes)
        return dx, dgate, dweight, None


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    if not fits(x, x.shape[-1]):
        return reference.gated_rms_norm(x, gate, weight, eps)
    return _GatedRMSNorm.apply(x, gate, weight, float(eps))


class _SiluMul(Function):
    @staticmethod
    def forward(ctx, x_T2F):
        ctx.save_for_backward(x_T2F)
        return inference.silu_mul(x_T2F)

    @staticmethod
    def backward(ctx, dy_TF):
        (x_T2F,) = ctx.saved_tensors
        x_T2F, dy_TF = x_T2F.contiguous(), dy_TF.contiguous()
        dx_T2F = torch.empty_like(x_T2F)
        call("silu_mul_backward", x_T2F.dtype, x_T2F, dy_TF, dx_T2F, *dy_TF.shape)
        return dx_T2F


def silu_mul(x_T2F: Tensor) -> Tensor:
    return _SiluMul.apply(x_T2F) if fits(x_T2F, x_T2F.shape[-1] // 2) else reference.silu_mul(x_T2F)


class _ShortConv(Function):
    @staticmethod
    def forward(ctx, x_BLC, weight_CJ, bias_C, silu):
        x_BLC, weight_JC = x_BLC.contiguous(), weight_CJ.t().contiguous()
        ctx.save_for_backward(x_BLC, weight_JC, bias_C)
        ctx.sizes = (*x_BLC.shape, len(weight_JC), int(silu))
        out = torch.empty_like(x_BLC)
        call("short_conv_forward", x_BLC.dtype, x_BLC, weight_JC, bias_C, out, *ctx.sizes)
        return out

    @staticmethod
    def backward(ctx, dy_BLC):
        x_BLC, weight_JC, bias_C = ctx.saved_tensors
        dx_BLC, dy_BLC = torch.empty_like(x_BLC), dy_BLC.contiguous()
        taps, channels = weight_JC.shape
        dweight_JC = weight_JC.new_empty(taps + 1, channels)  # the last row is the gradient of the bias
        call("short_conv_backward", x_BLC.dtype, x_BLC, weight_JC, bias_C, dy_BLC, dx_BLC, dweight_JC, *ctx.sizes)
        return dx_BLC, dweight_JC[:-1].t(), dweight_JC[-1] if bias_C is not None else None, None


def short_conv_train(
    x_BLC: Tensor, weight_CJ: Tensor, bias_C: Tensor | None, silu: bool, positions_BL: Tensor | None = None
) -> Tensor:
    if positions_BL is not None or not fits_convolution(x_BLC, *weight_CJ.shape):
        return reference.short_conv_train(x_BLC, weight_CJ, bias_C, silu, positions_BL)
    return _ShortConv.apply(x_BLC, weight_CJ, bias_C, silu)


class _DeltaRule(Function):
    """The recurrence, with one head of one row per thread, which is faster on a CPU than matrix products over chunks.

    Forward keeps the state every STRIDE tokens, from which backward recomputes the states in between.
    """

    STRIDE = 16

    @staticmethod
    def forward(ctx, q_BLHK, k_BLHK, v_BLHV, log_decay_BLH, beta_BLH):
        inputs = tuple(x.contiguous() for x in (q_BLHK, k_BLHK, v_BLHV, log_decay_BLH, beta_BLH))
        (rows, length, heads, key_width), value_width = q_BLHK.shape, v_BLHV.shape[-1]
        out = torch.empty_like(inputs[2])
        kept = torch.empty(rows, heads, -(-length // _DeltaRule.STRIDE), key_width, value_width)
        ctx.sizes = (rows, length, heads, key_width, value_width, _DeltaRule.STRIDE)
        call("delta_rule_forward", out.dtype, *inputs, out, kept, *ctx.sizes)
        ctx.save_for_backward(*inputs, kept)
        return out

    @staticmethod
    def backward(ctx, dout_BLHV):
        *inputs, kept = ctx.saved_tensors
        gradients = [torch.empty_like(x) for x in inputs]
        dout = dout_BLHV.contiguous()
        call("delta_rule_backward", dout.dtype, *inputs, dout, kept, *gradients, *ctx.sizes)
        return tuple(gradients)


def delta_rule_train(q_BLHK: Tensor, k_BLHK: Tensor, v_BLHV: Tensor, log_decay_BLH: Tensor, beta_BLH: Tensor) -> Tensor:
    groups = v_BLHV.shape[2] // q_BLHK.shape[2]
    if groups > 1:
        q_BLHK, k_BLHK = q_BLHK.repeat_interleave(groups, dim=2), k_BLHK.repeat_interleave(groups, dim=2)
    if not fits_delta_rule(v_BLHV, q_BLHK.shape[-1], v_BLHV.shape[-1]):
        return reference.delta_rule_train(q_BLHK, k_BLHK, v_BLHV, log_decay_BLH, beta_BLH)
    return _DeltaRule.apply(q_BLHK, k_BLHK, v_BLHV, log_decay_BLH, beta_BLH)


def gated_delta_train(x_BLP: Tensor, weights: GatedDelta, positions_BL: Tensor | None = None) -> Tensor:
    mixed_BLC, z, b_BLH, a_BLH = weights.split(x_BLP)
    q, k, v_BLHV = weights.heads(short_conv_train(mixed_BLC, weights.conv_CJ, None, True, positions_BL))
    out_BLHV = delta_rule_train(q, k, v_BLHV, *reference.train_gates(a_BLH, b_BLH, weights, positions_BL))
    return gated_rms_norm(out_BLHV, z.reshape(v_BLHV.shape), weights.norm_V, weights.eps).flatten(2)


def softmax_gradient(logits_RV: Tensor, targets_R: Tensor, weights_R: Tensor) -> tuple[Tensor, Tensor]:
    if not fits(logits_RV, logits_RV.shape[-1]):
        return reference.softmax_gradient(logits_RV, targets_R, weights_R)
    losses_R = torch.empty(len(targets_R))
    call("softmax_gradient", logits_RV.dtype, logits_RV, targets_R, weights_R, losses_R, *logits_RV.shape)
    return losses_R, logits_RV
