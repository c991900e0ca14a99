"""Routing algorithms: which experts a token goes to, and with what weight. One class each, one interface.

A router that is served must decide for each token from that token alone (and what came before it); the property tests
run over every class in `ROUTERS`. Ties go to the expert of the lowest index.

Shapes: T tokens, E experts, K choices a token, S dispatched (token, expert) pairs.
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
    SoftmaxTopKConfig,
    TopKSoftmaxConfig,
    TopPConfig,
)


@dataclass(frozen=True, slots=True, eq=False)
class Routing:
    """What every algorithm returns. A choice of weight zero is not computed: that is how K can vary by token."""

    weights_TK: Tensor  # float32
    experts_TK: Tensor  # int64
    router_logits_TE: Tensor  # float32, the router's logits

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

    `forward` decides. In training, `regularize` adds to the loss of every micro-batch, and `after_step` lets an
    algorithm follow the load of a whole step. `k` is the number of choices, or the mean number that training leads to;
    it may change between steps, `configured_k` stays.
    """

    k: int
    needs_balance_loss = True

    def __init__(self, num_experts: int, k: int) -> None:
        super().__init__()
        if not 1 <= k <= num_experts:
            raise ValueError(f"a token can go to 1..{num_experts} experts, not {k}: change top_k or num_experts")
        self.num_experts = num_experts
        self.k = self.configured_k = k

    def forward(self, router_logits_TE: Tensor, token_ids_T: Tensor) -> Routing:
        raise NotImplementedError

    def regularize(self, routing: Routing, real_T: Tensor) -> Tensor:
        """Called once per micro-batch of training; `real_T` tells padding from the tokens that count.

        Returns what to add to the loss beside a balance loss, and may note what `after_step` will need.
        """
        return routing.router_logits_TE.new_zeros(())

    def after_step(self, load_E: Tensor, tokens: int) -> None:
        """Called once per optimizer step with the number of (token, expert) pairs each expert got, of `tokens` tokens.

        Padding counts in neither.
        """


def top_k(router_logits_TE: Tensor, k: int) -> Tensor:
    """Indices of the k highest scores, highest first; equal scores in the order of their index."""
    return router_logits_TE.sort(dim=-1, descending=True, stable=True).indices[:, :k]


def within_groups(values_TE: Tensor, limit: GroupLimit | None) -> Tensor:
    """The values, minus infinity outside of each token's best groups (arXiv 2405.04434, 2412.19437)."""
    if limit is None:
        return values_TE
    values_TGM = values_TE.unflatten(1, (limit.num_groups, -1))
    worth_TG = values_TGM.sort(dim=-1, descending=True).values[..., : limit.best_of].sum(-1)
    chosen_TG = torch.zeros_like(worth_TG, dtype=torch.bool).scatter(1, top_k(worth_TG, limit.top_groups), True)
    return values_TGM.masked_fill(~chosen_TG[..., None], float("-inf")).flatten(1)


class SoftmaxTopK(Router):
    """Softmax over all experts, then the k likeliest (arXiv 2006.16668; renormalized as in arXiv 2401.04088)."""

    def __init__(self, config: SoftmaxTopKConfig, num_experts: int) -> None:
        super().__init__(num_experts, config.top_k)
        self.config = config

    def forward(self, router_logits_TE: Tensor, token_ids_T: Tensor) -> Routing:
        weights_TK, experts_TK = self._choose(router_logits_TE)
        return Routing(
            weights_TK if self.config.scale == 1 else weights_TK * self.config.scale, experts_TK, router_logits_TE
        )

    def _choose(self, router_logits_TE: Tensor) -> tuple[Tensor, Tensor]:
        if self.config.groups is None:
            return kernels.top_k_softmax(router_logits_TE, self.k, over_all=not self.config.renormalize)
        probabilities_TE = router_logits_TE.softmax(-1)
        experts_TK = top_k(within_groups(probabilities_TE, self.config.groups), self.k)
        weights_TK = probabilities_TE.gather(1, experts_TK)
        if self.config.renormalize:
            weights_TK = weights_TK / weights_TK.sum(-1, keepdim=True)
        return weights_TK, experts_TK


class TopKSoftmax(Router):
    """The k highest scores, then a softmax over these alone (arXiv 1701.06538)."""

    def __init__(self, config: TopKSoftmaxConfig, num_experts: int) -> None:
        super().__init__(num_experts, config.top_k)

    def forward(self, router_logits_TE: Tensor, token_ids_T: Tensor) -> Routing:
        return Routing(*kernels.top_k_softmax(router_logits_TE, self.k, over_all=False), router_logits_TE)


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
        self.config = config
        self.register_buffer("bias_E", torch.zeros(num_experts))

    def forward(self, router_logits_TE: Tensor, token_ids_T: Tensor) -> Routing:
        affinity_TE = sigmoid(router_logits_TE)
        experts_TK = top_k(within_groups(affinity_TE + self.bias_E, self.config.groups), self.k)
        weights_TK = affinity_TE.gather(1, experts_TK)
        if self.config.renormalize:
            weights_TK = weights_TK / (weights_TK.sum(-1, keepdim=True) + self.config.epsilon)
        return Routing(weights_TK * self.config.scale, experts_TK, router_logits_TE)

    def after_step(self, load_E: Tensor, tokens: int) -> None:
        load_E = load_E.float()
        self.bias_E += self.config.bias_rate * torch.sign(load_E.mean() - load_E)


class Hash(Router):
    """Experts by the token's id alone (arXiv 2106.04426): nothing learnt, perfectly predictable."""

    needs_balance_loss = False

    def __init__(self, config: HashConfig, num_experts: int) -> None:
        super().__init__(num_experts, config.top_k)

    def forward(self, router_logits_TE: Tensor, token_ids_T: Tensor) -> Routing:
        mixed_T = (token_ids_T * 2_654_435_761) % 2**32  # multiplicative hashing: neighbours in the vocabulary part
        first_T = (mixed_T * self.num_experts) // 2**32
        stride_T = 1 + (mixed_T % max(self.num_experts - 1, 1))
        choices_K = torch.arange(self.k, device=token_ids_T.device)
        experts_TK = (first_T[:, None] + choices_K * _coprime(stride_T, self.num_experts)[:, None]) % self.num_experts
        weights_TK = torch.full(experts_TK.shape, 1.0 / self.k, device=router_logits_TE.device)
        return Routing(weights_TK, experts_TK, router_logits_TE)


def _coprime(stride_T: Tensor, modulus: int) -> Tensor:
    """The strides, those with a factor in common with `modulus` replaced by 1: so that k choices never coincide."""
    shared = torch.gcd(stride_T, torch.full_like(stride_T, modulus))
    return torch.where(shared == 1, stride_T, torch.ones_like(stride_T))


def all_positive(weights_TE: Tensor, router_logits_TE: Tensor) -> Routing:
    """Every expert of positive weight, the heaviest first; as many choices as the token with most of them needs."""
    most = max(int((weights_TE > 0).sum(-1).max()), 1)
    experts_TK = top_k(weights_TE, most)
    return Routing(weights_TE.gather(1, experts_TK), experts_TK, router_logits_TE)


class ExpertThreshold(Router):
    """Every expert takes the tokens above its own threshold (arXiv 2603.11535): a varying number per token.

    In training the threshold of an expert follows the score that the best mean_k / E share of all tokens reach, told
    by one micro-batch of a step (with several workers the first one's last): its mean at first, a moving average
    later. A token that no expert takes passes through the shared expert alone.
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
    """Every expert of positive score, weighted by it (ReMoE, arXiv 2412.14711): a varying number per token.

    The penalty is an L1 norm in which an expert weighs as its load: it thins the gates out and evens them at once.
    Unlike the paper's, it belongs to one layer, and moves less where the mean is nearly right: in short runs it would
    overshoot otherwise.
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
        gates_TE = routing.router_logits_TE[real_T].relu()
        load_E = (gates_TE > 0).float().mean(0) * self.num_experts / self.k  # 1 each when even and on target
        return self.penalty * (load_E * gates_TE.mean(0)).sum()

    def after_step(self, load_E: Tensor, tokens: int) -> None:
        if tokens:
            excess = float(load_E.sum()) / tokens / self.k - 1
            self.penalty.mul_(self.config.growth ** min(excess, 1.0)).clamp_(min=self.config.least)


class TopP(Router):
    """The likeliest experts until their probabilities sum to p (arXiv 2403.07652): few where the router is sure.

    As in arXiv 2512.13996 a controller moves p towards a mean number of experts; here it is an integral one, a layer.
    """

    threshold: Tensor

    def __init__(self, config: TopPConfig, num_experts: int) -> None:
        super().__init__(num_experts, config.mean_k)
        self.config = config
        self.register_buffer("threshold", torch.tensor(config.mean_k / num_experts))  # right for a router at its start

    def forward(self, router_logits_TE: Tensor, token_ids_T: Tensor) -> Routing:
        probabilities_TE = router_logits_TE.softmax(-1)
        sorted_TE = probabilities_TE.sort(dim=-1, descending=True, stable=True)
        before_TE = sorted_TE.values.cumsum(-1) - sorted_TE.values
        chosen_TE = torch.zeros_like(before_TE, dtype=torch.bool).scatter(
            1, sorted_TE.indices, before_TE < self.threshold
        )
        return all_positive(probabilities_TE * chosen_TE, router_logits_TE)

    def regularize(self, routing: Routing, real_T: Tensor) -> Tensor:
        logs_TE = routing.router_logits_TE[real_T].log_softmax(-1)
        return -self.config.entropy_weight * (logs_TE.exp() * logs_TE).sum(-1).mean()

    def after_step(self, load_E: Tensor, tokens: int) -> None:
        if tokens:
            missing = self.k - float(load_E.sum()) / tokens
            self.threshold.add_(self.config.rate * missing).clamp_(0.01, 1.0)


ROUTERS: dict[type, type[Router]] = {
    SoftmaxTopKConfig: SoftmaxTopK,
    TopKSoftmaxConfig: TopKSoftmax,
    SigmoidBiasConfig: SigmoidBias,
    HashConfig: Hash,
    ExpertThresholdConfig: ExpertThreshold,
    ReluConfig: Relu,
    TopPConfig: TopP,
}


def build_router(config: RouterConfig, num_experts: int) -> Router:
    return ROUTERS[type(config)](config, num_experts)  # type: ignore[arg-type]
