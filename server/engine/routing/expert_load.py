"""How many tokens each expert gets, layer by layer, since the start.

Entropy is that of a softmax over the router's logits, whatever the router. For a softmax router these are the
probabilities by which it chooses; for others the figure can only be compared within one model. (docs/routing.md
computes entropy from the gates instead.)

Counting after every step would cost as much as a small layer, so routings are kept and counted some steps at a time.

Shapes: T tokens, E experts, L MoE layers, N tasks.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

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


class ExpertLoadRecorder:
    """Sums over all steps. `flush` updates `loads`; every few steps this happens by itself.

    `num_experts` is by index of the MoE layer. Counts start with zeros, so that a scraper sees their first increase.
    """

    def __init__(self, num_experts: Mapping[int, int], clock: Callable[[], float] = time.monotonic) -> None:
        self._kept: list[tuple[Routing | None, ...]] = []
        self._tasks: list[tuple[str, int]] = []  # of the routings that are kept, with the number of tokens
        self._tokens_kept = 0
        self._most_experts = max(num_experts.values(), default=0)
        self.window = LoadWindow(num_experts, clock)
        self._counts = {
            layer: _LayerCounts(torch.zeros(experts, dtype=torch.int64)) for layer, experts in num_experts.items()
        }
        self.loads = self._loads()

    def observe(self, routings: tuple[Routing | None, ...], tasks: Iterable[tuple[str, int]]) -> None:
        """Keep the routings of one step. `tasks`: the tokens of the step in their order, as (task, number)."""
        if not self._counts:
            return
        self._kept.append(routings)
        self._tasks += tasks
        self._tokens_kept += max((len(routing.experts_TK) for routing in routings if routing is not None), default=0)
        if len(self._kept) >= STEPS_KEPT or self._tokens_kept >= TOKENS_KEPT:
            self.flush()

    @torch.inference_mode()
    def flush(self) -> None:
        """Count the routings that were kept."""
        if not self._kept:
            return
        tasks, tokens_N = self._kept_tasks()
        pairs_NLE = np.zeros((len(tasks), len(self._counts), self._most_experts), dtype=np.int64)
        places = {layer: place for place, layer in enumerate(self._counts)}
        for layer, steps in enumerate(zip(*self._kept, strict=True)):
            routings = [routing for routing in steps if routing is not None]
            if routings:
                pairs_NE = self._count(layer, routings, tokens_N, len(tasks))
                pairs_NLE[:, places[layer], : pairs_NE.shape[1]] = pairs_NE.numpy()
        self.window.add(tasks, np.bincount(tokens_N, minlength=len(tasks)).tolist(), pairs_NLE)
        self._kept.clear()
        self._tasks.clear()
        self._tokens_kept = 0
        self.loads = self._loads()

    def _loads(self) -> tuple[LayerLoad, ...]:
        return tuple(counts.load(layer) for layer, counts in self._counts.items())

    def _kept_tasks(self) -> tuple[list[str], NDArray[np.int64]]:
        """The tasks of the steps that are kept, and for each token the index of its task."""
        numbers: dict[str, int] = {}
        indices = [numbers.setdefault(task, len(numbers)) for task, _ in self._tasks]
        return list(numbers), np.repeat(indices, [count for _, count in self._tasks])

    def _count(self, layer: int, routings: list[Routing], task_T: NDArray[np.int64], num_tasks: int) -> Tensor:
        """Add the routings of a layer. Returns the pairs by task and expert: int64 [N, E]."""
        router_logits_TE = torch.cat([routing.router_logits_TE for routing in routings])
        weights = torch.cat([routing.weights_TK.flatten() for routing in routings])
        experts = torch.cat([routing.experts_TK.flatten() for routing in routings])
        num_experts = router_logits_TE.shape[1]
        choices_T = np.repeat([r.experts_TK.shape[1] for r in routings], [len(r.experts_TK) for r in routings])
        first = torch.from_numpy(np.repeat(task_T * num_experts, choices_T)).to(experts.device)
        dispatched = (weights != 0).double()  # as weights: faster than taking these pairs out
        pairs = torch.bincount(experts + first, dispatched, minlength=num_tasks * num_experts).long().cpu()
        counts = self._counts[layer]
        counts.pairs_E += pairs.view(num_tasks, num_experts).sum(0)
        counts.entropy += _entropy(router_logits_TE)
        counts.num_tokens += len(router_logits_TE)
        return pairs.view(num_tasks, num_experts)


def _entropy(router_logits_TE: Tensor) -> float:
    """The sum over all tokens. PyTorch's own `entr` takes twice as long."""
    logprobs_TE = router_logits_TE.log_softmax(-1)
    logprobs_TE.clamp_(min=torch.finfo(logprobs_TE.dtype).min)  # 0 times the -inf of a masked expert would be NaN
    return -float((logprobs_TE.exp() * logprobs_TE).sum(dtype=torch.float64))
