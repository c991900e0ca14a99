"""How many tokens each expert gets, layer by layer, since the start.

Entropy is that of a softmax over the router's logits, whatever the router. For a softmax router these are the
probabilities by which it chooses; for others the figure can only be compared within one model. (docs/routing.md
computes entropy from the gates instead.) A token whose softmax is NaN has none.

Counting after every step would cost as much as a small layer, so routings are kept and counted some steps at a time.

Shapes: T tokens, E experts, L MoE layers, K choices per token, N groups of tokens with the same task and tenant.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model import kernels
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
        most_layers = max(1, TOKENS_KEPT // len(group_T))  # counted at once; for long steps one, to save memory
        parts = [
            self._count(slice(start, start + most_layers), group_T, len(groups))
            for start in range(0, len(self._counts), most_layers)
        ]
        num_tokens = np.bincount(group_T, minlength=len(groups)).tolist()
        self._add_to_windows(groups, num_tokens, np.concatenate(parts, axis=1))
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
        """Add the choices in some of the layers. Returns the pairs by group, layer and expert: [N, L, E]."""
        pairs_NLE, entropy_L, counted_L = kernels.count_routing(
            torch.cat([step.router_logits_LTE[layers] for step in self._kept], 1),
            _joined([step.weights_LTK[layers] for step in self._kept]),
            _joined([step.experts_LTK[layers] for step in self._kept]),
            torch.from_numpy(group_T).to(self._kept[0].experts_LTK.device),
            num_groups,
        )
        counts = list(self._counts.values())[layers]
        found = pairs_NLE.sum(0).cpu(), entropy_L.tolist(), counted_L.tolist()
        for layer, pairs_E, entropy, counted in zip(counts, *found, strict=True):
            layer.pairs_E += pairs_E[: len(layer.pairs_E)]
            layer.entropy += entropy
            layer.num_tokens += counted
        return pairs_NLE.numpy(force=True)


def _joined(steps: list[Tensor]) -> Tensor:
    """The choices [L, T, K] of all steps, filled up to the largest K with zeros, which as weights are not computed."""
    most = max(choices_LTK.shape[2] for choices_LTK in steps)
    return torch.cat([functional.pad(x, (0, most - x.shape[2])) if x.shape[2] < most else x for x in steps], 1)
