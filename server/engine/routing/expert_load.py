"""How many tokens each expert gets, layer by layer, since the start.

Entropy is that of a softmax over the router's logits, whatever the router. For a softmax router these are the
probabilities by which it chooses; for others the figure can only be compared within one model. (docs/routing.md
computes entropy from the gates instead.) A token whose softmax is NaN has none.

Counting after every step would cost as much as a small layer, so routings are kept and counted some steps at a time.

Shapes: T tokens, E experts, L MoE layers, K choices per token, C choices of all tokens, N groups of tokens with the
same task and tenant.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.load_balance import max_violation
from server.engine.routing.load_window import LoadWindow
from server.engine.routing.step_routing import StepRouting
from server.engine.types import LayerLoad

STEPS_KEPT = 32
TOKENS_KEPT = 2048  # a step may compute a whole prompt, and there may be many layers and experts


@dataclass(slots=True)
class _LayerCounts:
    pairs_E: Tensor  # (token, expert) pairs
    entropy: float = 0.0  # of a softmax over the logits, summed over tokens, in nats
    num_tokens: int = 0  # that have an entropy

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
        self._kept: list[StepRouting] = []
        self._counted: list[TokenGroup] = []  # of the steps that are kept
        self._tokens_kept = 0
        self.by_task, self.by_tenant = LoadWindow(num_experts, clock), LoadWindow(num_experts, clock)
        self._counts = {
            layer: _LayerCounts(torch.zeros(experts, dtype=torch.int64)) for layer, experts in num_experts.items()
        }
        self.loads = self._loads()

    def observe(self, routing: StepRouting | None, counted: Iterable[TokenGroup]) -> None:
        """Keep the routing of one step. `counted`: the tokens of the step in their order."""
        if routing is None:
            return
        self._kept.append(routing)
        self._counted += counted
        self._tokens_kept += routing.num_tokens
        if len(self._kept) >= STEPS_KEPT or self._tokens_kept >= TOKENS_KEPT:
            self.flush()

    @torch.inference_mode()
    def flush(self) -> None:
        """Count the steps that were kept."""
        if not self._kept:
            return
        groups, group_T = self._groups()
        most_layers = max(1, TOKENS_KEPT // len(group_T))
        parts = [
            self._count(slice(start, start + most_layers), group_T, len(groups))
            for start in range(0, len(self._counts), most_layers)
        ]
        pairs_NLE = np.concatenate(parts, axis=1)
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

    def _count(self, layers: slice, group_T: NDArray[np.int64], num_groups: int) -> NDArray[np.int64]:
        """Add the choices in some of the layers. Returns the pairs by group, layer and expert: [N, L, E].

        Several layers at once: for a few tokens, the time of an operation does not depend on how much it computes. For
        many tokens it does, and the logits of all layers would leave the CPU's caches.
        """
        router_logits_LTE = torch.cat([step.router_logits_LTE[layers] for step in self._kept], 1)
        weights_LC = torch.cat([step.weights_LTK[layers].flatten(1) for step in self._kept], 1)
        experts_LC = torch.cat([step.experts_LTK[layers].flatten(1) for step in self._kept], 1)
        num_layers, _, num_experts = router_logits_LTE.shape
        choices_T = np.repeat([step.experts_LTK.shape[2] for step in self._kept], [s.num_tokens for s in self._kept])
        first_LC = (np.repeat(group_T, choices_T) * num_layers + np.arange(num_layers)[:, None]) * num_experts
        place_LC = experts_LC + torch.from_numpy(first_LC).to(experts_LC.device)
        dispatched_LC = (weights_LC != 0).double()  # as weights: faster than taking these pairs out
        size = num_groups * num_layers * num_experts
        pairs_NLE = torch.bincount(place_LC.flatten(), dispatched_LC.flatten(), minlength=size).long().cpu()
        pairs_NLE = pairs_NLE.view(num_groups, num_layers, num_experts)
        entropy_LT = _entropy(router_logits_LTE)
        entropy_L = entropy_LT.nansum(1, dtype=torch.float64).tolist()
        undefined_L = entropy_LT.isnan().sum(1).tolist()
        for place, counts in enumerate(list(self._counts.values())[layers]):
            counts.pairs_E += pairs_NLE[:, place, : len(counts.pairs_E)].sum(0)
            counts.entropy += entropy_L[place]
            counts.num_tokens += len(group_T) - undefined_L[place]
        return pairs_NLE.numpy()


def _entropy(router_logits: Tensor) -> Tensor:
    """Of each row; NaN where its softmax is. PyTorch's own `entr` takes twice as long."""
    logprobs = router_logits.log_softmax(-1)
    logprobs.clamp_(min=torch.finfo(logprobs.dtype).min)  # 0 times the -inf of a masked expert would be NaN
    return -(logprobs.exp() * logprobs).sum(-1)
