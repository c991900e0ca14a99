"""Routing algorithms: which experts a token goes to, and with what weight. One class each, one interface.

A router that is served must decide for each token from that token alone (and what came before it); the property tests
run over every class in `ROUTERS`. Ties go to the expert of the lowest index.

Shapes: T tokens, E experts, K choices a token, S dispatched (token, expert) pairs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.config import (
    ExpertThresholdConfig,
    HashConfig,
    RouterConfig,
    SigmoidBiasConfig,
    SoftmaxTopKConfig,
)


@dataclass(frozen=True, slots=True, eq=False)
class Routing:
    """What every algorithm returns. A choice of weight zero is not computed: that is how K can vary by token."""

    weights_TK: Tensor  # float32
    experts_TK: Tensor  # int64
    scores_TE: Tensor  # float32, the router's logits

    def dispatch(self) -> tuple[Tensor, Tensor]:
        """Experts of all computed choices, ascending, and for each its index in the flattened [T * K] choices."""
        experts = self.experts_TK.flatten()
        chosen = self.weights_TK.flatten().nonzero().squeeze(1)
        if len(chosen) == len(experts):
            return experts.sort(stable=True)
        experts_S, order = experts[chosen].sort(stable=True)
        return experts_S, chosen[order]


class Router(nn.Module):
    """Base of all routing algorithms.

    `forward` decides; `after_step` lets an algorithm follow the load of a whole training step and does nothing else.
    `k` may be lowered or raised between steps where the algorithm has a fixed number of choices.
    """

    k: int
    needs_balance_loss = True

    def __init__(self, num_experts: int, k: int) -> None:
        super().__init__()
        if not 1 <= k <= num_experts:
            raise ValueError(f"a token can go to 1..{num_experts} experts, not {k}: change top_k or num_experts")
        self.num_experts = num_experts
        self.k = k

    def forward(self, scores_TE: Tensor, token_ids_T: Tensor) -> Routing:
        raise NotImplementedError

    def after_step(self, load_E: Tensor) -> None:
        """Called once per optimizer step with the number of (token, expert) pairs each expert got."""


def top_k(scores_TE: Tensor, k: int) -> Tensor:
    """Indices of the k highest scores, highest first; equal scores in the order of their index."""
    return scores_TE.sort(dim=-1, descending=True, stable=True).indices[:, :k]


class SoftmaxTopK(Router):
    """Softmax over all experts, then the k likeliest (arXiv 2006.16668; renormalized as in arXiv 2401.04088)."""

    def __init__(self, config: SoftmaxTopKConfig, num_experts: int) -> None:
        super().__init__(num_experts, config.top_k)
        self.renormalize = config.renormalize

    def forward(self, scores_TE: Tensor, token_ids_T: Tensor) -> Routing:
        probabilities_TE = scores_TE.softmax(-1)
        experts_TK = top_k(probabilities_TE, self.k)
        weights_TK = probabilities_TE.gather(1, experts_TK)
        if self.renormalize:
            weights_TK = weights_TK / weights_TK.sum(-1, keepdim=True)
        return Routing(weights_TK, experts_TK, scores_TE)


def sigmoid(x: Tensor) -> Tensor:
    """Elementwise sigmoid whose bits do not depend on an element's place: torch's own uses another routine for the
    last few elements of a tensor than for the rest, softmax treats every pair alike."""
    return torch.stack([x, torch.zeros_like(x)], dim=-1).softmax(-1)[..., 0]


class SigmoidBias(Router):
    """Sigmoid scores with a bias that only selects, moved against the load after each step (arXiv 2408.15664)."""

    needs_balance_loss = False
    bias_E: Tensor

    def __init__(self, config: SigmoidBiasConfig, num_experts: int) -> None:
        super().__init__(num_experts, config.top_k)
        self.scale, self.rate = config.scale, config.bias_rate
        self.register_buffer("bias_E", torch.zeros(num_experts))

    def forward(self, scores_TE: Tensor, token_ids_T: Tensor) -> Routing:
        affinity_TE = sigmoid(scores_TE)
        experts_TK = top_k(affinity_TE + self.bias_E, self.k)
        weights_TK = affinity_TE.gather(1, experts_TK)
        weights_TK = self.scale * weights_TK / (weights_TK.sum(-1, keepdim=True) + 1e-20)
        return Routing(weights_TK, experts_TK, scores_TE)

    def after_step(self, load_E: Tensor) -> None:
        load_E = load_E.float()
        self.bias_E += self.rate * torch.sign(load_E.mean() - load_E)


class Hash(Router):
    """Experts by the token's id alone (arXiv 2106.04426): nothing learnt, perfectly predictable."""

    needs_balance_loss = False

    def __init__(self, config: HashConfig, num_experts: int) -> None:
        super().__init__(num_experts, config.top_k)

    def forward(self, scores_TE: Tensor, token_ids_T: Tensor) -> Routing:
        mixed_T = (token_ids_T * 2_654_435_761) % 2**32  # multiplicative hashing: neighbours in the vocabulary part
        first_T = (mixed_T * self.num_experts) // 2**32
        stride_T = 1 + (mixed_T % max(self.num_experts - 1, 1))
        choices_K = torch.arange(self.k, device=token_ids_T.device)
        experts_TK = (first_T[:, None] + choices_K * _coprime(stride_T, self.num_experts)[:, None]) % self.num_experts
        weights_TK = torch.full(experts_TK.shape, 1.0 / self.k, device=scores_TE.device)
        return Routing(weights_TK, experts_TK, scores_TE)


def _coprime(stride_T: Tensor, modulus: int) -> Tensor:
    """The strides, those with a factor in common with `modulus` replaced by 1: so that k choices never coincide."""
    shared = torch.gcd(stride_T, torch.full_like(stride_T, modulus))
    return torch.where(shared == 1, stride_T, torch.ones_like(stride_T))


class ExpertThreshold(Router):
    """Every expert takes the tokens above its own threshold (arXiv 2603.11535): a varying number per token.

    In training the threshold of an expert follows the score that the best mean_k / E share of all tokens reach.
    A token that no expert takes passes through the shared expert alone.
    """

    needs_balance_loss = False
    threshold_E: Tensor
    quantile_E: Tensor

    def __init__(self, config: ExpertThresholdConfig, num_experts: int) -> None:
        super().__init__(num_experts, config.mean_k)
        self.ema = config.ema
        self.register_buffer("threshold_E", torch.full((num_experts,), 0.5))
        self.register_buffer("quantile_E", torch.full((num_experts,), 0.5), persistent=False)

    def forward(self, scores_TE: Tensor, token_ids_T: Tensor) -> Routing:
        affinity_TE = sigmoid(scores_TE)
        if self.training and torch.is_grad_enabled():
            self.quantile_E = affinity_TE.detach().quantile(1 - self.k / self.num_experts, dim=0)
        taken_TE = affinity_TE * (affinity_TE > self.threshold_E)
        most = max(int((taken_TE > 0).sum(-1).max()), 1)
        experts_TK = top_k(taken_TE, most)
        return Routing(taken_TE.gather(1, experts_TK), experts_TK, scores_TE)

    def after_step(self, load_E: Tensor) -> None:
        self.threshold_E.lerp_(self.quantile_E, 1 - self.ema)


ROUTERS: dict[type, type[Router]] = {
    SoftmaxTopKConfig: SoftmaxTopK,
    SigmoidBiasConfig: SigmoidBias,
    HashConfig: Hash,
    ExpertThresholdConfig: ExpertThreshold,
}


def build_router(config: RouterConfig, num_experts: int) -> Router:
    return ROUTERS[type(config)](config, num_experts)  # type: ignore[arg-type]
