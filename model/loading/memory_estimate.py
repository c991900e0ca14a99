"""What a network takes in memory, told from its shapes alone."""

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
    """Numbers of weights, and bytes of what a sequence is remembered by.

    `active_parameters` take part in the computation of one token: all but those of the experts it is not routed to.
    `embedding_parameters` are counted in both; a head that is tied to the embedding is the same weights.
    """

    parameters: int
    active_parameters: int
    embedding_parameters: int
    kv_bytes_per_token: int
    state_bytes_per_sequence: int

    def sequence_bytes(self, length: int) -> int:
        """What `length` tokens of one sequence take."""
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
    """Bytes of all weights when matrices are kept as `scheme` says.

    An embedding that is tied to the head takes none where the head is not quantized; codes serve the head alone.
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
    """Bytes to be read by a person."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """By name; what is shared, by each of its names."""
    return dict(network.named_parameters(remove_duplicate=False))


def _idle_parameters(layer: MoE) -> int:
    """How many weights of a layer a token passes by."""
    experts = sum(parameter.numel() for parameter in layer.experts.parameters())
    return experts * (layer.experts.num_experts - layer.router.k) // layer.experts.num_experts
