"""Long prompts are read at a pace that running streams can bear, and come to their end."""

import pytest

from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.prefill_budget import FIRST, SMALLEST, Pace, PromptRoom
from server.engine.sequence import Sequence
from tests.server.engine.tiny import engine_config, request, run, tiny_network

STEP, TOKEN = 0.1, 0.01  # seconds of the made-up machine


def test_a_piece_is_what_fits_into_the_stretched_step() -> None:
    pace = Pace(stretch=2.5)
    assert pace.piece() == FIRST
    pace.observe(STEP, decodes=8, prefill_tokens=0)
    pace.observe(STEP + 20 * TOKEN, decodes=8, prefill_tokens=20)
    assert pace.piece() == SMALLEST  # fifteen would fit
    for _ in range(40):
        pace.observe(STEP / 10 + TOKEN, decodes=0, prefill_tokens=2)
        pace.observe(4 * STEP, decodes=8, prefill_tokens=0)
    assert pace.piece() == pytest.approx(1.5 * 4 * STEP / TOKEN, abs=2)


def test_a_slow_machine_still_reads_something() -> None:
    pace = Pace(stretch=2.0)
    pace.observe(0.001, decodes=1, prefill_tokens=0)
    pace.observe(9.0, decodes=1, prefill_tokens=10)
    assert pace.piece() == SMALLEST


class Machine:
    """A clock that a step moves on by what it computes."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def steps_beside_a_prompt(monkeypatch: pytest.MonkeyPatch, **changes: object) -> list[float]:
    """Seconds of each step from the arrival of a prompt of 200 tokens until it was read; three streams write."""
    machine = Machine()
    config = engine_config(max_model_len=256, snapshot_interval=1024, long_prompt=50, **changes)
    engine = Engine(tiny_network(), config, clock=machine)
    compute = engine._compute

    def timed(batch):  # type: ignore[no-untyped-def]
        machine.now += STEP * (batch.num_decodes > 0) + TOKEN * batch.num_prefill_tokens
        return compute(batch)

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


def test_streams_wait_no_longer_than_the_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = steps_beside_a_prompt(monkeypatch, max_stretch=3.0)
    later = seconds[2:]  # the first pieces are a guess
    assert max(later) <= 3 * STEP + 1e-6
    assert len(seconds) > 8
    assert len(steps_beside_a_prompt(monkeypatch, max_stretch=None)) == 1  # negative control: one long step


def test_a_stretch_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="max_stretch is 1"):
        EngineConfig(64, max_stretch=1)


def test_a_piece_costs_what_its_step_takes_longer_than_a_plain_one() -> None:
    pace = Pace(stretch=3.0)
    pace.observe(0.25, decodes=8, prefill_tokens=0)
    pace.observe(0.5, decodes=8, prefill_tokens=16)  # a sixty-fourth of a second each
    assert pace.piece() == 32  # in two steps' time


def test_long_prompts_have_less_room_and_use_it_up() -> None:
    short, long = (Sequence(request("r", [3] * length), 1, 0, 0.0) for length in (4, 5))
    room = PromptRoom(tokens=10, long_tokens=6, long_prompt=4)
    assert (room.for_prompt(short), room.for_prompt(long)) == (10, 6)
    room.take(long, 4)
    assert (room.for_prompt(short), room.for_prompt(long)) == (6, 2)
    room.take(short, 5)
    assert (room.for_prompt(short), room.for_prompt(long)) == (1, 1)


def test_a_prompt_that_nobody_waits_for_is_read_at_once() -> None:
    engine = Engine(tiny_network(), engine_config(max_stretch=2.0, long_prompt=50, snapshot_interval=1024))
    run(engine, [request("long", [3] * 200, 1)])
    assert engine.stats().steps == 1
