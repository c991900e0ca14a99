"""A scheme: from weights to codes, and from codes to the frozen layer that multiplies them.

Shapes: I input width, O output width, E experts, G groups of inputs.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from model.kernels import product, product_reference
from model.layers.frozen_linear import PackedGroupedLinear, PackedLinear


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """Weights as a scheme keeps them, row by row and the same on every machine: what a quantized checkpoint stores.

    `values` [..., O, I] are the weights themselves, or int8; or uint8 [..., O, I / 2], two numbers of four bits a byte,
    in two's complement, the even input in the low half. `scales` multiply integers: float32 [..., O] for int8, bfloat16
    [..., O, G] for four bits.
    """

    values: Tensor
    scales: Tensor | None = None

    def dequantized(self) -> Tensor:
        """The float32 weights that they stand for."""
        return product_reference.dequantized(self.values, self.scales)


def frozen_linear(codes: Codes, bias_O: Tensor | None) -> PackedLinear:
    """The layer that multiplies them."""
    scales = None if codes.scales is None else codes.scales[None]
    return PackedLinear(product.pack(codes.values[None], scales, None if bias_O is None else bias_O[None]))


def frozen_grouped(codes: Codes, bias_EO: Tensor | None) -> PackedGroupedLinear:
    """The same for one matrix per expert."""
    return PackedGroupedLinear(product.pack(codes.values, codes.scales, bias_EO))


@dataclass(frozen=True, slots=True)
class Scheme:
    """How matrices are kept. `bits_per_weight` counts scales; `head_scheme` is for the head alone where it differs."""

    name: str
    bits_per_weight: float
    quantize: Callable[[Tensor], Codes]
    head_scheme: "Scheme | None" = None

    @property
    def head(self) -> "Scheme":
        """How the head is kept."""
        return self.head_scheme or self

    @property
    def is_quantized(self) -> bool:
        """Whether weights become codes, instead of staying what they are."""
        return self.bits_per_weight < 16

    def linear(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> PackedLinear:
        """A frozen layer: forward(x_TI) -> y_TO."""
        return frozen_linear(self.quantize(weight_OI.detach()), bias_O)

    def grouped(self, weight_EOI: Tensor, bias_EO: Tensor | None = None) -> PackedGroupedLinear:
        """A frozen layer of experts: forward(x_SI, counts_E) -> y_SO."""
        return frozen_grouped(self.quantize(weight_EOI.detach()), bias_EO)
