"""The loss: by chunks as whole, sampled weights that give the same gradient in the mean, and router losses."""

import math

import pytest
import torch

from model.layers.router import Routing
from model.training.loop import losses

TOKENS, WIDTH, VOCABULARY = 40, 16, 64


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_cross_entropy_by_chunks_equals_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "CHUNK", 7)
    hidden_TD, head_VD = torch.randn(TOKENS, WIDTH), torch.randn(VOCABULARY, WIDTH)
    targets_T = torch.randint(VOCABULARY, (TOKENS,))
    weights_T = torch.rand(TOKENS) * (torch.arange(TOKENS) % 3 > 0)
    of_both = []
    for by_chunks in (True, False):
        leaves = [hidden_TD.clone().requires_grad_(), head_VD.clone().requires_grad_()]
        if by_chunks:
            loss = losses.cross_entropy(*leaves, targets_T, weights_T)
        else:
            each_T = torch.nn.functional.cross_entropy(leaves[0] @ leaves[1].T, targets_T, reduction="none")
            loss = (weights_T * each_T).sum() / weights_T.sum()
        loss.backward()
        of_both.append((loss.detach(), *(leaf.grad for leaf in leaves)))
    for ours, expected in zip(*of_both, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


def test_sampled_weights_are_the_same_in_the_mean_and_mostly_nothing() -> None:
    weights_T = torch.tensor([0.0, 0.05, 0.3, 1.0, 5.3])
    draws = torch.stack([losses.sample_weights(weights_T, seeded(seed)) for seed in range(4000)])
    torch.testing.assert_close(draws.mean(0), weights_T, atol=0.03, rtol=0)
    assert set(draws[:, 2].tolist()) == {0.0, 1.0}
    assert torch.equal(draws[:, [0, 3, 4]], weights_T[[0, 3, 4]].expand(4000, 3))


def test_sampled_weights_depend_on_the_generator_alone() -> None:
    weights_T = torch.full((100,), 0.5)
    assert torch.equal(losses.sample_weights(weights_T, seeded(1)), losses.sample_weights(weights_T, seeded(1)))
    assert not torch.equal(losses.sample_weights(weights_T, seeded(1)), losses.sample_weights(weights_T, seeded(2)))


def test_noise_changes_a_share_of_the_noisy_tokens_and_no_others() -> None:
    ids_BL = torch.arange(2000).view(2, 1000)
    noise_BL = torch.zeros(2, 1000)
    noise_BL[0, 500:] = 0.2
    noisy_BL = losses.add_noise(ids_BL, noise_BL, seeded(1))
    changed_BL = noisy_BL != ids_BL
    assert not changed_BL[noise_BL == 0].any()
    assert 0.15 < changed_BL[0, 500:].float().mean() < 0.25
    assert set(noisy_BL[0, 500:].tolist()) <= set(range(500, 1000))  # words of the texts themselves
    assert torch.equal(noisy_BL, losses.add_noise(ids_BL, noise_BL, seeded(1)))


def test_a_batch_without_noise_stays_as_it_is() -> None:
    ids_BL = torch.arange(6).view(2, 3)
    assert torch.equal(losses.add_noise(ids_BL, torch.zeros(2, 3), seeded(1)), ids_BL)


# What a router costs: two experts, of three tokens the last is padding

REAL_T = torch.tensor([True, True, False])


def routed() -> Routing:
    """Probabilities of the first expert are 0.5, 0.8 and nearly 1; a choice of weight zero is not computed."""
    return Routing(
        weights_TK=torch.tensor([[0.5, 0.5], [0.8, 0.0], [1.0, 1.0]]),
        experts_TK=torch.tensor([[0, 1], [0, 1], [0, 1]]),
        router_logits_TE=torch.tensor([[0.5, 0.5], [0.8, 0.2], [1.0, 1e-9]]).log(),
    )


def test_the_balance_loss_is_load_share_by_mean_probability_times_the_experts_without_padding() -> None:
    share_E = torch.tensor([0.75, 0.25])
    expected = 2 * (0.75 * (0.5 + 0.8) / 2 + 0.25 * (0.5 + 0.2) / 2)
    assert float(losses.balance_loss(routed(), REAL_T, share_E)) == pytest.approx(expected)


def test_the_balance_loss_is_one_when_even() -> None:
    experts = 8
    even = Routing(torch.ones(5, 1), torch.zeros(5, 1, dtype=torch.int64), torch.zeros(5, experts))
    loss = losses.balance_loss(even, torch.ones(5, dtype=torch.bool), torch.full((experts,), 1 / experts))
    assert float(loss) == pytest.approx(1)


def test_the_z_loss_is_the_mean_squared_log_partition_without_padding() -> None:
    router_logits_TE = torch.tensor([[3.0, 3.0], [0.0, 0.0], [50.0, 50.0]])
    routing = Routing(torch.ones(3, 1), torch.zeros(3, 1, dtype=torch.int64), router_logits_TE)
    expected = ((3 + math.log(2)) ** 2 + math.log(2) ** 2) / 2
    assert float(losses.z_loss(routing, REAL_T)) == pytest.approx(expected)


def test_the_load_counts_computed_choices_of_real_tokens() -> None:
    assert losses.load(routed(), REAL_T).tolist() == [2, 1]
