"""The scheme of checkpoints in which every matrix has a format of its own: GGUF files."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from model.kernels.matmul.codes import Format
from model.quantization import int4, q8_0
from model.quantization.plain import plain_scheme
from model.quantization.scheme import Scheme

INT4 = Scheme("int4", Format.INT4.bits_per_weight, int4.quantize)
Q8_0 = Scheme("q8_0", Format.Q8_0.bits_per_weight, q8_0.quantize)
_KEPT = frozenset({Format.INT4, Format.Q8_0, Format.Q4_1})


@dataclass(frozen=True, slots=True)
class StoredScheme(Scheme):
    """Every matrix keeps its format, or is quantized to the nearest one. `bits_per_weight` is a mean."""

    schemes: Mapping[Format | None, Scheme] = field(default_factory=dict)

    def nearest(self, format: Format | None) -> Scheme:
        return self.schemes[format]


def stored_scheme(name: str, bits_per_weight: float, head_bits_per_weight: float, dtype: torch.dtype) -> Scheme:
    """`name` is that of the most common type; matrices in plain numbers become `dtype`."""
    schemes = {None: plain_scheme(dtype), Format.INT4: INT4, Format.Q8_0: Q8_0, Format.Q4_1: Q8_0}
    head = StoredScheme(name, head_bits_per_weight, q8_0.quantize, None, _KEPT, schemes)
    return StoredScheme(name, bits_per_weight, q8_0.quantize, head, _KEPT, schemes)
