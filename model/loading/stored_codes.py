"""Matrices that are stored in a format in which they can be multiplied: they are packed as they are.

The rules of families and of GGUF files then move the rows of values and scales alike. Where a rule mixes inputs, and
where the scheme asks for another format, a matrix is dequantized and quantized anew.
"""

from torch import Tensor

from model.checkpoints.reader import CheckpointReader, joined_codes_header, widest
from model.checkpoints.rules import Rule
from model.kernels.matmul.codes import Codes, Format, codes_header, join_codes
from model.loading.freeze import scheme_of
from model.network import CausalLM
from model.quantization import Scheme


def stored_format(reader: CheckpointReader, rule: Rule) -> Format | None:
    """The format nearest to that of the tensors of a rule; None if one of them is not quantized."""
    return widest([reader.header(name) for name in rule.sources])


def read_codes(network: CausalLM, reader: CheckpointReader, rule: Rule, scheme: Scheme) -> Codes | None:
    """The codes [..., O, I] of a matrix; None, before anything is read, if it cannot be taken as it is stored."""
    header = joined_codes_header(rule.merge.join, [reader.header(name) for name in rule.sources])
    name = rule.target.removesuffix(".weight")
    if header is None or header.format not in scheme_of(network, name, scheme).keeps:
        return None
    if not _is_whole(header, tuple(network.get_parameter(rule.target).shape)):
        return None
    return join_codes(rule.merge.join, [reader.codes(name) for name in rule.sources]).map(Tensor.contiguous)


def _is_whole(header: Codes, shape: tuple[int, ...]) -> bool:
    """Whether values and scales have the shapes of a matrix: they have not if a rule has moved inputs."""
    expected = codes_header(header.format, shape).tensors()
    return all(tensor.shape == expected[name].shape for name, tensor in header.tensors().items())
