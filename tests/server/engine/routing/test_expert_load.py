"""Counts of the tokens that each expert gets."""

import math
from collections.abc import Sequence

import pytest
import torch

from model.layers.router import Routing
from server.engine.engine import Engine
from server.engine.routing.expert_load import STEPS_KEPT, TOKENS_KEPT, ExpertLoadRecorder, TokenGroup
from server.engine.routing.step_routing import StepRouting
from server.engine.types import LabelLoad
from tests.server.engine.tiny import engine_config, request, run, tiny_network

ONE = [TokenGroup("chat", "", 1)]


def routing(experts: list[list[int]], weights: list[list[float]], scores: list[list[float]]) -> Routing:
    return Routing(torch.tensor(weights), torch.tensor(experts), torch.tensor(scores))


def observe(load: ExpertLoadRecorder, layers: Sequence[Routing | None], counted: list[TokenGroup]) -> None:
    load.observe(StepRouting.stack(layers), counted)


def test_counts_entropy_and_imbalance_by_hand() -> None:
    load = ExpertLoadRecorder({1: 4})
    observe(
        load,
        (None, routing([[0, 1], [0, 2]], [[0.5, 0.5], [1.0, 0.0]], [[0.0] * 4, [50.0, 0.0, 0.0, 0.0]])),
        [TokenGroup("chat", "", 2)],
    )
    observe(load, (None, routing([[0, 1]], [[0.5, 0.5]], [[0.0] * 4])), ONE)
    assert load.loads[0].tokens_per_expert == (0, 0, 0, 0), "nothing is counted before it is worth it"
    load.flush()
    (layer,) = load.loads
    assert layer.layer == 1
    assert layer.tokens_per_expert == (3, 2, 0, 0)  # weight zero is not dispatched
    assert layer.entropy == pytest.approx(2 * math.log(4) / 3)
    assert layer.imbalance == pytest.approx((3 - 1.25) / 1.25)


def test_steps_with_different_numbers_of_choices_are_counted_together() -> None:
    load = ExpertLoadRecorder({0: 2})
    observe(load, (routing([[0]], [[1.0]], [[0.0, 0.0]]),), ONE)
    observe(load, (routing([[1, 0]], [[1.0, 1.0]], [[0.0, 0.0]]),), ONE)
    load.flush()
    assert load.loads[0].tokens_per_expert == (2, 1)


def test_a_busy_engine_counts_every_few_steps_and_keeps_no_more() -> None:
    load = ExpertLoadRecorder({0: 2})
    for _ in range(STEPS_KEPT):
        observe(load, (routing([[0]], [[1.0]], [[0.0, 0.0]]),), ONE)
    assert load.loads[0].tokens_per_expert == (STEPS_KEPT, 0)
    load.flush()
    assert load.loads[0].tokens_per_expert == (STEPS_KEPT, 0)


def test_dense_layers_are_left_out() -> None:
    load = ExpertLoadRecorder({})
    observe(load, (None, None), ONE)
    load.flush()
    assert load.loads == ()


def test_counts_are_there_before_anything_is_routed() -> None:
    engine = Engine(tiny_network(), engine_config())
    assert [load.tokens_per_expert for load in engine.stats().layers] == [(0, 0, 0, 0)] * 4
    run(engine, [request("a", [5, 6, 7])])
    assert all(sum(load.tokens_per_expert) > 0 for load in engine.stats().layers)


def test_the_layers_of_a_long_step_are_counted_like_those_of_short_ones() -> None:
    """Many tokens are counted a few layers at a time."""
    generator = torch.Generator().manual_seed(1)
    scores_LTE = torch.randn(5, TOKENS_KEPT // 2, 4, generator=generator)
    chosen = [(scores_TE.softmax(-1).topk(2), scores_TE) for scores_TE in scores_LTE]
    routings = [Routing(top.values, top.indices, scores_TE) for top, scores_TE in chosen]
    long, short = ExpertLoadRecorder(dict.fromkeys(range(5), 4)), ExpertLoadRecorder(dict.fromkeys(range(5), 4))
    observe(long, tuple(routings), [TokenGroup("chat", "", TOKENS_KEPT // 2)])
    for start in range(0, TOKENS_KEPT // 2, 16):
        rows = slice(start, start + 16)
        step = tuple(Routing(r.weights_TK[rows], r.experts_TK[rows], r.router_logits_TE[rows]) for r in routings)
        observe(short, step, [TokenGroup("chat", "", 16)])
    for load in (long, short):
        load.flush()
    assert [load.tokens_per_expert for load in long.loads] == [load.tokens_per_expert for load in short.loads]
    assert [load.entropy for load in long.loads] == pytest.approx([load.entropy for load in short.loads])
    assert len({load.tokens_per_expert for load in long.loads}) == 5, "each layer has its own counts"


def test_long_steps_are_counted_at_once() -> None:
    load = ExpertLoadRecorder({0: 4})
    observe(
        load,
        (routing([[0, 1]] * TOKENS_KEPT, [[0.5, 0.5]] * TOKENS_KEPT, [[0.0] * 4] * TOKENS_KEPT),),
        [TokenGroup("chat", "", TOKENS_KEPT)],
    )
    assert load.loads[0].tokens_per_expert == (TOKENS_KEPT, TOKENS_KEPT, 0, 0)
    observe(load, (routing([[2, 3]], [[0.5, 0.5]], [[0.0] * 4]),), ONE)
    assert load.loads[0].tokens_per_expert == (TOKENS_KEPT, TOKENS_KEPT, 0, 0), "a short one after it is not"


def test_the_windows_tell_tasks_and_tenants_apart() -> None:
    load = ExpertLoadRecorder({0: 4, 2: 2})
    layers = (
        routing([[0, 1], [2, 0], [3, 1]], [[0.5, 0.5], [1.0, 0.0], [0.5, 0.5]], [[0.0] * 4] * 3),
        None,
        routing([[0], [1], [1]], [[1.0]] * 3, [[0.0] * 2] * 3),
    )
    observe(load, layers, [TokenGroup("chat", "a", 1), TokenGroup("translate", "b", 1), TokenGroup("translate", "", 1)])
    observe(load, (routing([[3]], [[1.0]], [[0.0] * 4]), None, routing([[0]], [[1.0]], [[0.0] * 2])), ONE)
    load.flush()
    assert load.by_task.load(1) == (
        LabelLoad("chat", 2, ((1, 1, 0, 1), (2, 0))),
        LabelLoad("translate", 2, ((0, 1, 1, 1), (0, 2))),
    )
    assert load.by_tenant.load(1) == (
        LabelLoad("a", 1, ((1, 1, 0, 0), (1, 0))),
        LabelLoad("b", 1, ((0, 0, 1, 0), (0, 1))),
    )


def test_masked_scores_have_an_entropy() -> None:
    load = ExpertLoadRecorder({0: 2})
    observe(load, (routing([[0]], [[1.0]], [[0.0, -math.inf]]),), ONE)
    load.flush()
    assert load.loads[0].entropy == pytest.approx(0.0)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_scores_that_are_not_finite_leave_the_entropy_of_the_others(broken: float) -> None:
    load = ExpertLoadRecorder({0: 4})
    scores = [[0.0] * 4, [broken] * 4, [50.0, 0.0, 0.0, 0.0]]
    observe(load, (routing([[0], [1], [2]], [[1.0], [math.nan], [1.0]], scores),), [TokenGroup("chat", "", 3)])
    observe(load, (routing([[3]], [[1.0]], [[0.0] * 4]),), ONE)
    load.flush()
    assert load.loads[0].entropy == pytest.approx(2 * math.log(4) / 3)
    assert load.loads[0].tokens_per_expert == (1, 1, 1, 1)


def test_an_entropy_without_any_finite_scores_is_zero() -> None:
    load = ExpertLoadRecorder({0: 2})
    observe(load, (routing([[0]], [[1.0]], [[math.nan] * 2]),), ONE)
    load.flush()
    assert load.loads[0].entropy == 0.0
