"""What a token costs: parameters and operations, counted from the config, and the speed of decoding, measured.

Shapes: T tokens, S sequences, B blocks a sequence.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from model.batch import ForwardBatch
from model.cache import CacheStorage
from model.config import ModelConfig
from model.layers.linear import GroupedLinear, Linear
from model.loading.freeze import freeze_network
from model.network import CausalLM, cast_matrices

BLOCK_SIZE = 16
CONTEXT, DECODED, REPEATS = 64, 64, 5


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a network whose head shares the embedding's weights, as it is trained."""

    parameters: int
    active_parameters: float  # that a token is multiplied with, on average

    @property
    def flops_per_token(self) -> float:
        """Of the forward pass: a multiplication and an addition for each active parameter.

        What attention and the recurrence do beside is left out: it is the same for every router.
        """
        return 2 * self.active_parameters


def cost_of(config: ModelConfig, mean_k: Sequence[float]) -> Cost:
    """`mean_k` are the experts a token passes in each routed layer."""
    with torch.device("meta"):
        network = CausalLM(config)
        network.tie_head()
    experts_used = iter(mean_k)
    active = 0.0
    for block in network.blocks:
        grouped = [module for module in block.modules() if isinstance(module, GroupedLinear)]
        k = next(experts_used) if grouped else 0.0
        active += sum(module.weight.numel() for module in block.modules() if isinstance(module, Linear))
        active += sum(module.weight[0].numel() * k for module in grouped)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Cost(parameters, active + network.embedding.weight.numel())


@torch.inference_mode()
def decoding_rate(network: CausalLM, streams: int = 8) -> float:
    """Tokens per second of `streams` sequences that each go on with their likeliest token, median of some repeats."""
    served = _for_serving(network)
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(served.config.vocab_size, (streams * CONTEXT,), generator=generator)
    rates = []
    for _ in range(REPEATS):
        decoder = _Decoder(served, streams)
        next_T = decoder.step(prompts, 0, CONTEXT)
        start = time.perf_counter()
        for position in range(CONTEXT, CONTEXT + DECODED):
            next_T = decoder.step(next_T, position, 1)
        rates.append(streams * DECODED / (time.perf_counter() - start))
    return median(rates)


def _for_serving(network: CausalLM) -> CausalLM:
    """A copy in the form that is served: on a CPU with packed matrices."""
    device = network.embedding.weight.device
    copy = cast_matrices(CausalLM(network.config).to(device), network.dtype)
    copy.load_state_dict(network.state_dict())
    if device.type == "cpu":
        return freeze_network(copy)
    return copy.requires_grad_(False).eval()


class _Decoder:
    """Steps of sequences of equal length over a cache of their own."""

    def __init__(self, network: CausalLM, streams: int) -> None:
        blocks = -(-(CONTEXT + DECODED) // BLOCK_SIZE)
        self.network, self.streams, self.device = network, streams, network.embedding.weight.device
        self.cache = CacheStorage(
            network.cache_specs(),
            num_blocks=streams * blocks,
            block_size=BLOCK_SIZE,
            num_rows=streams,
            dtype=network.dtype,
            device=self.device,
        )
        self.table_SB = torch.arange(streams * blocks, dtype=torch.int32).view(streams, blocks)

    def step(self, ids_T: Tensor, first: int, count: int) -> Tensor:
        """Put `count` tokens of every stream at position `first`; returns each stream's likeliest next token."""
        batch = ForwardBatch(
            token_ids_T=ids_T.to(self.device),
            positions_T=torch.arange(first, first + count).repeat(self.streams).to(self.device),
            query_starts_S1=(torch.arange(self.streams + 1, dtype=torch.int32) * count).to(self.device),
            block_table_SB=self.table_SB.to(self.device),
            state_rows_S=torch.arange(self.streams, dtype=torch.int32).to(self.device),
            cache=self.cache,
        )
        hidden_TD, _ = self.network(batch)
        return self.network.logits(hidden_TD[count - 1 :: count]).argmax(-1)
