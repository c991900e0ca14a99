"""Schemes: how the weights of matrices are quantized, and the frozen layers of quantized weights.

Shapes: I input width, O output width, E experts, G groups of inputs.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from model import kernels
from model.kernels.matmul.reference import dequantize
from model.layers.frozen_linear import FrozenGroupedLinear, FrozenLinear


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """The weights that a scheme makes, the same on every machine; quantized checkpoints store them.

    `values` [..., O, I] are float weights or int8; or int4 in two's complement, uint8 [..., O, I / 2] with the even
    input in the low half of a byte. `scales` multiply integers: float32 [..., O] for int8, bfloat16 [..., O, G] for
    int4.
    """

    values: Tensor
    scales: Tensor | None = None

    def dequantized(self) -> Tensor:
        """The float32 weights."""
        return dequantize(self.values, self.scales)


def frozen_linear(codes: Codes, bias_O: Tensor | None) -> FrozenLinear:
    """The frozen layer with these weights."""
    scales = None if codes.scales is None else codes.scales[None]
    return FrozenLinear(kernels.pack_weights(codes.values[None], scales, None if bias_O is None else bias_O[None]))


def frozen_grouped(codes: Codes, bias_EO: Tensor | None) -> FrozenGroupedLinear:
    """The same for one matrix per expert."""
    return FrozenGroupedLinear(kernels.pack_weights(codes.values, codes.scales, bias_EO))


@dataclass(frozen=True, slots=True)
class Scheme:
    """How matrices are stored. `bits_per_weight` includes scales; `head_scheme` is the head's, if it differs."""

    name: str
    bits_per_weight: float
    quantize: Callable[[Tensor], Codes]
    head_scheme: "Scheme | None" = None

    @property
    def head(self) -> "Scheme":
        """The scheme of the head."""
        return self.head_scheme or self

    @property
    def is_quantized(self) -> bool:
        """Whether weights become integers with scales."""
        return self.bits_per_weight < 16

    def linear(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> FrozenLinear:
        """A frozen layer: forward(x_TI) -> y_TO."""
        return frozen_linear(self.quantize(weight_OI.detach()), bias_O)

    def grouped(self, weight_EOI: Tensor, bias_EO: Tensor | None = None) -> FrozenGroupedLinear:
        """A frozen layer of experts: forward(x_SI, counts_E) -> y_SO."""
        return frozen_grouped(self.quantize(weight_EOI.detach()), bias_EO)
