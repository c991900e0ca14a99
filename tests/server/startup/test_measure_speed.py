"""The speed that is measured before the first request."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count

import pytest

from server.engine.client.admission import UNKNOWN_SPEED, Speed
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.startup.measure_speed import measure_speed
from tests.server.engine.tiny import tiny_network

CONFIG = EngineConfig(max_model_len=32, max_num_seqs=4)


def test_the_speed_is_that_of_the_largest_batch() -> None:
    ticks = count()
    speed = measure_speed(tiny_network(), CONFIG, clock=lambda: next(ticks) * 1e-3)
    alone = measure_speed(tiny_network(), replace(CONFIG, max_num_seqs=1), clock=lambda: next(ticks) * 1e-3)
    assert speed.tokens_per_second > 1.5 * alone.tokens_per_second > 0
    assert 0 < speed.prompt_token_cost <= 1


def test_no_batch_is_larger_than_what_tells_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def record(engine: Engine, num_seqs: int, clock: Callable[[], float]) -> Speed:
        sizes.append(num_seqs)
        return UNKNOWN_SPEED

    monkeypatch.setattr("server.startup.measure_speed._measure", record)
    measure_speed(tiny_network(), replace(CONFIG, max_num_seqs=64))
    measure_speed(tiny_network(), replace(CONFIG, max_num_seqs=8))
    assert sizes == [1, 16, 1, 8]


def test_a_slow_network_is_not_measured_for_long() -> None:
    ticks = count()
    speed = measure_speed(tiny_network(), replace(CONFIG, max_num_seqs=64), clock=lambda: float(next(ticks)))
    assert next(ticks) < 100, "a reading of the clock is a second: two single answers"
    assert speed.tokens_per_second > 0


def test_nothing_is_known_where_answers_are_too_short_or_fail(caplog: pytest.LogCaptureFixture) -> None:
    assert measure_speed(tiny_network(), replace(CONFIG, max_model_len=8)) == UNKNOWN_SPEED
    broken = tiny_network()
    for parameter in broken.parameters():
        parameter.data.fill_(float("nan"))
    assert measure_speed(broken, CONFIG) == UNKNOWN_SPEED
