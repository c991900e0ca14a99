"""The time of a step is predicted from those before, and bounds its prompt tokens."""

import random

import pytest

from server.engine.policy import MAX_STEP_SECONDS, MIN_PREFILL_TOKENS, StepTimes
from tests.server.engine.test_policy import KINDS, Machine, Steps

MACHINE = Machine(rest=0.03, decode=0.02, prefill_token=0.003)  # a large model on a few cores


def observed(machine: Machine, steps: int = 200, *, only_with_prompts: bool = False, times: StepTimes) -> StepTimes:
    """Steps as they come under load, of which each takes up to a tenth more or less."""
    draw = random.Random(0)
    for _ in range(steps):
        decodes = draw.randint(1, 32)
        tokens = draw.randint(1, 500) if only_with_prompts or draw.random() < 0.3 else 0
        seconds = machine.seconds(decodes, tokens) * draw.uniform(0.9, 1.1)
        times.observe(seconds, decodes=decodes, prefill_tokens=tokens)
    return times


def test_the_times_of_its_parts_are_found() -> None:
    times = observed(MACHINE, times=StepTimes())
    assert times.decode_step(16) == pytest.approx(MACHINE.seconds(16, 0), rel=0.1)
    assert 100 / times.prefill_tokens(1.0) == pytest.approx(100 * MACHINE.prefill_token, rel=0.15)


def test_a_machine_that_gets_slower_is_noticed_where_every_step_has_prompts() -> None:
    times = observed(MACHINE, times=StepTimes())
    slower = Machine(*(2 * part for part in (MACHINE.rest, MACHINE.decode, MACHINE.prefill_token)))
    observed(slower, only_with_prompts=True, times=times)
    found = times.decode_step(16) + 200 / times.prefill_tokens(1.0)
    assert found == pytest.approx(slower.seconds(16, 200), rel=0.15)
    assert times.decode_step(16) > 0.7 * slower.seconds(16, 0), "the means of before kept an old decode step for ever"


def test_prompt_tokens_are_not_free_because_a_decode_step_was_slow() -> None:
    times = observed(MACHINE, times=StepTimes())
    for _ in range(3):
        times.observe(20.0, decodes=8, prefill_tokens=0)  # the process was stopped
    assert times.prefill_tokens(1.0) == pytest.approx(1 / MACHINE.prefill_token, rel=0.3)
    assert times.decode_step(8) < 2 * MACHINE.seconds(8, 0)


def test_prompt_tokens_are_not_free_after_many_steps_without() -> None:
    times = observed(MACHINE, times=StepTimes())
    for _ in range(1000):
        times.observe(3 * MACHINE.seconds(8, 0), decodes=8, prefill_tokens=0)
    assert times.prefill_tokens(1.0) == pytest.approx(1 / MACHINE.prefill_token, rel=0.3)


def test_prompt_tokens_are_not_free_because_the_machine_got_faster() -> None:
    """The first prompt after many slow decode steps; the time of the whole step is less than what those took."""
    times = observed(MACHINE, times=StepTimes())
    for _ in range(100):
        times.observe(3 * MACHINE.seconds(8, 0), decodes=8, prefill_tokens=0)
    times.observe(MACHINE.seconds(8, 16), decodes=8, prefill_tokens=16)
    assert times.prefill_tokens(1.0) < 3 / MACHINE.prefill_token


@pytest.mark.parametrize("seconds", [0.0, -5.0, 1e-9])
def test_a_clock_that_jumps_does_no_harm(seconds: float) -> None:
    times = observed(MACHINE, times=StepTimes())
    times.observe(seconds, decodes=8, prefill_tokens=100)
    observed(MACHINE, 20, times=times)
    assert times.decode_step(16) == pytest.approx(MACHINE.seconds(16, 0), rel=0.3)


def test_steps_too_short_for_the_clock_do_no_harm() -> None:
    """Windows counts monotonic time in steps of 15.6 ms."""
    times = observed(MACHINE, times=StepTimes())
    for _ in range(1000):
        times.observe(0.0, decodes=8, prefill_tokens=100)
    assert times.prefill_tokens(1.0) == pytest.approx(1 / MACHINE.prefill_token, rel=0.3)


def longest_step(machine: Machine, kind: str) -> tuple[float, int]:
    """Seconds of the longest step while others decode and prompts come, and the fewest prompt tokens of one."""
    steps = Steps(kind, machine=machine, max_decode_slowdown=None)
    for number in range(16):
        steps.add(f"stream {number}", 20, 1000)
    steps.step()
    longest, fewest = 0.0, 1024
    for number in range(60):
        for part in range(3):
            steps.add(f"prompt {number} {part}", 400)
        scheduled = steps.step()
        decodes = sum(name.startswith("stream") for name in scheduled)
        tokens = sum(scheduled.values()) - decodes
        if number > 5:
            longest, fewest = max(longest, machine.seconds(decodes, tokens)), min(fewest, tokens)
    return longest, fewest


@pytest.mark.parametrize("kind", KINDS)
def test_streams_wait_for_prompts_no_longer_than_about_a_second(kind: str) -> None:
    longest, fewest = longest_step(MACHINE, kind)
    assert longest <= 1.05 * MAX_STEP_SECONDS
    assert fewest >= MIN_PREFILL_TOKENS


def test_without_that_bound_they_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    monkeypatch.setattr("server.engine.policy.MAX_STEP_SECONDS", 1000.0)
    assert longest_step(MACHINE, "attention")[0] > 3 * MAX_STEP_SECONDS


def test_prompts_make_progress_on_the_slowest_machine() -> None:
    """Decoding alone takes longer than a step should."""
    _, fewest = longest_step(Machine(rest=1.0, decode=0.1, prefill_token=0.1), "attention")
    assert fewest == MIN_PREFILL_TOKENS


def test_on_a_fast_machine_steps_are_full() -> None:
    assert longest_step(Machine(rest=0.01, decode=0.001, prefill_token=0.0001), "attention")[1] > 900
