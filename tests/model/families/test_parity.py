"""Every family against transformers: the same checkpoint gives the same logits, choices and tokens."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from model.batch import PaddedBatch
from model.checkpoints.safetensors_files import read_config, save_weights
from model.families import family_of, supported
from model.generate import generate
from model.layers.feed_forward import MoE
from model.loading.load import load_network
from model.network import CausalLM
from tests.model.batches import batch_of, cache_for, whole_batch
from tests.model.families.checkpoints import CASES, Pair, model_type

LENGTH = 45
BFLOAT16_BOUND = 0.05  # of the spread of the logits: eight bits of mantissa, a few layers


def some_ids(network: CausalLM, *shape: int) -> Tensor:
    return torch.randint(0, network.config.vocab_size, shape, generator=torch.Generator().manual_seed(1))


def test_every_family_has_a_case() -> None:
    assert {model_type(case) for case in CASES} == set(supported())


@torch.no_grad()
def test_training_form_equals_transformers(pair: Pair) -> None:
    network = pair.ours()
    ids_BL = some_ids(network, 2, LENGTH)
    logits = network.logits(network(PaddedBatch(ids_BL))[0]).unflatten(0, ids_BL.shape)
    torch.testing.assert_close(logits, pair.logits(ids_BL), atol=1e-4, rtol=0)


@torch.inference_mode()
def test_prefill_equals_transformers(pair: Pair) -> None:
    network = load_network(pair.directory, torch.float32)
    ids_L = some_ids(network, LENGTH)
    logits = network.logits(network(whole_batch(network, ids_L))[0])
    torch.testing.assert_close(logits, pair.logits(ids_L[None])[0], atol=1e-4, rtol=0)


@pytest.mark.compiled_kernels
@torch.inference_mode()
def test_chunks_and_single_tokens_change_no_bit(pair: Pair) -> None:
    network = load_network(pair.directory, torch.float32)
    ids_L = some_ids(network, LENGTH)
    whole = network.logits(network(whole_batch(network, ids_L))[0])
    cache, hidden = cache_for(network), []
    for first, end in ((0, 7), (7, 30), *((t, t + 1) for t in range(30, LENGTH))):
        hidden.append(network(batch_of(cache, [(0, first, ids_L[first:end].tolist())]))[0])
    assert torch.equal(network.logits(torch.cat(hidden)), whole)


@torch.inference_mode()
def test_the_same_experts(pair: Pair) -> None:
    network = load_network(pair.directory, torch.float32)
    ids_L = some_ids(network, LENGTH)
    ours = [routing for routing in network(whole_batch(network, ids_L))[1] if routing is not None]
    theirs = pair.routings(ids_L)
    assert len(ours) == len(theirs) == len(list(network.config.moe_layers()))
    for routing, (_, _, experts_TK) in zip(ours, theirs, strict=True):
        assert torch.equal(routing.experts_TK.sort(dim=1).values, experts_TK.sort(dim=1).values)


@torch.inference_mode()
def test_the_same_gates_for_the_same_input(pair: Pair) -> None:
    network = load_network(pair.directory, torch.float32)
    ids_L = some_ids(network, LENGTH)
    routed = [block.feed_forward for block in network.blocks if isinstance(block.feed_forward, MoE)]
    for feed_forward, (x_TD, weights_TK, experts_TK) in zip(routed, pair.routings(ids_L), strict=True):
        routing, _ = feed_forward.route(x_TD, ids_L)
        experts, order = experts_TK.sort(dim=1)
        our_experts, our_order = routing.experts_TK.sort(dim=1)
        assert torch.equal(our_experts, experts)
        gates, their_gates = routing.weights_TK.gather(1, our_order), weights_TK.float().gather(1, order)
        torch.testing.assert_close(gates, their_gates, atol=1e-6, rtol=0)


def test_the_same_greedy_tokens(pair: Pair) -> None:
    """After our tokens so far, transformers chooses our next one: so it writes the same."""
    network = load_network(pair.directory, torch.float32)
    prompt = some_ids(network, 12).tolist()
    tokens = generate(network, prompt, 12)
    logits_LV = pair.logits(torch.tensor([[*prompt, *tokens]]))[0]
    assert logits_LV[11:-1].argmax(dim=-1).tolist() == tokens


@torch.inference_mode()
def test_bfloat16_stays_near(pair: Pair) -> None:
    network = load_network(pair.directory, torch.bfloat16)
    ids_L = some_ids(network, LENGTH)
    logits = network.logits(network(whole_batch(network, ids_L))[0])
    expected = pair.logits(ids_L[None])[0]
    # Of the middle token: rounding flips an expert here and there, which changes that token's logits altogether.
    assert (logits - expected).square().mean(1).sqrt().median() < BFLOAT16_BOUND * expected.std()


@torch.no_grad()
def test_what_we_save_transformers_loads(pair: Pair, tmp_path: Path) -> None:
    network = pair.ours()
    (tmp_path / "config.json").write_text((pair.directory / "config.json").read_text())
    save_weights(network, family_of(read_config(pair.directory)).rules(network.config), tmp_path)
    ids_BL = some_ids(network, 1, 20)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(again(ids_BL).logits, pair.logits(ids_BL))


@torch.no_grad()
def test_a_changed_weight_is_noticed(pair: Pair) -> None:
    """Negative control."""
    network = pair.ours()
    ids_BL = some_ids(network, 1, 20)
    matrix = next(tensor for name, tensor in network.named_parameters() if "mixer." in name and tensor.dim() > 1)
    matrix.add_(0.1 * torch.randn(matrix.shape, generator=torch.Generator().manual_seed(2)))
    logits = network.logits(network(PaddedBatch(ids_BL))[0])
    assert (logits - pair.logits(ids_BL)[0]).abs().max() > 1e-4


@pytest.mark.parametrize("unknown", ["gpt2", None])
def test_an_unknown_family_is_refused_in_one_sentence(unknown: str | None) -> None:
    with pytest.raises(ValueError, match=r"not supported; supported: .*qwen3_next.*docs/adding-a-family.md"):
        family_of({"model_type": unknown})
