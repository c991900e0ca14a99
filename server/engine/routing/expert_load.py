"""How many tokens each expert gets, layer by layer, since the start.

Entropy is that of a softmax over the router's logits, whatever the router. For a softmax router these are the
probabilities by which it chooses; for others the figure can only be compared within one model. (docs/routing.md
computes entropy from the gates instead.)

Counting after every step would cost as much as a small layer, so routings are kept and counted some steps at a time.

Shapes: T tokens, E experts, L MoE layers, N groups of tokens with the same task and tenant.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.layers.router import Routing
from model.load_balance import max_violation
from server.engine.routing.load_window import LoadWindow
from server.engine.types import LayerLoad

STEPS_KEPT = 32
TOKENS_KEPT = 2048  # a step may compute a whole prompt, and there may be many layers and experts


@dataclass(slots=True)
class _LayerCounts:
    pairs_E: Tensor  # (token, expert) pairs
    entropy: float = 0.0  # of a softmax over the logits, summed over tokens, in nats
    num_tokens: int = 0

    def load(self, layer: int) -> LayerLoad:
        pairs_E = self.pairs_E.tolist()
        return LayerLoad(layer, tuple(pairs_E), self.entropy / max(self.num_tokens, 1), max_violation(pairs_E))


class TokenGroup(NamedTuple):
    """So many tokens of a step that belong together. `tenant` is empty where requests have none."""

    task: str
    tenant: str
    num_tokens: int


class ExpertLoadRecorder:
    """Sums over all steps. `flush` updates `loads`; every few steps this happens by itself.

    `by_task` and `by_tenant` hold the load of the last minutes.

    `num_experts` is by index of the MoE layer. Counts start with zeros, so that a scraper sees their first increase.
    """

    def __init__(self, num_experts: Mapping[int, int], clock: Callable[[], float] = time.monotonic) -> None:
        self._kept: list[tuple[Routing | None, ...]] = []
        self._counted: list[TokenGroup] = []  # of the routings that are kept
        self._tokens_kept = 0
        self._places = {layer: place for place, layer in enumerate(num_experts)}
        self._layers_by_experts: dict[int, list[int]] = {}
        for layer, experts in num_experts.items():
            self._layers_by_experts.setdefault(experts, []).append(layer)
        self.by_task, self.by_tenant = LoadWindow(num_experts, clock), LoadWindow(num_experts, clock)
        self._counts = {
            layer: _LayerCounts(torch.zeros(experts, dtype=torch.int64)) for layer, experts in num_experts.items()
        }
        self.loads = self._loads()

    def observe(self, routings: tuple[Routing | None, ...], counted: Iterable[TokenGroup]) -> None:
        """Keep the routings of one step. `counted`: the tokens of the step in their order."""
        if not self._counts:
            return
        self._kept.append(routings)
        self._counted += counted
        self._tokens_kept += max((len(routing.experts_TK) for routing in routings if routing is not None), default=0)
        if len(self._kept) >= STEPS_KEPT or self._tokens_kept >= TOKENS_KEPT:
            self.flush()

    @torch.inference_mode()
    def flush(self) -> None:
        """Count the routings that were kept."""
        if not self._kept:
            return
        groups, group_T = self._groups()
        pairs_NLE = np.zeros((len(groups), len(self._counts), max(self._layers_by_experts)), dtype=np.int64)
        most_layers = max(1, TOKENS_KEPT // len(group_T))
        for num_experts, alike in self._layers_by_experts.items():
            for start in range(0, len(alike), most_layers):
                layers = alike[start : start + most_layers]
                places = [self._places[layer] for layer in layers]
                pairs_NLE[:, places, :num_experts] = self._count(layers, group_T, len(groups))
        self._add_to_windows(groups, np.bincount(group_T, minlength=len(groups)).tolist(), pairs_NLE)
        self._kept.clear()
        self._counted.clear()
        self._tokens_kept = 0
        self.loads = self._loads()

    def _loads(self) -> tuple[LayerLoad, ...]:
        return tuple(counts.load(layer) for layer, counts in self._counts.items())

    def _groups(self) -> tuple[list[tuple[str, str]], NDArray[np.int64]]:
        """The tasks and tenants of the steps that are kept, and for each token the index of its group."""
        numbers: dict[tuple[str, str], int] = {}
        indices = [numbers.setdefault((task, tenant), len(numbers)) for task, tenant, _ in self._counted]
        return list(numbers), np.repeat(indices, [count.num_tokens for count in self._counted])

    def _add_to_windows(
        self, groups: list[tuple[str, str]], num_tokens: list[int], pairs_NLE: NDArray[np.int64]
    ) -> None:
        self.by_task.add([task for task, _ in groups], num_tokens, pairs_NLE)
        named = [index for index, (_, tenant) in enumerate(groups) if tenant]
        if named:
            tenants, counts = [groups[index][1] for index in named], [num_tokens[index] for index in named]
            self.by_tenant.add(tenants, counts, pairs_NLE[named])

    def _count(self, layers: list[int], group_T: NDArray[np.int64], num_groups: int) -> NDArray[np.int64]:
        """Add the routings of layers with as many experts. Returns the pairs by group, layer and expert: [N, L, E].

        Several layers at once: for a few tokens, the time of an operation does not depend on how much it computes. For
        many tokens it does, and the logits of all layers would leave the CPU's caches.
        """
        routings = [routing for layer in layers for step in self._kept if (routing := step[layer]) is not None]
        router_logits = torch.cat([routing.router_logits_TE for routing in routings])  # [L * T, E]
        weights = torch.cat([routing.weights_TK.flatten() for routing in routings])
        experts = torch.cat([routing.experts_TK.flatten() for routing in routings])
        num_layers, num_experts = len(layers), router_logits.shape[1]
        first_LT = (group_T * num_layers + np.arange(num_layers)[:, None]) * num_experts
        choices = np.repeat([r.experts_TK.shape[1] for r in routings], [len(r.experts_TK) for r in routings])
        first = torch.from_numpy(np.repeat(first_LT.ravel(), choices)).to(experts.device)
        dispatched = (weights != 0).double()  # as weights: faster than taking these pairs out
        size = num_groups * num_layers * num_experts
        pairs_NLE = torch.bincount(experts + first, dispatched, minlength=size).long().cpu()
        pairs_NLE = pairs_NLE.view(num_groups, num_layers, num_experts)
        entropy_L = _entropy(router_logits).view(num_layers, -1).sum(1, dtype=torch.float64).tolist()
        for place, layer in enumerate(layers):
            counts = self._counts[layer]
            counts.pairs_E += pairs_NLE[:, place].sum(0)
            counts.entropy += entropy_L[place]
            counts.num_tokens += len(group_T)
        return pairs_NLE.numpy()


def _entropy(router_logits: Tensor) -> Tensor:
    """Of each row. PyTorch's own `entr` takes twice as long."""
    logprobs = router_logits.log_softmax(-1)
    logprobs.clamp_(min=torch.finfo(logprobs.dtype).min)  # 0 times the -inf of a masked expert would be NaN
    return -(logprobs.exp() * logprobs).sum(-1)
