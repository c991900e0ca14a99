"""The plain definition of the matrix products, in PyTorch: what the compiled ones are tested against, and the fallback.

All of it is float32 arithmetic, which PyTorch has on every processor; its products of narrower types fail or crawl on
some.

Shapes: T tokens, S dispatched (token, expert) pairs, K choices a token, E experts, I inputs, O outputs, F inner width,
D hidden width, G groups of inputs, M inputs a group.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


def dequantized(codes: Tensor, scales: Tensor | None = None) -> Tensor:
    """The float32 weights [..., O, I] that codes and scales stand for; see `product.Panels` for their form."""
    if scales is None:
        return codes.float()
    if codes.dtype == torch.int8:
        return codes.float() * scales.float()[..., None]
    nibbles = torch.stack([codes & 15, codes >> 4], dim=-1).flatten(-2).to(torch.int8)
    signed = torch.where(nibbles > 7, nibbles - 16, nibbles).float()
    return (signed.unflatten(-1, (scales.shape[-1], -1)) * scales.float()[..., None]).flatten(-2)


CHUNK = 1 << 20  # weights that are float32 at a time: few beside those of a head


class PlainWeights:
    """Weights as they come: E matrices [O, I] of the forms that `product.Panels` describes."""

    def __init__(self, codes_EOI: Tensor, scales: Tensor | None = None, bias_EO: Tensor | None = None) -> None:
        self.codes_EOI = codes_EOI.detach().contiguous()
        self.scales = scales
        self.bias_EO = None if bias_EO is None else bias_EO.detach().float()
        self.experts, self.outputs = codes_EOI.shape[:2]

    @property
    def is_quantized(self) -> bool:
        """Whether it holds codes and not weights."""
        return self.scales is not None

    def rows(self, outputs_T: Tensor) -> Tensor:
        """The weights of those outputs (int64) of the one matrix, unless it `is_quantized`: [T, I]."""
        assert not self.is_quantized
        return self.codes_EOI[0].index_select(0, outputs_T)

    @property
    def nbytes(self) -> int:
        """Memory that the weights take."""
        return sum(t.nbytes for t in (self.codes_EOI, self.scales, self.bias_EO) if t is not None)


def product_of(x_TI: Tensor, weights: PlainWeights, expert: int = 0) -> Tensor:
    """x times the matrix of an expert, plus its bias: [T, O], float32. Some outputs at a time are made float32."""
    x_TI, codes_OI = x_TI.float(), weights.codes_EOI[expert]
    scales = None if weights.scales is None else weights.scales[expert]
    step = max(1, CHUNK // max(1, x_TI.shape[1]))
    parts = [slice(start, start + step) for start in range(0, weights.outputs, step)]
    outs = [x_TI @ dequantized(codes_OI[part], None if scales is None else scales[part]).T for part in parts]
    y_TO = outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)
    return y_TO if weights.bias_EO is None else y_TO + weights.bias_EO[expert]


def grouped_product_of(x_SI: Tensor, counts_E: Tensor, weights: PlainWeights) -> Tensor:
    """The next counts_E[e] rows times expert e's matrix: [S, O] in x's type."""
    pieces = x_SI.split(counts_E.tolist())
    outs = [product_of(x_TI, weights, expert) for expert, x_TI in enumerate(pieces) if len(x_TI)]
    return (torch.cat(outs) if outs else x_SI.new_empty(0, weights.outputs)).to(x_SI.dtype)


def product(x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x W^T + b in float32, returned in x's type."""
    return functional.linear(x_TI.float(), weight_OI, bias_O).to(x_TI.dtype)


def grouped_product(x_SI: Tensor, counts_E: Tensor, weight_EOI: Tensor, bias_EO: Tensor | None = None) -> Tensor:
    """The first counts_E[0] rows times the first expert's matrix, and so on."""
    biases = [None] * len(weight_EOI) if bias_EO is None else list(bias_EO)
    pieces = x_SI.split(counts_E.tolist())
    return torch.cat([product(x, w, b) for x, w, b in zip(pieces, weight_EOI, biases, strict=True)])


def activate(gate: Tensor, up: Tensor, clamp: tuple[float, float] | None) -> Tensor:
    """silu(gate) * up, or with clamp = (alpha, limit) the clamped form of `experts`."""
    if clamp is None:
        return functional.silu(gate) * up
    alpha, limit = clamp
    gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return gate * torch.sigmoid(alpha * gate) * (up + 1)


@dataclass(frozen=True, slots=True, eq=False)
class PlainFeedForwardWeights:
    """Float32 weights of E gated feed-forwards."""

    gate_up_EOI: Tensor
    down_EOI: Tensor
    gate_up_bias_EO: Tensor | None = None
    down_bias_EO: Tensor | None = None

    def __call__(self, expert: int, x_TD: Tensor, clamp: tuple[float, float] | None) -> Tensor:
        """One expert's float32 outputs; what lies between the two products is rounded to x's type.

        A compiled library without products of bfloat16 keeps it in float32.
        """
        bias = None if self.gate_up_bias_EO is None else self.gate_up_bias_EO[expert]
        gate, up = functional.linear(x_TD.float(), self.gate_up_EOI[expert], bias).chunk(2, dim=-1)
        inner_TF = activate(gate, up, clamp).to(x_TD.dtype).float()
        bias = None if self.down_bias_EO is None else self.down_bias_EO[expert]
        return functional.linear(inner_TF, self.down_EOI[expert], bias)


def experts(
    x_TD: Tensor,
    experts_TK: Tensor,
    weights_TK: Tensor,
    routed: PlainFeedForwardWeights,
    shared: PlainFeedForwardWeights | None = None,
    shared_gate_T: Tensor | None = None,
    clamp: tuple[float, float] | None = None,
) -> Tensor:
    """Sum over choices of weight * expert(x), plus sigmoid(gate) * shared(x) (or shared(x) without a gate): [T, D]."""
    total_TD = torch.zeros(x_TD.shape)
    for expert in experts_TK.unique().tolist():
        weights_T = (weights_TK * (experts_TK == expert)).sum(1)
        total_TD += weights_T[:, None] * routed(expert, x_TD, clamp)
    if shared is not None:
        gate_T = torch.ones(len(x_TD)) if shared_gate_T is None else torch.sigmoid(shared_gate_T)
        total_TD += gate_T[:, None] * shared(0, x_TD, clamp)
    return total_TD.to(x_TD.dtype)
