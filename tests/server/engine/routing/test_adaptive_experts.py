"""Fewer experts per token under load: the hysteresis, and what sequences get."""

import numpy as np
import pytest

from model.config import with_experts_per_token
from model.network import CausalLM
from server.engine.engine import Engine
from server.engine.routing.adaptive_experts import LOWER_AFTER, RAISE_AFTER, AdaptiveExperts, ExpertRange
from server.engine.types import RoutingParams
from tests.server.engine.tiny import engine_config, oracle, random_prompt, request, run, tiny_config, tiny_network


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def after(adaptive: AdaptiveExperts, clock: Clock, seconds: float, waiting: int) -> int:
    """The number after so many seconds of a queue of that length."""
    for _ in range(round(seconds * 10)):
        adaptive.update(waiting)
        clock.now += 0.1
    adaptive.update(waiting)
    return adaptive.number


def test_the_number_follows_a_queue_that_lasts() -> None:
    clock = Clock()
    adaptive = AdaptiveExperts(ExpertRange(1, 3, max_waiting=8), clock)
    assert after(adaptive, clock, LOWER_AFTER / 2, waiting=9) == 3, "not at once"
    assert after(adaptive, clock, LOWER_AFTER, waiting=9) == 2
    assert after(adaptive, clock, 10, waiting=50) == 1, "never below the fewest"
    assert after(adaptive, clock, 60, waiting=5) == 1, "between the bounds nothing changes"
    assert after(adaptive, clock, RAISE_AFTER / 2, waiting=2) == 1
    assert after(adaptive, clock, 0.1, waiting=5) == 1, "and the time starts again"
    assert after(adaptive, clock, RAISE_AFTER / 2, waiting=0) == 1
    assert after(adaptive, clock, RAISE_AFTER, waiting=0) == 2
    assert after(adaptive, clock, 60, waiting=0) == 3


def test_a_range_is_ascending() -> None:
    with pytest.raises(ValueError, match="2:1: give the smaller number first"):
        ExpertRange(2, 1, 8)


def test_a_model_must_have_so_many(network: CausalLM) -> None:
    with pytest.raises(ValueError, match="experts_per_token is 5"):
        Engine(network, engine_config(adaptive_experts=ExpertRange(1, 5, 8)))


@pytest.mark.compiled_kernels
def test_sequences_of_a_long_queue_get_fewer_unless_they_object(network: CausalLM) -> None:
    """Each answer is that of a network with the number that it is told to have."""
    clock = Clock()
    config = engine_config(max_num_seqs=4, adaptive_experts=ExpertRange(1, 2, max_waiting=2))
    engine = Engine(network, config, clock=lambda: clock())
    rng = np.random.default_rng(0)
    prompts = {str(number): random_prompt(rng, 12) for number in range(12)}
    fixed = {"3": RoutingParams(adaptive=False), "10": RoutingParams(adaptive=False), "11": RoutingParams(2)}
    for name, prompt in prompts.items():
        engine.submit(request(name, prompt, 8, routing=fixed.get(name, RoutingParams())))
    finished, tokens = {}, dict.fromkeys(prompts, ())
    while engine.has_unfinished:
        for output in engine.step():
            tokens[output.request_id] += output.token_ids  # type: ignore[assignment]
            if output.finish_reason is not None:
                finished[output.request_id] = output.experts_per_token
        clock.now += 0.3
    assert {name: finished[name] for name in ("0", "1", "2", "3")} == {"0": 2, "1": 2, "2": 2, "3": None}
    assert {name: finished[name] for name in ("4", "9", "10", "11")} == {"4": 1, "9": 1, "10": None, "11": 2}
    one = tiny_network(with_experts_per_token(tiny_config(), 1))
    for name, prompt in prompts.items():
        asked = request(name, prompt, 8)
        assert tokens[name] == oracle(one if finished[name] == 1 else network, asked)
    assert engine.stats().experts_per_token in (1, 2)


def test_without_the_setting_nothing_is_chosen(network: CausalLM) -> None:
    engine = Engine(network, engine_config())
    result = run(engine, [request("r", [5, 6, 7], 4)])["r"]
    assert (result.experts_per_token, engine.stats().experts_per_token) == (None, None)
