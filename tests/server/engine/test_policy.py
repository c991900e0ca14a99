"""In which order prompts are computed: short ones overtake long ones, and no prompt starves."""

from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import pytest
import torch

from server.engine.cache.layout import CacheLayout
from server.engine.config import EngineConfig
from server.engine.policy import PrefillBudget
from server.engine.scheduler import Scheduler
from server.engine.step import ModelOutput, SampledTokens
from server.engine.types import SchedulingParams
from tests.server.engine.tiny import collect, request

BLOCK = 16
KINDS = {"hybrid": (True, True), "attention": (True, False), "recurrence": (False, True)}


@dataclass(frozen=True)
class Machine:
    """Seconds of a step: for each decoding sequence, each prompt token, and the rest."""

    rest: float
    decode: float
    prefill_token: float

    def seconds(self, decodes: int, prefill_tokens: int) -> float:
        return self.rest + self.decode * decodes + self.prefill_token * prefill_tokens


class Steps:
    """A scheduler without a network: steps are scheduled, every sampled token is 3.

    With a `machine`, the scheduler is told how long each step would take there.
    """

    def __init__(
        self,
        kind: str = "hybrid",
        *,
        slots: int = 64,
        blocks: int = 8000,
        machine: Machine | None = None,
        **changes: object,
    ) -> None:
        self.machine = machine
        has_kv, has_state = KINDS[kind]
        layout = CacheLayout(BLOCK, blocks, slots, 64 if has_state else 0, has_kv, has_state)
        config = EngineConfig(4096, max_num_seqs=slots, **changes)  # type: ignore[arg-type]
        self.scheduler = Scheduler(config, layout, clock=count(1.0).__next__)
        self.outputs: list[object] = []

    def add(self, name: str, length: int, max_tokens: int = 1, **scheduling: Any) -> None:
        first = self.scheduler.pool.next_number()  # no common prefixes
        params = SchedulingParams(**scheduling)
        self.scheduler.add(request(name, [first] * length, max_tokens, ignore_eos=True, scheduling=params))

    def step(self) -> dict[str, int]:
        """The tokens that each request gets in one step."""
        batch = self.scheduler.schedule()
        assert batch.sequences
        scheduled = {sequence.request_id: sequence.num_scheduled_tokens for sequence in batch.sequences}
        sampled = SampledTokens([(3,)] * len(batch.sampling))
        self.outputs += self.scheduler.update(batch, ModelOutput(torch.empty(0)), sampled)
        if self.machine is not None:
            decodes, tokens = batch.num_decodes, batch.num_prefill_tokens
            self.scheduler.observe_step(self.machine.seconds(decodes, tokens), decodes=decodes, prefill_tokens=tokens)
        return scheduled

    def steps_until(self, name: str) -> int:
        """How many steps until a request gets its first tokens."""
        return next(number for number in count(1) if name in self.step())


@pytest.mark.parametrize("slots", [3, 4, 64])
@pytest.mark.parametrize("with_second", [False, True])
def test_a_short_prompt_does_not_wait_behind_a_long_one_that_has_no_budget(slots: int, with_second: bool) -> None:
    """A decoder, long A, long B, short C: A uses up the budget of long prompts, a slot is free, C must start."""
    steps = Steps(slots=slots, max_num_batched_tokens=100)
    steps.add("decoder", 5, 1000)
    steps.step()
    steps.add("A", 3000)
    assert 0 < steps.step()["A"] <= 64
    if with_second:
        steps.add("B", 3000)
    steps.add("C", 20)
    scheduled = steps.step()
    assert scheduled["C"] == 20
    assert scheduled["decoder"] == 1
    assert scheduled["A"] > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("long_ones", [4, 16, 40])
@pytest.mark.parametrize("steps_before", [1, 5, 10])
def test_a_short_prompt_does_not_wait_behind_long_ones_while_nothing_decodes(
    kind: str, long_ones: int, steps_before: int
) -> None:
    steps = Steps(kind)
    for number in range(long_ones):
        steps.add(f"long {number}", 3000)
    for _ in range(steps_before):
        steps.step()
    steps.add("short", 20)
    scheduled = steps.step()
    assert scheduled["short"] == 20
    full = 1024 if kind == "attention" else 20 + 64 * long_ones  # chunks end where snapshots are taken
    assert sum(scheduled.values()) == min(full, 1024), "the step is as full as before"


def steps_of_a_long_prompt(kind: str) -> int:
    """Steps until a prompt of 20 steps' tokens is done, while short prompts arrive that would fill every step."""
    steps = Steps(kind, max_num_batched_tokens=64)
    for number in range(3):
        steps.add(f"before {number}", 64)
    steps.add("long", 20 * 64)
    for number in range(200):
        steps.add(f"short {number}", 64)
        steps.step()
        if "long" not in steps.scheduler:
            return number
    return 200


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_prompt_is_not_starved_by_short_ones(kind: str) -> None:
    assert steps_of_a_long_prompt(kind) <= 2 * (3 + 20)


def test_the_shortest_first_would_starve_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control."""
    monkeypatch.setattr(PrefillBudget, "split", lambda budget: (replace(budget, tokens=0, long_tokens=0), budget))
    assert steps_of_a_long_prompt("attention") == 200


def test_a_long_prompt_is_not_starved_where_slots_are_scarce() -> None:
    steps = Steps(slots=2, max_num_batched_tokens=64)
    steps.add("a", 32, 20)
    steps.add("b", 32, 30)
    steps.step()
    steps.add("long", 640)
    for number in range(100):
        steps.add(f"short {number}", 32, 20)
    waited = 0
    while "long" not in steps.step():
        waited += 1
    assert waited < 20 * (2 + 640 / 32), "as many tokens of short prompts as it has itself, two at a time"


def test_a_prompt_that_found_no_memory_is_not_overtaken_any_more() -> None:
    steps = Steps("attention", blocks=256, slots=40, max_num_batched_tokens=256)
    for number in range(8):
        steps.add(f"running {number}", 20, 300)
    steps.step()
    steps.add("long", 3900)
    steps.step()
    assert "long" in {sequence.request_id for sequence in steps.scheduler.pool.waiting}
    for number in range(20):
        steps.add(f"short {number}", 20, 5)
    for _ in range(290):
        assert not any(name.startswith("short") for name in steps.step())
    assert steps.steps_until("long") < 20
    while steps.scheduler.has_unfinished:
        steps.step()
    assert len(collect(steps.outputs)) == 29  # type: ignore[arg-type]


def test_equal_prompts_are_computed_in_order_of_arrival() -> None:
    """One after the other and not side by side, so that the first ones are done early."""
    steps = Steps("attention", max_num_batched_tokens=128)
    for name in "cab":
        steps.add(name, 256)
    assert [list(steps.step()) for _ in range(6)] == [["c"], ["c"], ["a"], ["a"], ["b"], ["b"]]


def test_a_preempted_sequence_comes_back_before_what_never_ran() -> None:
    steps = Steps("attention", blocks=8, slots=4, max_num_batched_tokens=64)
    for name in "ab":
        steps.add(name, 40, 60)
    while not steps.scheduler.stats.preemptions:
        steps.step()
    steps.add("short", 16, 2)
    started = []
    while steps.scheduler.has_unfinished:
        started += [name for name in steps.step() if name != "a"]
    assert started[0] == "b"
