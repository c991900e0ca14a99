"""From a checkpoint directory to a network that is ready to serve."""

from pathlib import Path

import torch

from model.checkpoint import load_weights, read_config
from model.families import family_of
from model.layers.linear import can_pack
from model.network import CausalLM, cast_matrices, pack_matrices


def load_network(directory: Path, dtype: torch.dtype | None = None, *, pack: bool = True) -> CausalLM:
    """Load a checkpoint of any family in FAMILIES; raises CheckpointError naming what is wrong with it.

    `dtype` is that of matrices and hidden states: bfloat16 where the processor multiplies it, otherwise float32.
    `pack` freezes the weights in the layout that the CPU multiplies fastest and reproducibly.
    """
    hf_config = read_config(directory)
    family = family_of(hf_config)
    with torch.device("meta"):
        network = CausalLM(family.config_from_hf(hf_config))
    network.to_empty(device="cpu")
    cast_matrices(network, dtype or default_dtype())
    load_weights(network, family.rules(network.config), directory)
    if pack and can_pack(network.dtype) and can_pack(torch.float32):
        pack_matrices(network)
    return network.requires_grad_(False).eval()


def default_dtype() -> torch.dtype:
    """bfloat16 if this machine's matrix products take it, else float32."""
    return torch.bfloat16 if can_pack(torch.bfloat16) else torch.float32
