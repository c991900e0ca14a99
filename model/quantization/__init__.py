"""How the matrices of a served network are kept: a scheme makes the frozen form of a layer from its weights.

One file per scheme; a new one is a file here and a line in SCHEMES.
"""

import torch

from model.quantization import int4, int8, plain
from model.quantization.scheme import Codes, Scheme

__all__ = ["SCHEMES", "Codes", "Scheme", "plain_scheme"]

_INT8 = Scheme("int8", 8.0, int8.quantize)
# Scores over the vocabulary decide between near equals: four bits are too few for them.
_INT4 = Scheme("int4", 4.5, int4.quantize, head_scheme=_INT8)

SCHEMES = {scheme.name: scheme for scheme in (_INT8, _INT4)}


def plain_scheme(dtype: torch.dtype) -> Scheme:
    """The weights as they are, in the type of the network."""
    return Scheme(str(dtype).removeprefix("torch."), 8.0 * dtype.itemsize, plain.keep)
