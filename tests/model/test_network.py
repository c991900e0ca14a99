"""The number of experts per token: that of the config, or what a batch asks for."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.batch import PaddedBatch
from model.config import (
    GatedMLPConfig,
    GroupLimit,
    HashConfig,
    ModelConfig,
    ReluConfig,
    RouterConfig,
    SigmoidBiasConfig,
    SoftmaxTopKConfig,
    TopKSoftmaxConfig,
    TopPConfig,
    check_experts_per_token,
    check_masked_experts,
    hybrid_config,
    with_experts_per_token,
)
from model.generate import sequence_hidden
from model.network import CausalLM
from tests.model.batches import batch_of, cache_for
from tests.model.test_invariance import tiny_network

TINY = hybrid_config(
    hidden_size=32, num_layers=2, attention_every=2, num_heads=2, num_kv_heads=1, head_dim=16, num_experts=4,
    expert_width=16, shared_width=16, vocab_size=64,
)  # fmt: skip
DENSE = replace(TINY, layers=tuple(replace(layer, feed_forward=GatedMLPConfig(16)) for layer in TINY.layers))
FIXED_K: list[RouterConfig] = [
    SoftmaxTopKConfig(2),
    SoftmaxTopKConfig(2, renormalize=False),
    TopKSoftmaxConfig(2),
    SigmoidBiasConfig(2),
    HashConfig(2),
]
PROMPTS = [[5, 17, 9], [3], list(range(40, 59)), [7, 7]]


def with_router(router: RouterConfig) -> ModelConfig:
    return hybrid_config(num_layers=2, attention_every=2, num_experts=4, router=router)


def with_k(network: CausalLM, k: int) -> CausalLM:
    """The same weights, with another number of experts in the config."""
    other = tiny_network(replace(network.config.layers[0].feed_forward.router, top_k=k), torch.float32)  # type: ignore
    other.load_state_dict(network.state_dict())
    return other


# In the config


@torch.no_grad()
def test_the_number_of_experts_can_be_chosen() -> None:
    for k in (1, 3):
        network = CausalLM(with_experts_per_token(TINY, k))
        _, routings = network(PaddedBatch(torch.arange(8)[None]))
        assert [routing.experts_TK.shape[1] for routing in routings if routing is not None] == [k, k]


@pytest.mark.parametrize("k", [0, 5])
def test_more_experts_than_there_are_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="1 to 4"):
        with_experts_per_token(TINY, k)


def test_more_experts_than_the_best_groups_have_is_refused() -> None:
    config = with_router(SigmoidBiasConfig(1, groups=GroupLimit(2, top_groups=1, best_of=1)))
    check_experts_per_token(config, 2)
    with pytest.raises(ValueError, match="1 to 2"):
        check_experts_per_token(config, 3)


def test_a_network_without_experts_refuses_masks() -> None:
    with pytest.raises(ValueError, match="a model without experts takes no mask_experts"):
        check_masked_experts(DENSE, {0: [0]})


@pytest.mark.parametrize("router", [ReluConfig(2), TopPConfig(2)])
def test_a_router_that_chooses_the_number_itself_refuses_one(router: RouterConfig) -> None:
    with pytest.raises(ValueError, match=r"(Relu|TopP) router chooses the number itself"):
        with_experts_per_token(with_router(router), 2)


def test_a_network_without_experts_refuses_a_number() -> None:
    with pytest.raises(ValueError, match="a model with experts"):
        with_experts_per_token(DENSE, 1)


# In the batch


@torch.no_grad()
def test_a_training_batch_sets_the_number_by_layer() -> None:
    _, routings = CausalLM(TINY)(PaddedBatch(torch.arange(8)[None], {1: 3}))
    assert [routing.experts_TK.shape[1] for routing in routings if routing is not None] == [2, 3]


@pytest.fixture(params=FIXED_K, ids=repr, scope="module")
def network(request: pytest.FixtureRequest) -> CausalLM:
    return tiny_network(request.param, torch.float32)


def hidden_of(network: CausalLM, experts_per_token: int | Tensor | None) -> list[Tensor]:
    """Hidden states of the prompts, computed in one batch."""
    batch = batch_of(cache_for(network, sequences=len(PROMPTS)), [(s, 0, ids) for s, ids in enumerate(PROMPTS)])
    hidden_TD, _ = network(replace(batch, num_experts_per_token=experts_per_token))
    return list(hidden_TD.split([len(ids) for ids in PROMPTS]))


@torch.inference_mode()
@pytest.mark.compiled_kernels
def test_one_number_for_the_batch_is_that_of_the_config(network: CausalLM) -> None:
    expected = [sequence_hidden(with_k(network, 3), ids) for ids in PROMPTS]
    assert all(map(torch.equal, hidden_of(network, 3), expected))


@torch.inference_mode()
@pytest.mark.compiled_kernels
def test_a_token_with_a_number_of_its_own_gets_the_bits_it_would_have_alone(network: CausalLM) -> None:
    numbers = [1, 0, 3, 4]  # 0: the router's own
    asked_T = torch.tensor([k for k, ids in zip(numbers, PROMPTS, strict=True) for _ in ids])
    expected = [
        sequence_hidden(with_k(network, k) if k else network, ids) for k, ids in zip(numbers, PROMPTS, strict=True)
    ]
    found = hidden_of(network, asked_T)
    assert all(map(torch.equal, found, expected))
    plain = hidden_of(network, None)  # negative control: without the numbers only the second prompt agrees
    assert [torch.equal(ours, theirs) for ours, theirs in zip(plain, expected, strict=True)] == [
        k in (0, 2) for k in numbers
    ]
