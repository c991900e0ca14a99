"""A checkpoint loaded in the plainest way: all of it, by the rules."""

from collections.abc import Collection
from pathlib import Path

from torch import nn

from model.checkpoints.rules import Rule
from model.checkpoints.safetensors_files import check_headers, named_tensors, open_checkpoint, read_parameter


def load_weights(network: nn.Module, rules: Collection[Rule], directory: Path) -> None:
    """Fill every parameter and buffer of `network` that a rule names; raises CheckpointError on anything amiss."""
    reader, parameters = open_checkpoint(directory), named_tensors(network)
    check_headers(reader, rules, parameters)
    for rule in rules:
        parameter = parameters[rule.target]
        parameter.data.copy_(read_parameter(reader, rule, parameter.dtype))
