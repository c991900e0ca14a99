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


class TokenCount(NamedTuple):
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
        self._counted: list[TokenCount] = []  # of the routings that are kept
        self._tokens_kept = 0
        self._most_experts = max(num_experts.values(), default=0)
        self.by_task, self.by_tenant = LoadWindow(num_experts, clock), LoadWindow(num_experts, clock)
        self._counts = {
            layer: _LayerCounts(torch.zeros(experts, dtype=torch.int64)) for layer, experts in num_experts.items()
        }
        self.loads = self._loads()

    def observe(self, routings: tuple[Routing | None, ...], counted: Iterable[TokenCount]) -> None:
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
        pairs_NLE = np.zeros((len(groups), len(self._counts), self._most_experts), dtype=np.int64)
        places = {layer: place for place, layer in enumerate(self._counts)}
        for layer, steps in enumerate(zip(*self._kept, strict=True)):
            routings = [routing for routing in steps if routing is not None]
            if routings:
                pairs_NE = self._count(layer, routings, group_T, len(groups))
                pairs_NLE[:, places[layer], : pairs_NE.shape[1]] = pairs_NE.numpy()
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

    def _count(self, layer: int, routings: list[Routing], group_T: NDArray[np.int64], num_groups: int) -> Tensor:
        """Add the routings of a layer. Returns the pairs by group and expert: int64 [N, E]."""
        router_logits_TE = torch.cat([routing.router_logits_TE for routing in routings])
        weights = torch.cat([routing.weights_TK.flatten() for routing in routings])
        experts = torch.cat([routing.experts_TK.flatten() for routing in routings])
        num_experts = router_logits_TE.shape[1]
        choices_T = np.repeat([r.experts_TK.shape[1] for r in routings], [len(r.experts_TK) for r in routings])
        first = torch.from_numpy(np.repeat(group_T * num_experts, choices_T)).to(experts.device)
        dispatched = (weights != 0).double()  # as weights: faster than taking these pairs out
        pairs = torch.bincount(experts + first, dispatched, minlength=num_groups * num_experts).long().cpu()
        counts = self._counts[layer]
        counts.pairs_E += pairs.view(num_groups, num_experts).sum(0)
        counts.entropy += _entropy(router_logits_TE)
        counts.num_tokens += len(router_logits_TE)
        return pairs.view(num_groups, num_experts)


def _entropy(router_logits_TE: Tensor) -> float:
    """The sum over all tokens. PyTorch's own `entr` takes twice as long."""
    logprobs_TE = router_logits_TE.log_softmax(-1)
    logprobs_TE.clamp_(min=torch.finfo(logprobs_TE.dtype).min)  # 0 times the -inf of a masked expert would be NaN
    return -float((logprobs_TE.exp() * logprobs_TE).sum(dtype=torch.float64))
