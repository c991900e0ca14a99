"""One request, many schedules: alone, in any batch, in any pieces, token by token, the bits are the same."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model import kernels
from model.config import (
    ExpertThresholdConfig,
    HashConfig,
    ModelConfig,
    ReluConfig,
    RouterConfig,
    SigmoidBiasConfig,
    SoftmaxBiasConfig,
    SoftmaxTopKConfig,
    SparseMixerConfig,
    TopPConfig,
    hybrid_config,
)
from model.generate import generate, sequence_hidden
from model.layers.feed_forward import MoE
from model.loading.freeze import freeze_network
from model.network import CausalLM, cast_matrices
from tests.model.batches import batch_of, cache_for, whole_batch

ROUTERS: list[RouterConfig] = [
    ReluConfig(2),
    TopPConfig(2),
    SoftmaxTopKConfig(2),
    SoftmaxTopKConfig(2, renormalize=False),
    SigmoidBiasConfig(2),
    SoftmaxBiasConfig(2),
    SparseMixerConfig(),
    HashConfig(2),
    ExpertThresholdConfig(2),
]


def tiny_config(router: RouterConfig, hidden: int, expert: int) -> ModelConfig:
    return hybrid_config(
        hidden_size=hidden, num_layers=4, num_heads=2, num_kv_heads=1, head_dim=32, num_experts=4, router=router,
        expert_width=expert, shared_width=expert, vocab_size=128, max_positions=256,
    )  # fmt: skip


def tiny_network(router: RouterConfig, dtype: torch.dtype, *, hidden: int = 64, expert: int = 64) -> CausalLM:
    """A random network in which every part has an effect."""
    torch.manual_seed(0)
    network = CausalLM(tiny_config(router, hidden, expert))
    for parameter in network.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return freeze_network(cast_matrices(network, dtype))


pytestmark = pytest.mark.usefixtures("cpu_isa")  # at every level that runs here


@pytest.fixture(params=ROUTERS, ids=repr, scope="module")
def router(request: pytest.FixtureRequest) -> RouterConfig:
    config: RouterConfig = request.param
    return config


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"], scope="module")
def network(request: pytest.FixtureRequest, router: RouterConfig) -> CausalLM:
    return tiny_network(router, request.param)


def run_in_pieces(network: CausalLM, tokens: list[int], cuts: list[int]) -> Tensor:
    cache, hidden = cache_for(network), []
    for first, last in zip([0, *cuts], [*cuts, len(tokens)], strict=True):
        hidden.append(network(batch_of(cache, [(0, first, tokens[first:last])]))[0])
    return torch.cat(hidden)


@given(seed=st.integers(0, 10_000), cuts=st.sets(st.integers(1, 39), min_size=1, max_size=6))
@settings(max_examples=4)
@torch.inference_mode()
def test_prefill_in_any_pieces_is_the_same(network: CausalLM, seed: int, cuts: set[int]) -> None:
    tokens = torch.randint(0, 128, (40,), generator=torch.Generator().manual_seed(seed)).tolist()
    assert torch.equal(run_in_pieces(network, tokens, sorted(cuts)), sequence_hidden(network, tokens))


@torch.inference_mode()
def test_token_by_token_equals_prefill(network: CausalLM) -> None:
    tokens = torch.randint(0, 128, (24,)).tolist()
    assert torch.equal(run_in_pieces(network, tokens, list(range(1, 24))), sequence_hidden(network, tokens))


@torch.inference_mode()
def test_strangers_in_the_batch_change_nothing(network: CausalLM) -> None:
    prompts = [torch.randint(0, 128, (length,)).tolist() for length in (7, 1, 30, 16, 2, 33)]
    hidden, _ = network(batch_of(cache_for(network, sequences=6), [(s, 0, ids) for s, ids in enumerate(prompts)]))
    for ids, rows in zip(prompts, hidden.split([len(ids) for ids in prompts]), strict=True):
        assert torch.equal(rows, sequence_hidden(network, ids))


@torch.inference_mode()
def test_the_last_layer_computes_the_wanted_tokens_alone(network: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [torch.randint(0, 128, (length,)).tolist() for length in (7, 1, 30, 16)]
    batches = [batch_of(cache_for(network, sequences=4), [(s, 0, ids) for s, ids in enumerate(prompts)]) for _ in "ab"]
    hidden, routings = network(batches[0])
    computed, outputs = [], MoE.outputs

    def spy(self: MoE, x_TD: Tensor, *routed: Any) -> Tensor:
        computed.append(len(x_TD))
        return outputs(self, x_TD, *routed)

    monkeypatch.setattr(MoE, "outputs", spy)
    rows = torch.tensor([6, 36, 37, 53])
    wanted, same_routings = network(replace(batches[1], output_rows_R=rows))
    assert torch.equal(wanted, hidden[rows])
    assert computed == [54, 54, 54, 4]
    for routing, same in zip(routings, same_routings, strict=True):
        assert torch.equal(routing.experts_TK, same.experts_TK)
        assert torch.equal(routing.weights_TK, same.weights_TK)
    assert not torch.equal(wanted, hidden[rows - 1])  # the comparison can fail


@torch.inference_mode()
def test_later_tokens_change_nothing(network: CausalLM) -> None:
    tokens = torch.randint(0, 128, (30,)).tolist()
    assert torch.equal(sequence_hidden(network, tokens)[:20], sequence_hidden(network, tokens[:20] + [5] * 10)[:20])


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_widths_may_be_any_numbers(dtype: torch.dtype) -> None:
    """The last elements of a row do not fill a vector."""
    network = tiny_network(SoftmaxTopKConfig(2), dtype, hidden=51, expert=21)
    prompts = [torch.randint(0, 128, (length,)).tolist() for length in (7, 1, 30)]
    hidden, _ = network(batch_of(cache_for(network, sequences=3), [(s, 0, ids) for s, ids in enumerate(prompts)]))
    for ids, rows in zip(prompts, hidden.split([len(ids) for ids in prompts]), strict=True):
        assert torch.equal(rows, sequence_hidden(network, ids))
        assert torch.equal(rows, run_in_pieces(network, ids, list(range(1, len(ids)))))


@torch.inference_mode()
def test_the_comparison_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: with plain float32 products instead of packed ones, the batch shows in the bits."""
    monkeypatch.setattr("model.loading.freeze._freeze_module", lambda network, name, scheme: None)
    network = tiny_network(SoftmaxTopKConfig(2), torch.float32)
    tokens = torch.randint(0, 128, (40,)).tolist()
    assert not torch.equal(run_in_pieces(network, tokens, list(range(1, 40))), sequence_hidden(network, tokens))


@torch.inference_mode()
def test_generation_is_a_chain_of_greedy_choices() -> None:
    network = tiny_network(SoftmaxTopKConfig(2), torch.float32)
    new = generate(network, [1, 2, 3], 5)
    hidden, _ = network(whole_batch(network, torch.tensor([1, 2, 3, *new])))
    assert network.logits(hidden[2:-1]).argmax(-1).tolist() == new
    assert generate(network, [1, 2, 3], 5, stop={new[1]}) == new[: new.index(new[1]) + 1]


def test_compiled_kernels_are_what_is_tested(cpu_isa: str) -> None:
    assert kernels.compiled()
    assert kernels.instruction_set() == cpu_isa
