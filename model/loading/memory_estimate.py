"""Estimates the memory of a network from its shapes."""

from dataclasses import dataclass

from torch import nn

from model.cache import bytes_per_block, bytes_per_row
from model.layers.feed_forward import MoE
from model.layers.linear import GroupedLinear, Linear
from model.loading.freeze import scheme_of
from model.network import CausalLM
from model.quantization import Scheme


@dataclass(frozen=True, slots=True)
class NetworkSize:
    """Numbers of parameters, and bytes of the cache.

    `active_parameters` take part in the computation of one token: all except those of experts that are not chosen.
    Both numbers include `embedding_parameters`; the weights of a tied head are counted once.
    """

    parameters: int
    active_parameters: int
    embedding_parameters: int
    kv_bytes_per_token: int
    state_bytes_per_sequence: int

    def sequence_bytes(self, length: int) -> int:
        """Bytes of the cache of one sequence of `length` tokens."""
        return length * self.kv_bytes_per_token + self.state_bytes_per_sequence


def network_size(network: CausalLM) -> NetworkSize:
    """The size of a network, which may be without data, on the device "meta"."""
    parameters = _parameters(network)
    if network.config.tie_word_embeddings:
        del parameters["head.weight"]
    total = sum(parameter.numel() for parameter in parameters.values())
    idle = sum(_idle_parameters(module) for module in network.modules() if isinstance(module, MoE))
    specs = network.cache_specs()
    embedding = parameters["embedding.weight"].numel()
    return NetworkSize(total, total - idle, embedding, bytes_per_block(specs, 1, network.dtype), bytes_per_row(specs))


def weight_bytes(network: CausalLM, scheme: Scheme) -> int:
    """Bytes of all weights under a quantization scheme.

    An embedding that is tied to the head needs no memory of its own unless the head is quantized.
    """
    parameters, packed_bits = _parameters(network), 0.0
    if network.config.tie_word_embeddings and not scheme.head.is_quantized:
        del parameters["embedding.weight"]
    for name, module in network.named_modules():
        if isinstance(module, Linear | GroupedLinear):
            weight = parameters.pop(f"{name}.weight")
            packed_bits += weight.numel() * scheme_of(network, name, scheme).bits_per_weight
    return int(packed_bits / 8) + sum(parameter.nbytes for parameter in parameters.values())


def gib(size: int) -> str:
    """Format a number of bytes."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by name; shared ones under all of their names."""
    return dict(network.named_parameters(remove_duplicate=False))


def _idle_parameters(layer: MoE) -> int:
    """The number of a layer's parameters that are not used for a token, on average."""
    experts = sum(parameter.numel() for parameter in layer.experts.parameters())
    return experts * (layer.experts.num_experts - layer.router.k) // layer.experts.num_experts
