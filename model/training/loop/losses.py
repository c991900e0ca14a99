"""The losses: next-token cross-entropy, load balance of the experts, z-loss of the router logits.

Shapes: T tokens, D hidden width, V vocabulary, E experts, K choices.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from model import kernels
from model.layers.feed_forward import count_experts
from model.layers.router import Routing

CHUNK = 1024  # rows of logits held at a time
GPU_CHUNK = 32768


class _LinearCrossEntropy(torch.autograd.Function):
    """Head product, softmax and cross-entropy by chunks: the full [T, V] logits never exist, forward or backward."""

    @staticmethod
    def forward(ctx, hidden_TD, head_VD, targets_T, weights_T):  # type: ignore[no-untyped-def]
        total = hidden_TD.new_zeros((), dtype=torch.float32)
        dhidden_TD = torch.zeros_like(hidden_TD)
        dhead_VD = torch.zeros_like(head_VD, dtype=torch.float32)
        for rows in _counted_rows(weights_T):
            hidden, targets, weights = hidden_TD[rows], targets_T[rows], weights_T[rows]
            losses, gradient = kernels.softmax_gradient(hidden @ head_VD.T, targets, weights)
            total += (weights * losses).sum()
            dhidden_TD[rows] = gradient @ head_VD
            dhead_VD += gradient.T @ hidden
        ctx.save_for_backward(dhidden_TD, dhead_VD.to(head_VD.dtype))
        return total

    @staticmethod
    def backward(ctx, dtotal):  # type: ignore[no-untyped-def]
        dhidden_TD, dhead_VD = ctx.saved_tensors
        return dhidden_TD * dtotal, dhead_VD * dtotal, None, None


def _counted_rows(weights_T: Tensor) -> Sequence[Tensor | slice]:
    """The rows to compute, by chunks: those with a weight. A GPU computes all: choosing would mean to wait for it."""
    if not weights_T.is_cuda:
        return weights_T.nonzero().squeeze(1).split(CHUNK)
    return [slice(start, start + GPU_CHUNK) for start in range(0, len(weights_T), GPU_CHUNK)]


def cross_entropy(hidden_TD: Tensor, head_VD: Tensor, targets_T: Tensor, weights_T: Tensor) -> Tensor:
    """Weighted mean over tokens of -log p(target), in nats. On a CPU those of weight zero are not computed."""
    total: Tensor = _LinearCrossEntropy.apply(hidden_TD, head_VD, targets_T, weights_T)
    return total / weights_T.sum().clamp(min=1e-6)


def sample_weights(weights_T: Tensor, generator: torch.Generator) -> Tensor:
    """Each weight below one becomes one with that probability, otherwise zero; other weights stay.

    The expected gradient is the same, and the output projection (a fifth of a step) has fewer rows to compute.
    """
    kept_T = torch.rand(weights_T.shape, generator=generator) < weights_T
    return torch.where(kept_T, weights_T.clamp(min=1.0), 0.0)


def add_noise(token_ids_BL: Tensor, noise_BL: Tensor, generator: torch.Generator) -> Tensor:
    """Replace ids at random, each with the probability in `noise_BL`, by ids from other positions with noise."""
    noisy_BL = noise_BL > 0
    ids_N, chances_N = token_ids_BL[noisy_BL], noise_BL[noisy_BL]
    if not len(ids_N):
        return token_ids_BL
    others_N = ids_N[torch.randint(len(ids_N), ids_N.shape, generator=generator)]
    changed_N = torch.rand(ids_N.shape, generator=generator) < chances_N
    return token_ids_BL.masked_scatter(noisy_BL, torch.where(changed_N, others_N, ids_N))


def balance_loss(routing: Routing, real_T: Tensor, load_share_E: Tensor) -> Tensor:
    """E * sum over experts of (share of assignments) * (mean probability): 1 when even (arXiv 2006.16668).

    The share comes from a whole step (arXiv 2501.11873), so that one sequence may use few experts
    if others use the rest.
    """
    probabilities_E = _mean(routing.router_logits_TE.softmax(-1), real_T)
    return len(load_share_E) * (load_share_E * probabilities_E).sum()


def z_loss(routing: Routing, real_T: Tensor) -> Tensor:
    """Mean squared log-partition of the router (arXiv 2202.08906): keeps logits small."""
    return _mean(routing.router_logits_TE.logsumexp(-1).square(), real_T)


def load(routing: Routing, real_T: Tensor) -> Tensor:
    """(token, expert) pairs computed per expert, padding left out: int64 [E]."""
    used_TK = (routing.weights_TK > 0) & real_T[:, None]
    return count_experts(routing.experts_TK, routing.router_logits_TE.shape[1], used_TK)


def _mean(x: Tensor, real_T: Tensor) -> Tensor:
    """The mean over real tokens of [T] or [T, E]."""
    weights = real_T.to(x.dtype)
    return torch.tensordot(weights, x, dims=1) / weights.sum()
