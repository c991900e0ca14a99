"""Schemes: how the weights of matrices are quantized, and the frozen layers of quantized weights.

Shapes: I input width, O output width, E experts, G groups of inputs.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from model import kernels
from model.kernels.matmul.codes import Codes, Format
from model.layers.frozen_linear import FrozenGroupedLinear, FrozenLinear


def frozen_linear(codes: Codes, bias_O: Tensor | None) -> FrozenLinear:
    """The frozen layer with these weights."""
    bias_1O = None if bias_O is None else bias_O[None]
    return FrozenLinear(kernels.pack_weights(codes.map(lambda tensor: tensor[None]), bias_1O))


def frozen_grouped(codes: Codes, bias_EO: Tensor | None) -> FrozenGroupedLinear:
    """The same for one matrix per expert."""
    return FrozenGroupedLinear(kernels.pack_weights(codes, bias_EO))


@dataclass(frozen=True, slots=True)
class Scheme:
    """How matrices are stored. `bits_per_weight` includes scales; `head_scheme` is the head's, if it differs.

    Matrices that are stored in one of the formats `keeps` are taken as they are, without being quantized again.
    """

    name: str
    bits_per_weight: float
    quantize: Callable[[Tensor], Codes]
    head_scheme: "Scheme | None" = None
    keeps: frozenset[Format] = frozenset()

    @property
    def head(self) -> "Scheme":
        """The scheme of the head."""
        return self.head_scheme or self

    def nearest(self, format: Format | None) -> "Scheme":
        """The scheme of a matrix that is stored in a format, or nearest to it; None: in plain numbers."""
        return self

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
