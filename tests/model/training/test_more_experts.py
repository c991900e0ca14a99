"""A network with more experts: what it had stays, and the new ones are copies that have forgotten half."""

import pytest
import torch
from torch import Tensor

from model.config import hybrid_config
from model.network import CausalLM
from model.training.more_experts import FORGOTTEN, with_more_experts

SIZES = {"hidden_size": 32, "num_layers": 4, "num_heads": 2, "num_kv_heads": 1, "head_dim": 8, "vocab_size": 64}
LAYER = "blocks.1.feed_forward."


def network(num_experts: int) -> CausalLM:
    torch.manual_seed(0)
    made = CausalLM(hybrid_config(**SIZES, num_experts=num_experts, expert_width=16, shared_width=16))  # type: ignore[arg-type]
    made.tie_head()
    return made


@pytest.fixture
def old() -> dict[str, Tensor]:
    return {name: torch.randn_like(weight) for name, weight in network(4).named_parameters()}  # no zeros


def test_the_weights_fit_the_larger_network_and_what_it_had_stays(old: dict[str, Tensor]) -> None:
    grown = with_more_experts(old, 8, seed=1)
    assert {n: t.shape for n, t in grown.items()} == {n: p.shape for n, p in network(8).named_parameters()}
    assert all(
        torch.equal(grown[name], old[name]) for name in old if "experts" not in name and "gate.weight" not in name
    )
    assert torch.equal(grown[LAYER + "experts.down.weight"][:4], old[LAYER + "experts.down.weight"])
    gate, old_gate = grown[LAYER + "gate.weight"], old[LAYER + "gate.weight"]
    assert torch.equal(gate[:4], old_gate[:4])
    assert torch.equal(gate[-1], old_gate[-1])  # the row of the shared expert stays the last one


def test_a_copy_keeps_half_of_the_hidden_units_whole(old: dict[str, Tensor]) -> None:
    grown = with_more_experts(old, 6, seed=1)  # experts 4 and 5 come from 0 and 1
    gate_up, down = grown[LAYER + "experts.gate_up.weight"], grown[LAYER + "experts.down.weight"]
    for copy, source in ((4, 0), (5, 1)):
        kept_F = (down[copy] == down[source]).all(0)
        assert int(kept_F.sum()) == (1 - FORGOTTEN) * 16
        for half in (slice(16), slice(16, 32)):  # gate and up
            assert torch.equal((gate_up[copy, half] == gate_up[source, half]).all(1), kept_F)
    assert not torch.equal(down[4] == down[0], down[5] == down[1])


def test_a_seed_decides_what_is_forgotten(old: dict[str, Tensor]) -> None:
    one, again, other = (with_more_experts(old, 8, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one[LAYER + "gate.weight"], other[LAYER + "gate.weight"])


def test_a_network_with_as_many_experts_stays_as_it_is(old: dict[str, Tensor]) -> None:
    assert all(with_more_experts(old, 4, seed=1)[name] is old[name] for name in old)
