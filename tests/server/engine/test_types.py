"""Every message of the engine is a plain value: encoded and decoded again it is equal, so it could cross processes."""

from dataclasses import fields, is_dataclass, replace
from types import MappingProxyType
from typing import Any

import pytest
from pydantic import TypeAdapter

from server.engine import types
from server.engine.types import (
    EmbedRequest,
    EngineOutput,
    EngineStats,
    FinishReason,
    GenerateRequest,
    LabelLoad,
    LayerLoad,
    RequestTimes,
    ReturnedRouting,
    RoutingParams,
    SamplingParams,
    SchedulingParams,
    ScoreRequest,
    StepTokens,
    ThinkingBudget,
    TokenLogprobs,
    TokenRouting,
)

SAMPLING = SamplingParams(
    9,
    temperature=0.3,
    top_k=4,
    logit_bias=((5, 2.5), (1, -100.0)),
    stop_token_ids=frozenset({3, 7}),
    seed=2**63 - 1,
    logprobs=2,
    thinking_budget=ThinkingBudget(5, (1,), (2, 3), (4, 2, 3)),
)
COMMON: dict[str, Any] = {
    "boundaries": (1, 2),
    "arrival_time": 1.5,
    "cache_salt": "key \N{SNOWMAN}",
    "adapter": "german",
    "scheduling": SchedulingParams(-3, "tenant"),
    "routing": RoutingParams(2, False, ((0, (1, 3)),), ((2, (0,)),), ReturnedRouting((0, 2), 1, True), "chat"),
    "snapshot_token_ids": frozenset({8}),
}
LOGPROBS = (TokenLogprobs(4, -0.1, ((4, -0.1), (6, -(2.0**-30)))),)
TIMES = RequestTimes(0.5, 0.6, None, 0.7)
ROUTING = (TokenRouting(((1, 0), ()), ((0.7, 0.3), ())),)
MESSAGES: list[Any] = [
    SAMPLING,
    ThinkingBudget(5, (1,), (2, 3), (4, 2, 3)),
    GenerateRequest("g", (3, 4, 5), SAMPLING, **COMMON),
    ScoreRequest("s", (3, 4, 5), 2, **COMMON),
    EmbedRequest("e", (3, 4, 5), "mean", **COMMON),
    LOGPROBS[0],
    types.ThinkingBudget(5, (6,), (7, 8), (9,)),
    TIMES,
    ReturnedRouting((0, 2), 1, True, 5),
    COMMON["routing"],
    COMMON["scheduling"],
    ROUTING[0],
    EngineOutput(
        "g",
        (4, 6),
        LOGPROBS * 2,
        LOGPROBS,
        1,
        FinishReason.STOP,
        "because",
        TIMES,
        (0.1, -1e30),
        True,
        ROUTING * 2,
        ROUTING,
        1,
    ),
    LayerLoad(1, (30, 10), 0.6, 0.5),
    LabelLoad("chat", 20, ((30, 10), (0, 40))),
    StepTokens().add(5),
    EngineStats(
        *range(15),
        healthy=True,
        layers=(LayerLoad(1, (30, 10), 0.6, 0.5),),
        experts_per_token=1,
        step_tokens=StepTokens().add(3),
    ),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_survives_encoding(message: Any) -> None:
    adapter = TypeAdapter(type(message))
    decoded = adapter.validate_json(adapter.dump_json(message))
    assert decoded == message
    assert type(decoded) is type(message)
    assert hash(decoded) == hash(message), "values all the way down, no lists or dicts"


def test_no_message_is_left_out() -> None:
    """All messages are tested, with values that differ from the defaults, so that a lost field shows."""
    messages = {
        kind
        for kind in vars(types).values()
        if isinstance(kind, type) and is_dataclass(kind) and not kind.__name__.startswith("_")
    }
    assert {type(message) for message in MESSAGES} == messages
    for message in MESSAGES[2:5]:
        assert all(getattr(message, field.name) != field.default for field in fields(message))


def test_a_mapping_proxy_would_not_survive() -> None:
    """Negative control: the type that `logit_bias` had before."""
    wrong = replace(SAMPLING, logit_bias=MappingProxyType({5: 2.5}))  # type: ignore[arg-type]
    adapter = TypeAdapter(SamplingParams)
    with pytest.raises(ValueError, match="Unable to serialize"):
        adapter.dump_json(wrong)
