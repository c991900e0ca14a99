"""Requests end at their deadline, running or waiting, with one terminal output and the tokens so far."""

import pytest

from model.network import CausalLM
from server.engine.engine import Engine
from server.engine.types import EngineOutput, FinishReason, SchedulingParams
from tests.server.engine.tiny import assert_memory_is_free, collect, engine_config, oracle, request


class Clock:
    """Advances by a second per step."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(engine: Engine, clock: Clock) -> dict[str, EngineOutput]:
    outputs: list[EngineOutput] = []
    while engine.has_unfinished:
        clock.now += 1
        outputs += engine.step()
    return collect(outputs)


def until(deadline: float | None) -> SchedulingParams:
    return SchedulingParams(deadline=deadline)


def test_a_running_request_keeps_what_it_has(network: CausalLM) -> None:
    clock = Clock()
    engine = Engine(network, engine_config(), clock=clock)
    cut, whole = request("cut", [5, 6, 7], 50, scheduling=until(110.5)), request("whole", [5, 6, 8], 50)
    for asked in (cut, whole):
        engine.submit(asked)
    outputs = run(engine, clock)
    assert outputs["cut"].finish_reason is FinishReason.TIMEOUT
    assert outputs["cut"].token_ids == oracle(network, cut)[:10]
    assert outputs["whole"].token_ids == oracle(network, whole)
    assert_memory_is_free(engine)


def test_a_waiting_request_ends_without_tokens(network: CausalLM) -> None:
    clock = Clock()
    engine = Engine(network, engine_config(max_num_seqs=1), clock=clock)
    engine.submit(request("running", [5, 6, 7], 20))
    for name, deadline in (("early", 105.0), ("late", 1000.0)):
        engine.submit(request(name, [5, 6, 9], 3, scheduling=until(deadline)))
    outputs = run(engine, clock)
    assert {name: output.finish_reason for name, output in outputs.items()} == {
        "running": FinishReason.LENGTH,
        "early": FinishReason.TIMEOUT,
        "late": FinishReason.LENGTH,
    }
    assert outputs["early"].token_ids == ()


def test_a_beam_search_gives_its_best_beam(network: CausalLM) -> None:
    clock = Clock()
    engine = Engine(network, engine_config(), clock=clock)
    engine.submit(request("beams", [5, 6, 7], 50, beam_width=3, scheduling=until(110.5)))
    [output] = run(engine, clock).values()
    assert output.finish_reason is FinishReason.TIMEOUT
    assert 5 < len(output.token_ids) <= 10
    assert_memory_is_free(engine)


def test_deadlines_of_ended_requests_are_forgotten(network: CausalLM) -> None:
    engine = Engine(network, engine_config(), clock=Clock())
    engine.submit(request("early", [5, 6, 7], 3, scheduling=until(1e3)))
    for number in range(1000):
        engine.submit(request(f"{number}", [5, 6, 7], 3, scheduling=until(1e6)))
        engine.abort(f"{number}")
    assert len(engine.scheduler._deadlines) < 200
    assert engine.scheduler._deadlines[0] == (1e3, "early")


@pytest.mark.parametrize("end", ["abort", "finish", "fail"])
def test_a_deadline_after_the_end_has_no_effect(network: CausalLM, end: str) -> None:
    clock = Clock()
    engine = Engine(network, engine_config(), clock=clock)
    engine.submit(request("a", [5, 6, 7], 3, scheduling=until(105.5)))
    outputs = engine.abort("a") if end == "abort" else engine.fail_all() if end == "fail" else []
    outputs += run(engine, clock).values()
    engine.submit(request("b", [5, 6, 7], 10))
    outputs += run(engine, clock).values()
    assert len(collect(outputs)) == 2
    assert clock.now > 105.5


@pytest.mark.parametrize("part", ["schedule", "observe_step"])
def test_an_exception_in_the_step_of_a_deadline_loses_no_end(
    network: CausalLM, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    clock = Clock()
    engine = Engine(network, engine_config(), clock=clock)
    engine.submit(request("late", [5, 6, 7], 50, scheduling=until(101)))
    engine.submit(request("ends", [5, 6, 8], 1))
    engine.submit(request("goes on", [5, 6, 9], 50))
    clock.now += 1
    with monkeypatch.context() as patched:
        patched.setattr(engine.scheduler, part, lambda *values, **named: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.step()
    ended = collect(engine.fail_all())
    assert {name: output.finish_reason for name, output in ended.items()} == dict.fromkeys(
        ("late", "ends", "goes on"), FinishReason.ERROR
    )
    assert_memory_is_free(engine)
    engine.submit(request("late", [5, 6, 7], 1))  # its id is free again
    assert run(engine, clock)["late"].finish_reason is FinishReason.LENGTH
