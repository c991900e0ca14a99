"""The scheduler over a simulated cache: right tokens and no leaks, for any order of arrivals and aborts."""

from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.cache.layout import CacheLayout
from server.engine.config import EngineConfig
from server.engine.scheduler import Scheduler
from server.engine.sequence import Sequence
from server.engine.step import SampledTokens
from server.engine.types import EngineOutput, FinishReason, GenerateRequest, SchedulingParams
from tests.server.engine.simulated import SimulatedRunner, simulated_decode
from tests.server.engine.tiny import collect, request

MAX_LEN = 24
BLOCK = 4
EOS = frozenset({5})


def layout_of(
    *, blocks: int = 40, slots: int = 4, snapshots: int = 6, kv: bool = True, state: bool = True
) -> CacheLayout:
    return CacheLayout(BLOCK, blocks if kv else 0, slots, snapshots if state else 0, kv, state)


class Simulation:
    """A scheduler and its simulated memory."""

    def __init__(self, layout: CacheLayout, **changes: object) -> None:
        values: dict[str, object] = {"max_num_seqs": layout.num_slots, "max_num_batched_tokens": 16}
        values |= {"block_size": BLOCK, "snapshot_interval": 6, "eos_token_ids": EOS}
        self.config = EngineConfig(MAX_LEN, **(values | changes))  # type: ignore[arg-type]
        self.scheduler = Scheduler(self.config, layout, clock=count(1.0).__next__)
        self.runner = SimulatedRunner(layout)
        self.layout = layout

    def step(self) -> list[EngineOutput]:
        batch = self.scheduler.schedule()
        assert batch.is_empty == (not self.scheduler.has_unfinished), "there is work, and nothing is scheduled"
        if batch.is_empty:
            return []
        tokens = sum(sequence.num_scheduled_tokens for sequence in batch.sequences)
        assert 0 < tokens <= self.config.max_num_batched_tokens
        assert len({sequence.request_id for sequence in batch.sequences}) == len(batch.sequences)
        outputs = self.scheduler.update(batch, *self.runner.step(self.scheduler, batch))
        self.check()
        return outputs

    def check(self) -> None:
        scheduler = self.scheduler
        running, waiting = scheduler.pool.running, scheduler.pool.waiting
        assert [s.queue_order for s in running] == sorted(s.queue_order for s in running)
        assert [s.queue_order for s in waiting] == sorted(s.queue_order for s in waiting)
        slots = [s.slot for s in running]
        assert len(set(slots)) == len(slots) == self.layout.num_slots - scheduler.pool.cache.states.num_free_slots
        owned = [block for s in running for block in s.block_table]
        assert scheduler.pool.cache.blocks._refs == [owned.count(block) for block in range(self.layout.num_blocks)]
        assert all(not s.block_table and s.slot is None for s in waiting)

    def drain(self) -> list[EngineOutput]:
        outputs: list[EngineOutput] = []
        while self.scheduler.has_unfinished:
            outputs += self.step()
        assert self.scheduler.pool.cache.blocks.num_used == 0
        assert self.scheduler.pool.cache.states.num_free_slots == self.layout.num_slots
        return outputs


LAYOUTS = [
    layout_of(),
    layout_of(blocks=6),  # the least: one sequence of the longest kind
    layout_of(blocks=9, slots=8, snapshots=2),
    layout_of(state=False, blocks=8),
    layout_of(kv=False, snapshots=5),
    layout_of(snapshots=0),
]
prompts = st.lists(st.integers(0, 1), min_size=1, max_size=16)  # few tokens: many shared prefixes


@st.composite
def requests(draw: st.DrawFn) -> tuple[list[int], int, tuple[int, ...]]:
    prompt = draw(prompts)
    boundaries = draw(st.sets(st.integers(1, len(prompt)), max_size=2))
    return prompt, draw(st.integers(0, MAX_LEN - len(prompt))), tuple(sorted(boundaries))


@settings(max_examples=150)
@given(data=st.data())
def test_random_arrivals_aborts_and_preemptions(data: st.DataObject) -> None:
    layout = data.draw(st.sampled_from(LAYOUTS))
    simulation = Simulation(
        layout,
        prefix_caching=data.draw(st.booleans()),
        max_prefill_chunk=data.draw(st.sampled_from([None, 1, 3])),
        max_num_batched_tokens=data.draw(st.sampled_from([8, 16, 64])),
    )
    outputs: list[EngineOutput] = []
    accepted: dict[str, GenerateRequest] = {}
    for number, (prompt, max_tokens, boundaries) in enumerate(data.draw(st.lists(requests(), max_size=12))):
        scheduling = SchedulingParams(data.draw(st.sampled_from([0, 0, 1])), data.draw(st.sampled_from("ab")))
        new = request(f"r{number}", prompt, max_tokens, boundaries=boundaries, scheduling=scheduling)
        accepted[new.request_id] = new
        simulation.scheduler.add(new)
        for _ in range(data.draw(st.integers(0, 4))):
            outputs += simulation.step()
        if data.draw(st.integers(0, 4)) == 0:
            outputs += simulation.scheduler.abort(data.draw(st.sampled_from(sorted(accepted))))
            simulation.check()
    results = collect(outputs + simulation.drain())
    assert results.keys() == accepted.keys()
    for request_id, result in results.items():
        expected = simulated_decode(
            accepted[request_id].prompt_token_ids, accepted[request_id].sampling.max_tokens, EOS
        )
        if result.finish_reason is FinishReason.ABORT:
            assert result.token_ids == expected[: len(result.token_ids)]
        else:
            assert result.token_ids == expected
            assert result.finish_reason is (FinishReason.STOP if expected[-1:] == (5,) else FinishReason.LENGTH)


def test_the_simulation_notices_a_stale_state() -> None:
    """Negative control: rows that are not cleared for their next owner must show."""
    simulation = Simulation(layout_of(slots=1), prefix_caching=False)
    simulation.runner._apply = lambda op: None  # type: ignore[method-assign]
    simulation.scheduler.add(request("a", [1, 2, 3]))
    with pytest.raises(AssertionError):
        simulation.drain()


def test_decodes_go_on_while_a_long_prompt_is_prefilled_in_chunks() -> None:
    simulation = Simulation(layout_of(), max_num_batched_tokens=4, prefix_caching=False, eos_token_ids=frozenset())
    simulation.scheduler.add(request("short", [1], 8))
    simulation.step()
    simulation.scheduler.add(request("long", [0] * 12, 1))
    steps = [simulation.step() for _ in range(4)]
    assert [[output.request_id for output in outputs] for outputs in steps] == [["short"]] * 3 + [["short", "long"]]


def test_out_of_blocks_the_latest_is_preempted_and_no_token_comes_twice() -> None:
    simulation = Simulation(layout_of(blocks=7), eos_token_ids=frozenset(), prefix_caching=False)
    for name in ("first", "second", "third"):
        simulation.scheduler.add(request(name, [0, 1, 0], 16))
    outputs = simulation.drain()
    assert simulation.scheduler.stats.preemptions > 0
    ends = [output.request_id for output in outputs if output.finish_reason is not None]
    assert ends == ["first", "second", "third"]
    assert {result.token_ids for result in collect(outputs).values()} == {simulated_decode([0, 1, 0], 16)}


def test_who_came_first_goes_first() -> None:
    simulation = Simulation(layout_of(slots=1), eos_token_ids=frozenset())
    for name in ("z", "a", "b"):
        simulation.scheduler.add(request(name, [1, 0], 2))
    ends = [output.request_id for output in simulation.drain() if output.finish_reason is not None]
    assert ends == ["z", "a", "b"]


def prefilled(simulation: Simulation, asked: GenerateRequest) -> int:
    """Serve one request alone and count the prompt tokens that were computed."""
    simulation.scheduler.add(asked)
    computed, outputs = 0, []
    while simulation.scheduler.has_unfinished:
        batch = simulation.scheduler.schedule()
        computed += sum(s.num_scheduled_tokens for s in batch.sequences if not s.is_decoding)
        outputs += simulation.scheduler.update(batch, *simulation.runner.step(simulation.scheduler, batch))
    assert outputs[-1].num_cached_tokens == len(asked.prompt_token_ids) - computed
    return computed


def test_a_boundary_is_reused_to_the_token() -> None:
    simulation = Simulation(layout_of(), snapshot_interval=100)
    header = [0, 1, 2, 3, 4, 0, 1]  # not a multiple of the block
    assert prefilled(simulation, request("a", [*header, 1, 1], 1, boundaries=(7,))) == 9
    assert prefilled(simulation, request("b", [*header, 2, 2], 1, boundaries=(7,))) == 2
    counts = simulation.scheduler.stats
    assert (counts.prefix_cache_queries, counts.prefix_cache_hits) == (18, 7)


def test_the_third_request_reuses_the_prefix_up_to_where_the_first_two_diverge() -> None:
    simulation = Simulation(layout_of(), snapshot_interval=100)
    shared = [0, 1, 2, 3, 4, 0, 1, 2, 3]  # no request names it as a boundary
    assert prefilled(simulation, request("a", [*shared, 1, 1], 1)) == 11
    assert prefilled(simulation, request("b", [*shared, 2, 2], 1)) == 11
    assert prefilled(simulation, request("c", [*shared, 3, 3], 1)) == 3  # two full blocks


def test_the_next_turn_starts_at_the_end_of_the_last() -> None:
    simulation = Simulation(layout_of(), snapshot_interval=100, eos_token_ids=frozenset())
    prompt = [0, 1, 2, 3, 4]
    answer = simulated_decode(prompt, 4)
    prefilled(simulation, request("a", prompt, 4))
    assert prefilled(simulation, request("b", [*prompt, *answer, 1, 2], 1)) == 3  # the last token was never computed


def test_models_without_recurrence_reuse_whole_blocks() -> None:
    simulation = Simulation(layout_of(state=False))
    assert prefilled(simulation, request("a", [0, 1, 2, 3, 4, 0, 1, 2, 1], 1)) == 9
    assert prefilled(simulation, request("b", [0, 1, 2, 3, 4, 0, 1, 2], 1)) == 4  # one token is always computed
    assert prefilled(simulation, request("c", [0, 1, 2, 3, 4, 0, 1, 2, 2], 1)) == 1


def test_models_without_attention_reuse_any_snapshot() -> None:
    simulation = Simulation(layout_of(kv=False), snapshot_interval=6)
    assert prefilled(simulation, request("a", [0, 1, 2, 3, 4, 0, 1, 2, 1], 1)) == 9
    assert prefilled(simulation, request("b", [0, 1, 2, 3, 4, 0, 1, 2, 2], 1)) == 3


def test_existing_snapshots_are_not_taken_again() -> None:
    simulation = Simulation(layout_of(), snapshot_interval=100)
    taken = []
    for name in "abc":
        prefilled(simulation, request(name, [0, 1, 2, 3, 4, 0], 1, boundaries=(3,)))
        taken.append(simulation.scheduler.pool.cache.states.snapshots_used)
    assert taken == [2, 3, 3]  # the boundary and the end of the prompt; then the divergence point; then nothing new


def test_a_scored_prompt_reuses_what_lies_before_its_last_boundary() -> None:
    simulation = Simulation(layout_of(), snapshot_interval=100)
    for name, computed in (("a", 8), ("b", 3)):
        asked = request(name, [0, 1, 2, 3, 4, 0, *(1, 2)], 0, prompt_logprobs=True, boundaries=(2, 6))
        assert prefilled(simulation, asked) == computed  # the score of token 6 needs the logits of token 5
    asked = request("all", [0, 1, 2, 3, 4, 0, 1], 0, prompt_logprobs=True)
    assert prefilled(simulation, asked) == 7


def test_failed_sequences_free_everything_and_nothing_computed_is_trusted() -> None:
    simulation = Simulation(layout_of())
    simulation.scheduler.add(request("a", [0, 1, 2, 3, 4, 0, 1], 4, boundaries=(4,)))
    for _ in range(3):
        simulation.step()
    batch = simulation.scheduler.schedule()
    outputs = simulation.scheduler.fail(batch.sequences, "broken")
    assert [(output.finish_reason, output.error) for output in outputs] == [(FinishReason.ERROR, "broken")]
    simulation.check()
    assert not simulation.scheduler.has_unfinished
    assert prefilled(simulation, request("b", [0, 1, 2, 3, 4, 0, 1], 1)) == 7


def test_scores_that_are_no_numbers_fail_their_own_request_only() -> None:
    simulation = Simulation(layout_of(), eos_token_ids=frozenset())
    for name in ("good", "bad"):
        simulation.scheduler.add(request(name, [0, 1, 2], 3))
    batch = simulation.scheduler.schedule()
    computed, sampled = simulation.runner.step(simulation.scheduler, batch)
    failed = SampledTokens(sampled.token_ids, failed=frozenset({"bad"}))
    outputs = simulation.scheduler.update(batch, computed, failed) + simulation.drain()
    results = collect(outputs)
    assert results["bad"].finish_reason is FinishReason.ERROR
    assert results["good"].token_ids == simulated_decode([0, 1, 2], 3)


def test_times_are_told_at_the_end() -> None:
    simulation = Simulation(layout_of())
    simulation.scheduler.add(request("a", [0, 1], 2, arrival_time=0.5, ignore_eos=True))
    outputs = simulation.drain()
    assert [output.times is None for output in outputs] == [True, False]
    times = outputs[-1].times
    assert times is not None
    assert times.arrival == 0.5
    assert times.scheduled is not None
    assert times.first_token is not None
    assert times.finished is not None
    assert times.arrival < times.scheduled < times.first_token < times.finished


def test_clear_recovers_from_any_state() -> None:
    simulation = Simulation(layout_of())
    for name in ("a", "b"):
        simulation.scheduler.add(request(name, [0, 1, 2], 4, ignore_eos=True))
    simulation.step()
    broken: Sequence = simulation.scheduler.pool.running[0]
    broken.block_table = [3, 3, 3]
    simulation.scheduler.clear()
    assert not simulation.scheduler.has_unfinished
    simulation.check()
    simulation.scheduler.add(request("c", [0, 1, 2], 4, ignore_eos=True))
    assert collect(simulation.drain())["c"].token_ids == simulated_decode([0, 1, 2], 4)


def test_a_scored_position_is_no_place_to_remember() -> None:
    simulation = Simulation(layout_of(), snapshot_interval=6)  # six is a multiple, a boundary, and scored
    prefilled(simulation, request("a", [0, 1, 2, 3, 4, 0, 1, 2], 0, prompt_logprobs=True, boundaries=(2, 6)))
    assert simulation.scheduler.pool.cache.states.snapshots_used == 2  # two, and five for the score of six


def test_a_prompt_that_ends_at_a_multiple_of_the_interval_is_remembered_there() -> None:
    simulation = Simulation(layout_of(), snapshot_interval=6)
    assert prefilled(simulation, request("a", [0, 1, 2, 3, 4, 0], 0)) == 6
    assert prefilled(simulation, request("b", [0, 1, 2, 3, 4, 0, 1, 2], 0)) == 2


def test_a_snapshot_without_its_blocks_is_not_used() -> None:
    simulation = Simulation(layout_of(blocks=6), snapshot_interval=100, max_num_batched_tokens=32)
    first = request("a", [0, 1, 2, 3, 4, 0, 1, 2, 3], 1, boundaries=(8,))
    assert prefilled(simulation, first) == 9
    prefilled(simulation, request("b", [4] * 21, 1))  # all six blocks
    assert prefilled(simulation, replace(first, request_id="again")) == 9


def test_found_blocks_count_as_taken_while_a_request_waits_for_room() -> None:
    simulation = Simulation(layout_of(blocks=6, state=False), eos_token_ids=frozenset(), max_num_batched_tokens=32)
    prompt = [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0]
    prefilled(simulation, request("before", prompt, 1))
    simulation.scheduler.add(request("running", [4, 4], 2))
    outputs = simulation.step()
    simulation.scheduler.add(request("again", [*prompt, *[4] * 5], 2))  # two blocks beside the four it finds
    outputs += simulation.step()
    assert len(simulation.scheduler.pool.waiting) == 1
    results = collect(outputs + simulation.drain())
    assert results["again"].num_cached_tokens == 16
    assert results["again"].token_ids == simulated_decode([*prompt, *[4] * 5], 2)


def test_found_blocks_are_not_taken_for_new_ones() -> None:
    simulation = Simulation(layout_of(blocks=6, state=False), max_num_batched_tokens=32)
    prompt = [0, 1, 2, 3, 4, 0, 1, 2]
    prefilled(simulation, request("a", prompt, 1))
    prefilled(simulation, request("b", [4] * 12, 1))  # used more recently than the blocks of the first
    assert prefilled(simulation, request("c", [*prompt, *[3] * 9], 1)) == 9


def test_nothing_is_remembered_of_a_step_with_scores_that_are_no_numbers() -> None:
    simulation = Simulation(layout_of())
    simulation.scheduler.add(request("bad", [0, 1, 2, 3, 4, 0, 1], 3))
    for fails in (False, True):
        batch = simulation.scheduler.schedule()
        computed, sampled = simulation.runner.step(simulation.scheduler, batch)
        simulation.scheduler.update(batch, computed, replace(sampled, failed=frozenset({"bad"} if fails else ())))
    assert not simulation.scheduler.has_unfinished
    assert prefilled(simulation, request("b", [0, 1, 2, 3, 4, 0, 1], 1)) == 7


def test_prompts_share_the_tokens_of_a_step() -> None:
    simulation = Simulation(layout_of(), prefix_caching=False)
    for name in ("a", "b", "c"):
        simulation.scheduler.add(request(name, [0] * 12, 1))
    batch = simulation.scheduler.schedule()
    assert [sequence.num_scheduled_tokens for sequence in batch.sequences] == [12, 4]


def test_a_preempted_request_is_counted_and_timed_once() -> None:
    simulation = Simulation(layout_of(blocks=7), eos_token_ids=frozenset())
    for name in ("first", "second", "third"):
        simulation.scheduler.add(request(name, [0, 1, 0], 16))
    results = collect(simulation.drain())
    counts = simulation.scheduler.stats
    assert counts.preemptions > 0
    assert (counts.prompt_tokens, counts.prefix_cache_queries) == (9, 9)
    for result in results.values():
        assert result.times is not None
        assert result.times.scheduled is not None
        assert result.times.first_token is not None
        assert result.times.scheduled < result.times.first_token
