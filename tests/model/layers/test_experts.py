"""Experts in training: rows filled up to blocks change neither outputs nor gradients."""

import pytest
import torch

from model.config import MoEConfig, SoftmaxTopKConfig, TopPConfig
from model.layers import feed_forward
from model.layers.feed_forward import MoE
from model.layers.linear import GroupedLinear


def outputs_and_gradients(routed: MoE, x_TD: torch.Tensor) -> list[torch.Tensor]:
    routed.zero_grad()
    x_TD = x_TD.clone().requires_grad_()
    y_TD, _ = routed(x_TD, torch.zeros(len(x_TD), dtype=torch.int64))
    (y_TD * torch.linspace(-1, 1, y_TD.numel()).view_as(y_TD)).sum().backward()
    gradients = [parameter.grad for parameter in routed.parameters()]
    return [y_TD.detach(), *(g.clone() for g in [x_TD.grad, *gradients] if g is not None)]


def networks(router: SoftmaxTopKConfig | TopPConfig) -> MoE:
    torch.manual_seed(1)
    routed = MoE(MoEConfig(num_experts=6, expert_width=16, router=router), 32)
    for parameter in routed.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return routed


@pytest.mark.parametrize("tokens", [1, 2, 31, 100])
@pytest.mark.parametrize("router", [SoftmaxTopKConfig(2), TopPConfig(3)], ids=["top 2", "top p"])
def test_blocks_change_nothing(router: SoftmaxTopKConfig | TopPConfig, tokens: int) -> None:
    routed, x_TD = networks(router), torch.randn(tokens, 32)
    blocks = outputs_and_gradients(routed.train(), x_TD)
    plain = outputs_and_gradients(routed.eval(), x_TD)
    for ours, theirs in zip(blocks, plain, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_products_see_whole_blocks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    routed, seen = networks(SoftmaxTopKConfig(2)), []
    original = GroupedLinear.forward

    def watched(self: GroupedLinear, x_SI: torch.Tensor, counts_E: torch.Tensor) -> torch.Tensor:
        seen.append(counts_E)
        return original(self, x_SI, counts_E)

    monkeypatch.setattr(GroupedLinear, "forward", watched)
    routed.train()(torch.randn(77, 32), torch.zeros(77, dtype=torch.int64))
    assert seen
    assert all(bool((counts_E % feed_forward.BLOCK == 0).all()) for counts_E in seen)
    seen.clear()  # negative control: in serving, no row is added
    routed.eval()(torch.randn(77, 32), torch.zeros(77, dtype=torch.int64))
    assert int(seen[0].sum()) == 2 * 77
