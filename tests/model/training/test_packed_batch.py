"""Rows of several sequences: each sequence as if it were alone in its row, forward and backward."""

import pytest
import torch
from torch import Tensor

from model.batch import PaddedBatch
from model.config import hybrid_config
from model.kernels import reference
from model.network import CausalLM
from model.training.packed_batch import PackedBatch

LENGTHS, PLACES, SHAPE = (5, 17, 30, 12), ((0, 0), (0, 5), (1, 0), (0, 22)), (2, 40)
VOCABULARY = 50


@pytest.fixture
def network() -> CausalLM:
    torch.manual_seed(1)
    config = hybrid_config(
        hidden_size=32, num_layers=4, num_heads=2, num_kv_heads=1, head_dim=16, num_experts=4,
        expert_width=16, shared_width=16, vocab_size=VOCABULARY,
    )  # fmt: skip
    network = CausalLM(config)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return network


def packed(sequences: list[Tensor]) -> PackedBatch:
    ids_BL, positions_BL = torch.zeros(SHAPE, dtype=torch.int64), torch.zeros(SHAPE, dtype=torch.int64)
    for ids, (row, start) in zip(sequences, PLACES, strict=True):
        ids_BL[row, start : start + len(ids)] = ids
        positions_BL[row, start : start + len(ids)] = torch.arange(len(ids))
    return PackedBatch(ids_BL, positions_BL=positions_BL)


def outputs(network: CausalLM, sequences: list[Tensor]) -> list[Tensor]:
    hidden_BLD = network(packed(sequences))[0].unflatten(0, SHAPE)
    places = zip(sequences, PLACES, strict=True)
    return [hidden_BLD[row, start : start + len(ids)] for ids, (row, start) in places]


def some_sequences() -> list[Tensor]:
    return [torch.randint(VOCABULARY, (length,)) for length in LENGTHS]


def test_a_sequence_in_a_packed_row_is_computed_as_if_it_were_alone(network: CausalLM) -> None:
    sequences = some_sequences()
    for ids, hidden_LD in zip(sequences, outputs(network, sequences), strict=True):
        torch.testing.assert_close(hidden_LD, network(PaddedBatch(ids[None]))[0], atol=1e-4, rtol=1e-4)


def test_without_positions_the_sequences_would_see_each_other(network: CausalLM) -> None:
    sequences = some_sequences()
    batch = packed(sequences)
    mixed_BLD = network(PaddedBatch(batch.token_ids_BL))[0].unflatten(0, SHAPE)
    (_, _), (row, start) = PLACES[:2]
    alone_LD = network(PaddedBatch(sequences[1][None]))[0]
    assert not torch.allclose(mixed_BLD[row, start : start + LENGTHS[1]], alone_LD, atol=0.01)


def test_gradients_of_a_packed_row_are_the_sum_over_its_sequences(network: CausalLM) -> None:
    sequences = some_sequences()
    # Not the squares: their sum is that of a normalized output, whose gradient is nearly zero.
    projections = [torch.randn(length, 32) for length in LENGTHS]
    found = []
    for alone in (False, True):
        network.zero_grad()
        hidden = [network(PaddedBatch(x[None]))[0] for x in sequences] if alone else outputs(network, sequences)
        torch.stack([(h * p).sum() for h, p in zip(hidden, projections, strict=True)]).sum().backward()
        found.append([parameter.grad for parameter in network.parameters() if parameter.grad is not None])
    for of_packed, expected in zip(*found, strict=True):
        torch.testing.assert_close(of_packed, expected, atol=1e-3 * float(expected.abs().max()), rtol=1e-3)


def test_the_definition_packs_as_the_compiled_kernels_do(network: CausalLM) -> None:
    mixer = network.blocks[0].mixer
    x_BLP = torch.randn(*SHAPE, mixer.in_proj.weight.shape[0])
    positions_BL = packed(some_sequences()).positions_BL
    expected = reference.gated_delta_train(x_BLP, mixer.small_weights(), positions_BL)
    batch = PackedBatch(torch.zeros(SHAPE, dtype=torch.int64), positions_BL=positions_BL)
    ours = batch.gated_delta(0, x_BLP.flatten(0, 1), mixer.small_weights()).unflatten(0, SHAPE)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_all_choices_at_once_equal_the_dispatched_ones(network: CausalLM) -> None:
    moe = network.blocks[0].feed_forward
    x_TD = torch.randn(30, 32, requires_grad=True)
    routing, _ = moe.route(x_TD, torch.zeros(30, dtype=torch.int64))
    found = []
    for run in (moe.experts, moe.experts._run_all):
        y_TKD = run(x_TD, routing)
        found.append((y_TKD, *torch.autograd.grad(y_TKD.square().sum(), x_TD, retain_graph=True)))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_layers_that_cannot_be_packed_say_so() -> None:
    with pytest.raises(ValueError, match="rows of several sequences cannot be trained with Mamba"):
        packed(some_sequences()).selective_scan()
