"""Tenants share the engine: a flood of one delays neither the prompts of another nor its place in the batch."""

from collections import Counter
from itertools import takewhile
from typing import Any

import pytest

from server.engine import scheduler
from server.engine.fair_share import FairShare
from server.engine.policy import MIN_PREFILL_TOKENS
from server.engine.types import FinishReason
from tests.server.engine.test_policy import KINDS, Steps
from tests.server.engine.tiny import collect


def flooded(kind: str = "hybrid", *, streams: int = 100, max_tokens: int = 400, **changes: Any) -> Steps:
    """One tenant has many more streams than there are slots."""
    steps = Steps(kind, **changes)
    for number in range(streams):
        steps.add(f"flood {number}", 64, max_tokens, tenant="flood")
    for _ in range(20):
        steps.step()
    return steps


def steps_to_first_tokens(steps: Steps, requests: int) -> list[int]:
    """Of one tenant that sends a request whenever the one before has ended."""
    waits = []
    for number in range(requests):
        steps.add(f"other {number}", 64, 10, tenant="other")
        waits.append(steps.steps_until(f"other {number}"))
        while f"other {number}" in steps.scheduler:
            steps.step()
    return waits


@pytest.mark.parametrize("kind", KINDS)
def test_a_flood_does_not_delay_another_tenant(kind: str) -> None:
    assert steps_to_first_tokens(flooded(kind), 20) == [1] * 20


def test_without_tenants_it_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: nobody is preempted."""
    monkeypatch.setattr(scheduler, "victim", lambda running, waiting: None)
    assert steps_to_first_tokens(flooded(), 1)[0] > 100


@pytest.mark.parametrize("kind", KINDS)
def test_a_flood_of_long_prompts_does_not_delay_another_tenant(kind: str) -> None:
    steps = Steps(kind)
    for number in range(40):
        steps.add(f"flood {number}", 3000, tenant="flood")
    for _ in range(3):
        steps.step()
    steps.add("other", 500, tenant="other")
    taken = 0
    while "other" in steps.scheduler:
        taken += 1
        assert steps.step()["other"] > 0
    assert taken == (1 if kind == "attention" else 500 // 64 + 1), "chunks end where snapshots are taken"


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_of_another_tenant_has_a_step_of_its_own(kind: str) -> None:
    """A step in which a full batch decodes takes about as long as the prompt."""
    steps = flooded(kind)
    steps.add("other", 64, 10, tenant="other")
    assert set(steps.step()) == {"other"}
    assert len(steps.step()) > 2, "the flood goes on"


def test_a_prompt_of_several_chunks_has_its_steps_in_a_row() -> None:
    """Otherwise the others would decode between any two chunks."""
    steps = flooded("hybrid")
    steps.add("other", 300, 10, tenant="other")
    assert [set(steps.step()) for _ in range(5)] == [{"other"}] * 5
    assert len(steps.step()) > 2, "the flood goes on"


def test_a_turn_is_not_longer_than_a_step() -> None:
    steps = flooded("hybrid", slots=16, max_num_batched_tokens=160)
    for number in range(8):
        steps.add(f"other {number}", 200, 10, tenant="other")
    own = takewhile(lambda step: all("other" in name for name in step), iter(steps.step, {}))
    assert 64 < sum(sum(step.values()) for step in own) <= 160


def prompt_tokens_of_steps(other: str, steps: int = 100) -> list[int]:
    """Of a flood of short prompts, after a tenant has sent a single request."""
    flood = Steps("attention")
    for number in range(16 * (steps + 1)):
        flood.add(f"flood {number}", 64, tenant="flood")
    flood.step()
    flood.add("other", 64, tenant=other)
    return [sum(flood.step().values()) for _ in range(steps)]


def test_steps_are_short_while_another_tenant_may_come_back() -> None:
    found = prompt_tokens_of_steps("other")
    assert set(found) == {MIN_PREFILL_TOKENS, 1024}
    assert found == sorted(found)
    assert found.index(1024) > 5


def test_steps_are_full_if_there_is_one_tenant() -> None:
    """Negative control."""
    assert set(prompt_tokens_of_steps("flood")) == {1024}


def test_steps_are_full_while_both_tenants_run_much() -> None:
    """Their prompts come in turn anyway."""
    steps = Steps("attention", max_num_batched_tokens=1024)
    for number in range(500):
        steps.add(f"a {number}", 64, 3, tenant="a")
        steps.add(f"b {number}", 64, 3, tenant="b")
    totals = [sum(steps.step().values()) for _ in range(20)]
    assert sum(totals[2:]) / len(totals[2:]) > 4 * MIN_PREFILL_TOKENS


def test_a_prompt_of_the_same_tenant_has_none() -> None:
    """Negative control."""
    steps = flooded(streams=7, slots=8)
    steps.add("flood 7", 64, 10, tenant="flood")
    assert len(steps.step()) == 8


def test_prompts_of_another_tenant_leave_every_second_step_to_all() -> None:
    steps = flooded(streams=4, slots=8)
    steps.add("other", 64, 400, tenant="other")
    for _ in range(60):
        steps.step()
    for number in range(3):  # of which it has more to claim than their tokens
        steps.add(f"other {number}", 64, 10, tenant="other")
        first, second = set(steps.step()), set(steps.step())
        assert f"other {number}" in first
        assert {name for name in second if "flood" in name} == {f"flood {n}" for n in range(4)}


def test_an_urgent_flood_is_not_left_out() -> None:
    steps = Steps("hybrid", slots=8)
    for number in range(4):
        steps.add(f"flood {number}", 64, 400, tenant="flood", priority=-1)
    for _ in range(4):
        steps.step()
    steps.add("other", 64, 10, tenant="other")
    assert len(steps.step()) == 5


def test_the_flood_goes_on_and_everything_ends() -> None:
    steps = flooded(streams=80, max_tokens=60, slots=16)
    steps_to_first_tokens(steps, 5)
    while steps.scheduler.has_unfinished:
        steps.step()
    outputs = collect(steps.outputs)  # type: ignore[arg-type]
    assert len(outputs) == 85
    assert {output.finish_reason for output in outputs.values()} == {FinishReason.LENGTH}


def test_slots_are_shared_equally_and_stay_so() -> None:
    steps = flooded(slots=16)
    for number in range(40):
        steps.add(f"other {number}", 64, 400, tenant="other")
    for _ in range(30):
        steps.step()
    preemptions = steps.scheduler.stats.preemptions
    assert preemptions == 8
    for _ in range(100):
        steps.step()
    assert Counter(sequence.tenant for sequence in steps.scheduler.pool.running) == {"flood": 8, "other": 8}
    assert steps.scheduler.stats.preemptions == preemptions


def test_prompt_tokens_are_shared_equally() -> None:
    """One tenant has many prompts, another a few; both get as many tokens while both have some."""
    steps = Steps("attention", max_num_batched_tokens=64)
    for number in range(30):
        steps.add(f"flood {number}", 200, tenant="flood")
    for number in range(5):
        steps.add(f"other {number}", 200, tenant="other")
    tokens: Counter[str] = Counter()
    while any(f"other {number}" in steps.scheduler for number in range(5)):
        for name, count in steps.step().items():
            tokens[name.split()[0]] += count
    assert abs(tokens["flood"] - tokens["other"]) < 2 * 200 + 64


def test_who_was_away_cannot_claim_what_it_did_not_use() -> None:
    steps = Steps("attention", max_num_batched_tokens=64)
    steps.add("flood", 3000, tenant="flood")
    for _ in range(20):
        steps.step()
    steps.add("other", 1000, tenant="other")
    steps.add("flood 2", 1000, tenant="flood")
    tokens: Counter[str] = Counter()
    for _ in range(10):
        for name, count in steps.step().items():
            tokens[name.split()[0]] += count
    assert abs(tokens["flood"] - tokens["other"]) <= 128


def test_what_was_served_before_nobody_had_work_does_not_count() -> None:
    steps = Steps("attention", max_num_batched_tokens=64)
    steps.add("before", 3000, tenant="flood")
    while steps.scheduler.has_unfinished:
        steps.step()
    steps.add("other", 1000, tenant="other")
    steps.add("flood", 1000, tenant="flood")
    tokens: Counter[str] = Counter()
    for _ in range(10):
        tokens.update(steps.step())
    assert abs(tokens["flood"] - tokens["other"]) <= 128


def test_tenants_without_work_are_forgotten() -> None:
    share = FairShare(clock=lambda: 0.0)
    for number in range(100):
        share.join(f"tenant {number}", {"flood"})
        share._served["flood"] = 10.0 * number
    share.join("last", {"flood"})
    assert set(share._served) == {"flood", "last"}


def test_an_urgent_request_comes_before_the_turn_of_others() -> None:
    steps = Steps("attention", max_num_batched_tokens=64)
    steps.add("other", 640, tenant="other")
    steps.add("urgent", 640, tenant="flood", priority=-1)
    assert steps.step() == {"urgent": 64}
