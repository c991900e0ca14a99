"""Long prompts are computed in chunks that slow decode steps down by a bounded factor."""

import pytest

from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.policy import FIRST_LONG_PREFILL_TOKENS, MIN_LONG_PREFILL_TOKENS, PrefillBudget, SchedulingPolicy
from server.engine.sequence import Sequence
from tests.server.engine.tiny import engine_config, request, run, tiny_network

STEP, TOKEN = 0.01, 0.001  # seconds, on the simulated machine


class Machine:
    """A clock that each step advances by the time it would take."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def steps_beside_a_prompt(monkeypatch: pytest.MonkeyPatch, **changes: object) -> list[float]:
    """Seconds of each step in which a prompt of 200 tokens is computed while three streams decode."""
    machine = Machine()
    config = engine_config(max_model_len=256, snapshot_interval=1024, long_prefill_token_threshold=50, **changes)
    engine = Engine(tiny_network(), config, clock=machine)
    compute = engine._compute

    def timed(batch, before_kernels):  # type: ignore[no-untyped-def]
        machine.now += STEP * (batch.num_decodes > 0) + TOKEN * batch.num_prefill_tokens
        return compute(batch, before_kernels)

    monkeypatch.setattr(engine, "_compute", timed)
    for number in range(3):
        engine.submit(request(f"stream {number}", [7, 8, 9], 100, ignore_eos=True))
    for _ in range(5):
        engine.step()
    engine.submit(request("long", [3 + n % 5 for n in range(200)], 1, ignore_eos=True))
    seconds = []
    while "long" in engine.scheduler:
        before = machine.now
        engine.step()
        seconds.append(machine.now - before)
    return seconds


def test_streams_are_slowed_down_by_no_more_than_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = steps_beside_a_prompt(monkeypatch, max_decode_slowdown=3.0)
    later = seconds[2:]  # the first chunks are a guess
    assert max(later) <= 3 * STEP + 1e-6
    assert len(seconds) > 8
    assert len(steps_beside_a_prompt(monkeypatch, max_decode_slowdown=None)) == 1  # negative control: one long step


def test_a_slowdown_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="max_decode_slowdown is 1"):
        EngineConfig(64, max_decode_slowdown=1)


def long_tokens(*steps: tuple[float, int, int], max_slowdown: float) -> int:
    """Of a step in which eight sequences decode, after steps of these seconds, decoding sequences and prompt tokens."""
    policy = SchedulingPolicy(EngineConfig(4096, max_decode_slowdown=max_slowdown), lambda: 0.0)
    for seconds, decodes, prefill_tokens in steps:
        policy.observe(seconds, decodes=decodes, prefill_tokens=prefill_tokens)
    decoding = [Sequence(request(f"r{number}", [3]), number, 0, 0.0) for number in range(8)]
    return policy.budget_of_turn(decoding).long_tokens


def test_a_chunk_is_what_fits_into_the_slower_step() -> None:
    measured = [(STEP, 8, 0), (STEP + 20 * TOKEN, 8, 20)] * 20
    assert long_tokens(max_slowdown=2.5) == FIRST_LONG_PREFILL_TOKENS
    assert long_tokens(*measured, max_slowdown=2.5) == MIN_LONG_PREFILL_TOKENS  # fifteen would fit
    assert long_tokens(*measured, max_slowdown=4.0) == pytest.approx(3 * STEP / TOKEN, abs=2)


def test_steps_of_prompts_alone_do_not_shrink_the_share_of_long_prompts() -> None:
    """Reading the weights takes most of a step with few tokens, which a decode step does anyway."""
    measured = [(STEP, 8, 0), (STEP + 0.1 * TOKEN, 8, 2)] * 20
    assert long_tokens(*measured, *[(STEP, 0, 2)] * 20, max_slowdown=2.0) >= long_tokens(*measured, max_slowdown=2.0)


def test_a_slow_machine_still_computes_some_tokens() -> None:
    assert long_tokens((0.001, 1, 0), (9.0, 1, 10), max_slowdown=2.0) == MIN_LONG_PREFILL_TOKENS


def test_long_prompts_have_less_of_the_budget() -> None:
    short, long = (Sequence(request("r", [3] * length), 1, 0, 0.0) for length in (4, 5))
    budget = PrefillBudget(tokens=10, long_tokens=6, long_prefill_token_threshold=4)
    assert (budget.available(short), budget.available(long)) == (10, 6)
    budget.take(long, 4)
    assert (budget.available(short), budget.available(long)) == (6, 2)
    budget.take(short, 5)
    assert (budget.available(short), budget.available(long)) == (1, 1)


def test_the_halves_of_a_budget_are_the_whole() -> None:
    first, second = PrefillBudget(7, 3, 4).split()
    assert (first.tokens, first.long_tokens) == (4, 2)  # the first can always take one
    second.add(first)
    assert (second.tokens, second.long_tokens) == (7, 3)


def test_a_prompt_is_computed_at_once_while_nothing_decodes() -> None:
    engine = Engine(tiny_network(), engine_config(long_prefill_token_threshold=50, snapshot_interval=1024))
    run(engine, [request("long", [3] * 200, 1)])
    assert engine.stats().steps == 1
