"""Replayed decode steps give the bits of computed ones, for all slots and lengths of the sequences."""

import pytest
import torch

from model.batch import ForwardBatch
from model.cache import CacheStorage
from model.config import SigmoidBiasConfig
from model.kernels.kernel_graph import KernelGraph
from model.layers.router import Routing
from model.network import CausalLM
from server.engine.decode_graphs import DecodeGraphs, StepShape, _stacked_by
from server.engine.routing.step_routing import StepRouting
from tests.server.engine.tiny import VOCAB, tiny_config, tiny_network

pytestmark = pytest.mark.compiled_kernels

WIDTH, BLOCK = 4, 8


class Decoder:
    """Sequences that start with an empty cache and get random tokens."""

    def __init__(self, network: CausalLM, max_bytes: int = 1 << 20) -> None:
        self.steps = DecodeGraphs(network, WIDTH, max_bytes=max_bytes)
        self.cache = CacheStorage(
            network.cache_specs(), num_blocks=4 * WIDTH, block_size=BLOCK, num_rows=4, dtype=network.dtype
        )
        self.lengths = [0] * 4
        self.routing: StepRouting | None = None

    def step(self, slots: list[int], seed: int, experts: int | torch.Tensor | None = None) -> torch.Tensor:
        positions = torch.tensor([self.lengths[slot] for slot in slots])
        tokens = torch.randint(VOCAB, (len(slots),), generator=torch.Generator().manual_seed(seed))
        blocks = int(positions.max()) // BLOCK + 1
        rows = torch.tensor(slots, dtype=torch.int32)
        table = rows[:, None] * WIDTH + torch.arange(blocks, dtype=torch.int32)
        starts = torch.arange(len(slots) + 1, dtype=torch.int32)
        for slot in slots:
            self.lengths[slot] += 1
        with torch.inference_mode():
            batch = ForwardBatch(tokens, positions, starts, table, rows, self.cache, experts)
            scores, self.routing = self.steps.run(batch, lambda: None)
        found = scores.clone()
        with torch.inference_mode():
            scores.fill_(torch.nan)  # as logits processors may, before the next step
        return found

    @property
    def routing_tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        assert self.routing is not None
        return self.routing.weights_LTK, self.routing.experts_LTK, self.routing.router_logits_LTE

    @property
    def captured(self) -> list[int]:
        return [shape.sequences for shape in self.steps._captured]


PLAN = [[0], [0], [0], [2, 0], [0, 2], [0, 2], [1, 3], [3, 0], [0], [0, 1, 2], [0, 1, 2], [1, 2, 3], *[[0, 2]] * 20]


@pytest.fixture(scope="module")
def network() -> CausalLM:
    return tiny_network()


def test_replayed_steps_have_the_bits_of_computed_ones(network: CausalLM) -> None:
    """Also beyond the ends of blocks, where block tables grow."""
    replaying, computing = Decoder(network), Decoder(network)
    computing.steps._max_sequences = 0
    for seed, slots in enumerate(PLAN):
        assert torch.equal(replaying.step(slots, seed), computing.step(slots, seed))
        assert all(map(torch.equal, replaying.routing_tensors, computing.routing_tensors))
    assert sorted(replaying.captured) == [1, 2, 3]
    assert computing.captured == []


def test_steps_with_a_number_of_experts_are_replayed_too(network: CausalLM) -> None:
    """Each number has a graph of its own; steps in which the numbers differ are computed."""
    replaying, computing = Decoder(network), Decoder(network)
    computing.steps._max_sequences = 0
    mixed = torch.tensor([1, 0])
    for seed, experts in enumerate([1, 1, 1, None, None, 1, mixed, mixed, None, 3, 3, 1]):
        logits = replaying.step([0, 1], seed, experts)
        assert torch.equal(logits, computing.step([0, 1], seed, experts))
        assert replaying.routing is not None
        expected = [1, 2] if experts is mixed else [experts or 2] * 2
        assert (replaying.routing.weights_LTK[0] > 0).sum(1).tolist() == expected
    assert set(replaying.steps._captured) == {StepShape(2, 1), StepShape(2), StepShape(2, 3)}


def test_the_comparison_can_fail(network: CausalLM) -> None:
    """Negative control: a replay without new inputs gives other logits."""
    decoder, other = Decoder(network), Decoder(network)
    for seed in range(3):
        decoder.step([0, 1], seed)
        other.step([0, 1], seed)
    decoder.steps._captured[StepShape(2)]._write = lambda batch: None  # type: ignore[method-assign]
    assert not torch.equal(decoder.step([0, 1], 3), other.step([0, 1], 3))


def test_a_step_is_captured_when_it_comes_a_second_time(network: CausalLM) -> None:
    decoder = Decoder(network)
    for seed, (slots, captured) in enumerate([([0], []), ([0, 1], []), ([1], [1]), ([0, 1, 2], [1]), ([0, 1], [1, 2])]):
        decoder.step(slots, seed)
        assert decoder.captured == captured


def test_the_least_recently_used_graphs_are_evicted(network: CausalLM) -> None:
    one = Decoder(network)
    one.step([0], 0), one.step([0], 1)
    nbytes = one.steps._captured[StepShape(1)].graph.nbytes
    decoder = Decoder(network, max_bytes=4 * nbytes)  # one and two sequences, or three
    for seed, slots in enumerate([[0], [0], [0, 1], [0, 1], [0], [0, 1, 2], [0, 1, 2]]):
        decoder.step(slots, seed)
    assert decoder.captured == [1, 3]
    for seed, (slots, captured) in enumerate([([0, 1], [1, 3]), ([0], [3, 1]), ([0, 1], [3, 1]), ([0, 1], [1, 2])]):
        decoder.step(slots, 7 + seed)
        assert decoder.captured == captured, "now a shape has to come twice in a row"


def test_what_is_too_large_is_not_captured_again_and_again(network: CausalLM) -> None:
    one = Decoder(network)
    one.step([0], 0), one.step([0], 1)
    decoder, other = Decoder(network, max_bytes=one.steps._captured[StepShape(1)].graph.nbytes), Decoder(network)
    other.steps._max_sequences = 0
    for seed, slots in enumerate([[0], [0], [0, 1], [0, 1], [0, 1], [0, 1, 2], [0, 1, 2]]):
        assert torch.equal(decoder.step(slots, seed), other.step(slots, seed))
    assert decoder.steps._max_sequences == 1
    assert decoder.captured == [1]


def test_routings_are_not_written_over_by_later_steps(network: CausalLM) -> None:
    decoder, other = Decoder(network), Decoder(network)
    other.steps._max_sequences = 0
    seen = []
    for seed in range(6):
        decoder.step([0, 1], seed), other.step([0, 1], seed)
        assert decoder.routing is not None
        assert other.routing is not None
        seen.append((decoder.routing.experts_LTK, other.routing.experts_LTK))
    assert all(torch.equal(found, expected) for found, expected in seen)
    assert len({tuple(experts_TK.flatten().tolist()) for experts_LTK, _ in seen for experts_TK in experts_LTK}) > 6


def test_layers_that_differ_are_stacked_after_each_step() -> None:
    graph = KernelGraph()
    narrow, wide = (Routing(torch.rand(3, k), torch.ones(3, k).long(), torch.rand(3, 8)) for k in (1, 2))
    assert _stacked_by(graph, (narrow, None, wide)) is None
    assert _stacked_by(graph, (None, None)) is None
    assert graph.calls == []
    assert _stacked_by(graph, (wide, None, wide)) is not None
    assert len(graph.calls) == 6


def test_a_network_that_computes_in_pytorch_is_not_captured() -> None:
    network = tiny_network(tiny_config(router=SigmoidBiasConfig(top_k=2)))
    decoder, other = Decoder(network), Decoder(network)
    other.steps._max_sequences = 0
    for seed in range(4):
        assert torch.equal(decoder.step([0, 1], seed), other.step([0, 1], seed))
    assert decoder.captured == []
    assert decoder.steps._max_sequences == 0
