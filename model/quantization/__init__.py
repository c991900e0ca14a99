"""How the matrices of a served network are kept: a scheme makes the frozen form of a layer from its weights.

One file per scheme; a new one is a file here and a line in SCHEMES.
"""

from model.kernels.matmul.codes import Codes, Format
from model.quantization import int4, int8
from model.quantization.plain import plain_scheme
from model.quantization.scheme import Scheme
from model.quantization.stored import stored_scheme

__all__ = ["SCHEMES", "Codes", "Scheme", "plain_scheme", "stored_scheme"]

_INT8 = Scheme("int8", 8.0, int8.quantize, keeps=frozenset({Format.Q8_0}))
# Scores over the vocabulary decide between near equals: four bits are too few for them.
_INT4 = Scheme("int4", 4.5, int4.quantize, head_scheme=_INT8, keeps=frozenset({Format.INT4}))

SCHEMES = {scheme.name: scheme for scheme in (_INT8, _INT4)}
