"""The definition of the matrix products in PyTorch: what the compiled ones are tested against, and the fallback.

All arithmetic is float32, which PyTorch supports on every processor. Its products of narrower types are not used:
oneDNN raises for them on some processors, and elsewhere they are slow.

Shapes: T tokens, S dispatched (token, expert) pairs, K choices per token, E experts, I inputs, O outputs, F inner
width, D hidden width, G groups of 32 inputs.
"""

from operator import itemgetter

import torch
from torch import Tensor
from torch.nn import functional

from model.kernels.matmul.codes import Codes, Format
from model.kernels.types import GatedMLPWeights

CHUNK = 1 << 20  # weights that are converted to float32 at a time
BLOCK = 32  # inputs whose activations share a scale where the weights are integers
# largest integer of activations, by the format of the weights
ACTIVATION_LIMITS = {Format.INT8: 32767, Format.INT4: 127, Format.Q8_0: 32767, Format.Q4_1: 32767}
SMALLEST = 1e-30  # blocks without a larger magnitude are zero: the inverse of their scale could be infinite


def quantized_activations(x_TI: Tensor, limit: int) -> Tensor:
    """The float32 numbers that stand for x where it is multiplied by integer weights.

    Each block of 32 inputs becomes integers from -limit to limit with one scale, the largest magnitude / limit. So the
    error of an input is at most half of the scale. A row does not depend on the others.
    """
    inputs = x_TI.shape[1]
    blocks_TBN = functional.pad(x_TI.float(), (0, -inputs % BLOCK)).unflatten(1, (-1, BLOCK))
    largest_TB1 = blocks_TBN.abs().amax(2, keepdim=True)
    inverse_TB1 = torch.where(largest_TB1 > SMALLEST, torch.full_like(largest_TB1, limit) / largest_TB1, 0.0)
    return ((blocks_TBN * inverse_TB1).round() * (largest_TB1 / limit)).flatten(1)[:, :inputs]


class PlainWeights:
    """E matrices [O, I] as they are stored."""

    def __init__(self, codes: Codes, bias_EO: Tensor | None = None) -> None:
        self.codes = codes.map(lambda tensor: tensor.detach().contiguous())
        self.bias_EO = None if bias_EO is None else bias_EO.detach().float()
        self.experts, self.outputs, _ = codes.shape

    @property
    def is_quantized(self) -> bool:
        """Whether the weights are integers with scales."""
        return self.codes.scales is not None

    @property
    def nbytes(self) -> int:
        """Memory that the weights take."""
        return self.codes.nbytes + (0 if self.bias_EO is None else self.bias_EO.nbytes)

    def rows(self, outputs_T: Tensor) -> Tensor:
        """The weights of some outputs (int64) of a single matrix that is not quantized: [T, I]."""
        assert not self.is_quantized
        return self.codes.values[0].index_select(0, outputs_T)


def linear(x_TI: Tensor, weights: PlainWeights, out_dtype: torch.dtype | None = None) -> Tensor:
    """x W^T + b for a single matrix: [T, O] in `out_dtype`, by default x's type."""
    return _linear(x_TI, weights, 0).to(out_dtype or x_TI.dtype)


def grouped_linear(x_SI: Tensor, counts_E: Tensor, weights: PlainWeights) -> Tensor:
    """Rows that are sorted by expert, `counts_E` (int64) for each, times the matrix of their expert: [S, O]."""
    groups = x_SI.split(counts_E.tolist())
    outs = [_linear(x_TI, weights, expert) for expert, x_TI in enumerate(groups) if len(x_TI)]
    return (torch.cat(outs) if outs else x_SI.new_empty(0, weights.outputs)).to(x_SI.dtype)


def _linear(x_TI: Tensor, weights: PlainWeights, expert: int) -> Tensor:
    """Float32 [T, O]. The weights are converted CHUNK at a time: a large matrix is never in memory as float32."""
    codes_OI = weights.codes.map(itemgetter(expert))
    limit = ACTIVATION_LIMITS.get(codes_OI.format)
    x_TI = x_TI.float() if limit is None else quantized_activations(x_TI, limit)
    step = max(1, CHUNK // max(1, x_TI.shape[1]))
    parts = [slice(start, start + step) for start in range(0, weights.outputs, step)]
    outs = [x_TI @ codes_OI.map(itemgetter(part)).dequantized().T for part in parts]
    y_TO = outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)
    return y_TO if weights.bias_EO is None else y_TO + weights.bias_EO[expert]


def gated_mlp(x_TD: Tensor, weights: GatedMLPWeights[PlainWeights]) -> Tensor:
    """down(silu(gate(x)) * up(x)): [T, D] in x's type."""
    return _gated_mlp(x_TD, weights, 0, None).to(x_TD.dtype)


def moe(
    x_TD: Tensor,
    experts_TK: Tensor,
    weights_TK: Tensor,
    routed: GatedMLPWeights[PlainWeights],
    shared: GatedMLPWeights[PlainWeights] | None = None,
    shared_gate_T: Tensor | None = None,
    clamp: tuple[float, float] | None = None,
) -> Tensor:
    """The sum of weight * expert(x) over a token's experts, plus sigmoid(gate) * shared(x), or shared(x) if ungated.

    `experts_TK` are int64 and `weights_TK` float32; `clamp` is (alpha, limit) of the clamped activation, see
    `_activate`. Returns [T, D] in x's type.
    """
    total_TD = torch.zeros(x_TD.shape)
    for expert in experts_TK.unique().tolist():
        weights_T = (weights_TK * (experts_TK == expert)).sum(1)
        total_TD += weights_T[:, None] * _gated_mlp(x_TD, routed, expert, clamp)
    if shared is not None:
        gate_T = torch.ones(len(x_TD)) if shared_gate_T is None else torch.sigmoid(shared_gate_T)
        total_TD += gate_T[:, None] * _gated_mlp(x_TD, shared, 0, clamp)
    return total_TD.to(x_TD.dtype)


def _gated_mlp(
    x_TD: Tensor, weights: GatedMLPWeights[PlainWeights], expert: int, clamp: tuple[float, float] | None
) -> Tensor:
    """Float32 outputs of one expert. The inner activations are rounded to x's type if the weights are not integers.

    The compiled kernels do not round them on levels without a dot product of bfloat16 either.
    """
    gate, up = _linear(x_TD, weights.gate_up, expert).chunk(2, dim=-1)
    inner = _activate(gate, up, clamp)
    return _linear(inner if weights.down.is_quantized else inner.to(x_TD.dtype), weights.down, expert)


def _activate(gate: Tensor, up: Tensor, clamp: tuple[float, float] | None) -> Tensor:
    """silu(gate) * up; clamped: gate * sigmoid(alpha * gate) * (up + 1) with gate <= limit and |up| <= limit."""
    if clamp is None:
        return functional.silu(gate) * up
    alpha, limit = clamp
    gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return gate * torch.sigmoid(alpha * gate) * (up + 1)
