"""Routing algorithms: which experts process a token, and with what weights. One class per algorithm.

A router may look at one token at a time only, so that an answer does not depend on the other requests of its batch; the
property tests check every class in `ROUTERS`. Equal scores are resolved in favor of the lowest expert index. A logit of
minus infinity means that the token must not go to the expert.

Shapes: T tokens, E experts, K choices per token, S dispatched (token, expert) pairs, G groups of M experts.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model import kernels
from model.config import (
    ExpertThresholdConfig,
    GroupLimit,
    HashConfig,
    ReluConfig,
    RouterConfig,
    SigmoidBiasConfig,
    SoftmaxBiasConfig,
    SoftmaxTopKConfig,
    SparseMixerConfig,
    TopKSoftmaxConfig,
    TopPConfig,
)


@dataclass(frozen=True, slots=True, eq=False)
class Routing:
    """The result of every algorithm. Choices with weight zero are not computed, so K may vary by token."""

    weights_TK: Tensor  # float32
    experts_TK: Tensor  # int64
    router_logits_TE: Tensor  # float32

    def dispatch(self) -> tuple[Tensor, Tensor]:
        """The computed choices sorted by expert: expert indices [S], and positions [S] in the flattened [T * K]."""
        experts = self.experts_TK.flatten()
        chosen = self.weights_TK.flatten().nonzero().squeeze(1)
        if len(chosen) == len(experts):
            return experts.sort(stable=True)
        experts_S, order = experts[chosen].sort(stable=True)
        return experts_S, chosen[order]

    def of_tokens(self, tokens: Tensor) -> "Routing":
        """The routing of some tokens, by index."""
        return Routing(*(x.index_select(0, tokens) for x in (self.weights_TK, self.experts_TK, self.router_logits_TE)))


class Router(nn.Module):
    """Base class of the routing algorithms.

    `forward` chooses. During training `regularize` adds to the loss of each micro-batch, and `after_step` lets an
    algorithm react to the expert load of a whole optimizer step. `k` is the number of experts per token, or the mean
    number that training aims for.
    """

    needs_balance_loss = True

    def __init__(self, num_experts: int, k: int) -> None:
        super().__init__()
        if not 1 <= k <= num_experts:
            raise ValueError(
                f"a token can go to 1..{num_experts} experts, not {k}: change top_k (num_experts_per_tok) or "
                "num_experts"
            )
        self.num_experts = num_experts
        self.k = k

    def forward(self, router_logits_TE: Tensor, token_ids_T: Tensor) -> Routing:
        raise NotImplementedError

    def regularize(self, routing: Routing, real_T: Tensor) -> Tensor:
        """Called once per micro-batch of training; `real_T` is false for padding.

        Returns a loss to add to the balance loss, and may keep what `after_step` needs.
        """
        return routing.router_logits_TE.new_zeros(())

    def after_step(self, load_E: Tensor, tokens: int) -> None:
        """Called once per optimizer step: how many of the step's `tokens` each expert got. Padding is not counted."""


class TopKRouter(Router):
    """Base class of the algorithms that choose exactly k experts per token; a batch may ask for another k.

    Subclasses implement `choose`.
    """

    def choose(self, router_logits_TE: Tensor, token_ids_T: Tensor, k: int) -> Routing:
        """Choose k experts for every token."""
        raise NotImplementedError

    def forward(self, router_logits_TE: Tensor, token_ids_T: Tensor, k: int | Tensor | None = None) -> Routing:
        """`k`: one number for all tokens, int64 [T] with 0 for tokens that keep `self.k`, or None: all keep it."""
        if isinstance(k, Tensor):
            return self._choose_varying(router_logits_TE, token_ids_T, k)
        return self.choose(router_logits_TE, token_ids_T, self.k if k is None else k)

    def _choose_varying(self, router_logits_TE: Tensor, token_ids_T: Tensor, k_T: Tensor) -> Routing:
        """Tokens with equal k together, so that each gets the same bits as in a batch of its own k."""
        k_T = torch.where(k_T == 0, self.k, k_T)
        weights_TK = router_logits_TE.new_zeros(len(k_T), int(k_T.max()))
        experts_TK = torch.zeros_like(weights_TK, dtype=torch.int64)
        for k in k_T.unique().tolist():
            rows = (k_T == k).nonzero().squeeze(1)
            chosen = self.choose(router_logits_TE[rows], token_ids_T[rows], k)
            weights_TK[rows, :k], experts_TK[rows, :k] = chosen.weights_TK, chosen.experts_TK
        return Routing(weights_TK, experts_TK, router_logits_TE)


def top_k(router_logits_TE: Tensor, k: int) -> Tensor:
    """Indices of the k highest scores, highest first; equal scores in the order of their index."""
    return router_logits_TE.sort(dim=-1, descending=True, stable=True).indices[:, :k]


def _masked(values_TE: Tensor, router_logits_TE: Tensor) -> Tensor:
    """The values, minus infinity where the logit is."""
    return values_TE.masked_fill(router_logits_TE == float("-inf"), float("-inf"))


def limit_to_groups(values_TE: Tensor, limit: GroupLimit | None) -> Tensor:
    """Mask the values outside of each token's best groups with minus infinity (arXiv 2405.04434, 2412.19437)."""
    if limit is None:
        return values_TE
    values_TGM = values_TE.unflatten(1, (limit.num_groups, -1))
    best_TGN = values_TGM.sort(dim=-1, descending=True).values[..., : limit.best_of]
    is_empty_TG = best_TGN[..., 0] == float("-inf")
    # masked experts add nothing, so that a group with any other expert is above those without
    group_scores_TG = best_TGN.masked_fill(best_TGN == float("-inf"), 0).sum(-1).masked_fill(is_empty_TG, float("-inf"))
    chosen_TG = torch.zeros_like(group_scores_TG, dtype=torch.bool).scatter(
        1, top_k(group_scores_TG, limit.top_groups), True
    )
    return values_TGM.masked_fill(~chosen_TG[..., None], float("-inf")).flatten(1)


class SoftmaxTopK(TopKRouter):
    """Softmax over all experts, then the top k (arXiv 2006.16668; with renormalization as in arXiv 2401.04088)."""

    def __init__(self, config: SoftmaxTopKConfig, num_experts: int) -> None:
        super().__init__(num_experts, config.top_k)
        self.config = config

    def choose(self, router_logits_TE: Tensor, token_ids_T: Tensor, k: int) -> Routing:
        weights_TK, experts_TK = self._top_k(router_logits_TE, k)
        scaled_TK = weights_TK if self.config.scale == 1 else weights_TK * self.config.scale
        return Routing(scaled_TK, experts_TK, router_logits_TE)

    def _top_k(self, router_logits_TE: Tensor, k: int) -> tuple[Tensor, Tensor]:
        if self.config.groups is None:
            return kernels.top_k_softmax(router_logits_TE, k, over_all=not self.config.renormalize)
        probabilities_TE = router_logits_TE.softmax(-1)
        experts_TK = top_k(limit_to_groups(_masked(probabilities_TE, router_logits_TE), self.config.groups), k)
        weights_TK = probabilities_TE.gather(1, experts_TK)
        if self.config.renormalize:
            weights_TK = weights_TK / weights_TK.sum(-1, keepdim=True)
        return weights_TK, experts_TK


class TopKSoftmax(TopKRouter):
    """The top k router logits, then a softmax over these alone (arXiv 1701.06538)."""

    def __init__(self, config: TopKSoftmaxConfig, num_experts: int) -> None:
        super().__init__(num_experts, config.top_k)

    def choose(self, router_logits_TE: Tensor, token_ids_T: Tensor, k: int) -> Routing:
        return Routing(*kernels.top_k_softmax(router_logits_TE, k, over_all=False), router_logits_TE)


def sigmoid(x: Tensor) -> Tensor:
    """Elementwise sigmoid whose bits do not depend on an element's place in the tensor.

    torch.sigmoid vectorizes all but the last few elements, which can round differently; softmax over pairs does not.
    """
    return torch.stack([x, torch.zeros_like(x)], dim=-1).softmax(-1)[..., 0]


class BiasedTopKRouter(TopKRouter):
    """Base class of routers that balance the load with a bias per expert, without a balance loss (arXiv 2408.15664).

    The bias takes part in the choice of experts, not in their weights. After each step that of an overloaded expert
    falls by a fixed amount and that of an underloaded one rises.
    """

    needs_balance_loss = False
    bias_E: Tensor

    def __init__(self, config: SigmoidBiasConfig | SoftmaxBiasConfig, num_experts: int) -> None:
        super().__init__(num_experts, config.top_k)
        self.bias_rate = config.bias_rate
        self.register_buffer("bias_E", torch.zeros(num_experts))

    def biased(self, affinity_TE: Tensor, router_logits_TE: Tensor) -> Tensor:
        """The scores that choose: minus infinity where the logit is."""
        return _masked(affinity_TE + self.bias_E, router_logits_TE)

    def after_step(self, load_E: Tensor, tokens: int) -> None:
        load_E = load_E.float()
        self.bias_E += self.bias_rate * torch.sign(load_E.mean() - load_E)


class SigmoidBias(BiasedTopKRouter):
    """Top k of sigmoid scores plus a bias, which is not part of the weights (arXiv 2408.15664)."""

    def __init__(self, config: SigmoidBiasConfig, num_experts: int) -> None:
        super().__init__(config, num_experts)
        self.config = config

    def choose(self, router_logits_TE: Tensor, token_ids_T: Tensor, k: int) -> Routing:
        affinity_TE = sigmoid(router_logits_TE)
        experts_TK = top_k(limit_to_groups(self.biased(affinity_TE, router_logits_TE), self.config.groups), k)
        weights_TK = affinity_TE.gather(1, experts_TK)
        if self.config.renormalize:
            weights_TK = weights_TK / (weights_TK.sum(-1, keepdim=True) + self.config.epsilon)
        return Routing(weights_TK * self.config.scale, experts_TK, router_logits_TE)


class SoftmaxBias(BiasedTopKRouter):
    """Top k of a softmax plus a bias, which is not part of the weights."""

    def choose(self, router_logits_TE: Tensor, token_ids_T: Tensor, k: int) -> Routing:
        affinity_TE = router_logits_TE.softmax(-1)
        experts_TK = top_k(self.biased(affinity_TE, router_logits_TE), k)
        weights_TK = affinity_TE.gather(1, experts_TK)
        return Routing(weights_TK / weights_TK.sum(-1, keepdim=True), experts_TK, router_logits_TE)


class SparseMixer(TopKRouter):
    """The two highest scores, each with its share of a softmax over the scores that are near to it (arXiv 2409.12136).

    For the second one the first is left out. This is how the router serves; the gradient is that of this computation,
    not the estimate of the paper.
    """

    def __init__(self, config: SparseMixerConfig, num_experts: int) -> None:
        super().__init__(num_experts, config.top_k)
        self.config = config

    def choose(self, router_logits_TE: Tensor, token_ids_T: Tensor, k: int) -> Routing:
        self.config.check(k)
        experts_TK, left_TE, weights = top_k(router_logits_TE, k), router_logits_TE, []
        for expert_T1 in experts_TK.split(1, dim=1):
            highest_T1 = router_logits_TE.gather(1, expert_T1)
            distance_TE = (highest_T1 - router_logits_TE) / router_logits_TE.abs().maximum(highest_T1)
            near_TE = left_TE.masked_fill(distance_TE > 2 * self.config.jitter, float("-inf"))
            weights.append(near_TE.softmax(-1).gather(1, expert_T1))
            left_TE = left_TE.scatter(1, expert_T1, float("-inf"))
        return Routing(torch.cat(weights, dim=1), experts_TK, router_logits_TE)


class Hash(TopKRouter):
    """Experts chosen by hashing the token id (arXiv 2106.04426): nothing is learned."""

    needs_balance_loss = False

    def __init__(self, config: HashConfig, num_experts: int) -> None:
        super().__init__(num_experts, config.top_k)

    def choose(self, router_logits_TE: Tensor, token_ids_T: Tensor, k: int) -> Routing:
        mixed_T = (token_ids_T * 2_654_435_761) % 2**32  # multiplicative hashing separates consecutive ids
        first_T = (mixed_T * self.num_experts) // 2**32
        stride_T = 1 + (mixed_T % max(self.num_experts - 1, 1))
        choices_K = torch.arange(k, device=token_ids_T.device)
        experts_TK = (first_T[:, None] + choices_K * _coprime(stride_T, self.num_experts)[:, None]) % self.num_experts
        weights_TK = torch.full(experts_TK.shape, 1.0 / k, device=router_logits_TE.device)
        return Routing(weights_TK, experts_TK, router_logits_TE)


def _coprime(stride_T: Tensor, modulus: int) -> Tensor:
    """Replace strides that share a factor with `modulus` by 1, so that the k choices of a token are distinct."""
    shared = torch.gcd(stride_T, torch.full_like(stride_T, modulus))
    return torch.where(shared == 1, stride_T, torch.ones_like(stride_T))


def all_positive(weights_TE: Tensor, router_logits_TE: Tensor) -> Routing:
    """Choose every expert with a positive weight, highest first. K is the largest number that any token chose."""
    max_k = max(int((weights_TE > 0).sum(-1).max()), 1)
    experts_TK = top_k(weights_TE, max_k)
    return Routing(weights_TE.gather(1, experts_TK), experts_TK, router_logits_TE)


class ExpertThreshold(Router):
    """Each expert takes all tokens whose score is above its threshold (arXiv 2603.11535): k varies by token.

    During training the threshold of an expert follows the quantile of its scores that a share of mean_k / E of all
    tokens exceeds, estimated from one micro-batch per step (with several workers, the last one of the first worker):
    first as the mean over steps, later as a moving average. A token without experts only gets the shared expert.
    """

    needs_balance_loss = False
    threshold_E: Tensor
    quantile_E: Tensor
    steps: Tensor

    def __init__(self, config: ExpertThresholdConfig, num_experts: int) -> None:
        super().__init__(num_experts, config.mean_k)
        self.ema = config.ema
        self.register_buffer("threshold_E", torch.full((num_experts,), 0.5))
        self.register_buffer("quantile_E", torch.full((num_experts,), 0.5), persistent=False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, router_logits_TE: Tensor, token_ids_T: Tensor) -> Routing:
        affinity_TE = sigmoid(router_logits_TE)
        return all_positive(affinity_TE * (affinity_TE > self.threshold_E), router_logits_TE)

    def regularize(self, routing: Routing, real_T: Tensor) -> Tensor:
        affinity_TE = sigmoid(routing.router_logits_TE.detach()[real_T])
        self.quantile_E = affinity_TE.quantile(1 - self.k / self.num_experts, dim=0)
        return super().regularize(routing, real_T)

    def after_step(self, load_E: Tensor, tokens: int) -> None:
        self.steps += 1
        self.threshold_E.lerp_(self.quantile_E, max(1 - self.ema, 1 / int(self.steps)))


class Relu(Router):
    """Every expert with a positive logit, which is its weight (ReMoE, arXiv 2412.14711): k varies by token.

    The penalty is an L1 norm in which each expert is weighted by its load, so it makes the weights sparse and balances
    the experts at the same time. Unlike in the paper, its coefficient is per layer and changes less when the mean k is
    close to its target; otherwise it would overshoot in short runs.
    """

    needs_balance_loss = False
    penalty: Tensor

    def __init__(self, config: ReluConfig, num_experts: int) -> None:
        super().__init__(num_experts, config.mean_k)
        self.config = config
        self.register_buffer("penalty", torch.tensor(config.penalty))

    def forward(self, router_logits_TE: Tensor, token_ids_T: Tensor) -> Routing:
        return all_positive(router_logits_TE.relu(), router_logits_TE)

    def regularize(self, routing: Routing, real_T: Tensor) -> Tensor:
        positive_TE = routing.router_logits_TE[real_T].relu()
        load_E = (
            (positive_TE > 0).float().mean(0) * self.num_experts / self.k
        )  # 1 for each expert if balanced and on target
        return self.penalty * (load_E * positive_TE.mean(0)).sum()

    def after_step(self, load_E: Tensor, tokens: int) -> None:
        if tokens:
            excess = float(load_E.sum()) / tokens / self.k - 1
            self.penalty.mul_(self.config.growth ** min(excess, 1.0)).clamp_(min=self.config.least)


class TopP(Router):
    """The most probable experts until their probabilities sum to p (arXiv 2403.07652): k varies by token.

    As in arXiv 2512.13996, a controller adjusts p to reach a mean number of experts; here an integral controller per
    layer.
    """

    threshold: Tensor

    def __init__(self, config: TopPConfig, num_experts: int) -> None:
        super().__init__(num_experts, config.mean_k)
        self.config = config
        self.register_buffer(
            "threshold", torch.tensor(config.mean_k / num_experts)
        )  # reaches mean_k with uniform probabilities

    def forward(self, router_logits_TE: Tensor, token_ids_T: Tensor) -> Routing:
        probabilities_TE = router_logits_TE.softmax(-1)
        sorted_TE = probabilities_TE.sort(dim=-1, descending=True, stable=True)
        before_TE = sorted_TE.values.cumsum(-1) - sorted_TE.values
        chosen_TE = torch.zeros_like(before_TE, dtype=torch.bool).scatter(
            1, sorted_TE.indices, before_TE < self.threshold
        )
        return all_positive(probabilities_TE * chosen_TE, router_logits_TE)

    def regularize(self, routing: Routing, real_T: Tensor) -> Tensor:
        logprobs_TE = routing.router_logits_TE[real_T].log_softmax(-1)
        return -self.config.entropy_weight * (logprobs_TE.exp() * logprobs_TE).sum(-1).mean()

    def after_step(self, load_E: Tensor, tokens: int) -> None:
        if tokens:
            missing = self.k - float(load_E.sum()) / tokens
            self.threshold.add_(self.config.rate * missing).clamp_(0.01, 1.0)


ROUTERS: dict[type, type[Router]] = {
    SoftmaxTopKConfig: SoftmaxTopK,
    TopKSoftmaxConfig: TopKSoftmax,
    SigmoidBiasConfig: SigmoidBias,
    SoftmaxBiasConfig: SoftmaxBias,
    SparseMixerConfig: SparseMixer,
    HashConfig: Hash,
    ExpertThresholdConfig: ExpertThreshold,
    ReluConfig: Relu,
    TopPConfig: TopP,
}


def build_router(config: RouterConfig, num_experts: int) -> Router:
    return ROUTERS[type(config)](config, num_experts)  # type: ignore[arg-type]
