"""How many tokens each expert gets, layer by layer, since the start.

Entropy is that of a softmax over the router's logits, whatever the router. For a softmax router these are the
probabilities by which it chooses; for others the figure can only be compared within one model. (docs/routing.md
computes entropy from the gates instead.)

Counting after every step would cost as much as a small layer, so routings are kept and counted some steps at a time.

Shapes: T tokens, E experts.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from model.layers.router import Routing
from server.engine.types import LayerLoad

STEPS_KEPT = 32
TOKENS_KEPT = 2048  # a step may compute a whole prompt, and there may be many layers and experts


@dataclass(slots=True)
class _LayerCounts:
    pairs_E: Tensor  # (token, expert) pairs
    entropy: float = 0.0  # of a softmax over the logits, summed over tokens, in nats
    num_tokens: int = 0

    def load(self, layer: int) -> LayerLoad:
        counts_E = self.pairs_E
        mean = float(counts_E.sum()) / len(counts_E)
        imbalance = (float(counts_E.max()) - mean) / mean if mean else 0.0
        return LayerLoad(layer, tuple(counts_E.tolist()), self.entropy / max(self.num_tokens, 1), imbalance)


class ExpertLoadRecorder:
    """Sums over all steps. `flush` updates `loads`; every few steps this happens by itself.

    `num_experts` is by index of the MoE layer. Counts start with zeros, so that a scraper sees their first increase.
    """

    def __init__(self, num_experts: Mapping[int, int]) -> None:
        self._kept: list[tuple[Routing | None, ...]] = []
        self._tokens_kept = 0
        self._counts = {
            layer: _LayerCounts(torch.zeros(experts, dtype=torch.int64)) for layer, experts in num_experts.items()
        }
        self.loads = self._loads()

    def observe(self, routings: tuple[Routing | None, ...]) -> None:
        """Keep the routings of one step."""
        self._kept.append(routings)
        self._tokens_kept += max((len(routing.experts_TK) for routing in routings if routing is not None), default=0)
        if len(self._kept) >= STEPS_KEPT or self._tokens_kept >= TOKENS_KEPT:
            self.flush()

    @torch.inference_mode()
    def flush(self) -> None:
        """Count the routings that were kept."""
        if not self._kept:
            return
        for layer, steps in enumerate(zip(*self._kept, strict=True)):
            routings = [routing for routing in steps if routing is not None]
            if routings:
                self._count(layer, routings)
        self._kept.clear()
        self._tokens_kept = 0
        self.loads = self._loads()

    def _loads(self) -> tuple[LayerLoad, ...]:
        return tuple(counts.load(layer) for layer, counts in self._counts.items())

    def _count(self, layer: int, routings: list[Routing]) -> None:
        router_logits_TE = torch.cat([routing.router_logits_TE for routing in routings])
        weights = torch.cat([routing.weights_TK.flatten() for routing in routings])
        experts = torch.cat([routing.experts_TK.flatten() for routing in routings])[weights != 0]
        num_experts = router_logits_TE.shape[1]
        logprobs_TE = router_logits_TE.log_softmax(-1)
        counts = self._counts[layer]
        counts.pairs_E += torch.bincount(experts, minlength=num_experts).cpu()
        counts.entropy -= float((logprobs_TE.exp() * logprobs_TE).sum(dtype=torch.float64))
        counts.num_tokens += len(router_logits_TE)
