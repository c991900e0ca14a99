"""GET /v1/routing: how busy the experts were in the last minutes."""

import asyncio
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel

from model.load_balance import entropy, idle_experts, load_shares, max_violation
from server.api.dependencies import Service, is_admin
from server.api.response_model import Omittable
from server.engine.routing.load_window import MAX_MINUTES
from server.engine.types import LabelLoad
from server.generation.model_facts import RouterFacts
from server.generation.service import GenerationService

router = APIRouter(prefix="/v1", tags=["Server"])

ALARMING_DRIFT = 0.1  # bits
FEWEST_TOKENS = 2000  # from which drift tells something


class ExpertsPerToken(BaseModel):
    """`current` is what requests get now that ask for no number."""

    default: int
    min: int
    max: int
    current: int


class LayerRouting(BaseModel):
    """`share` of the (token, expert) pairs by expert. `entropy` of it is in bits; `imbalance` is MaxVio."""

    layer: int
    num_experts: int
    share: list[float]
    experts_per_token: float
    entropy: float
    imbalance: float
    idle_experts: list[int]
    drift: Omittable[float] = None


class TaskRouting(BaseModel):
    """`share[i]` belongs to `layers[i]` of the answer."""

    task: str
    num_tokens: int
    share: list[list[float]]


class KeyRouting(BaseModel):
    """The same of an API key, by its name."""

    key: str
    num_tokens: int
    share: list[list[float]]


class BaselineDrift(BaseModel):
    """`drift` is the mean over layers of the Jensen-Shannon divergence in bits from the baseline's shares."""

    num_tokens: int
    drift: float | None
    alarm: str | None


class RoutingReport(BaseModel):
    object: str = "routing"
    model: str
    router: str | None
    experts_per_token: ExpertsPerToken | None
    minutes: int
    num_tokens: int
    layers: list[LayerRouting]
    tasks: list[TaskRouting]
    keys: Omittable[list[KeyRouting]] = None
    baseline: BaselineDrift | None


@router.get("/routing", summary="The load of the experts")
async def routing(
    request: Request, service: Service, minutes: Annotated[int, Query(ge=1, le=MAX_MINUTES)] = 5
) -> RoutingReport:
    """The share of tokens by expert, layer and task in the last minutes, and how far it is from the usual one.

    By API key too, for a key with the scope admin.
    """
    current = service.engine.stats().experts_per_token
    with_keys = request.scope.get("api_key") is not None and is_admin(request)
    return await asyncio.to_thread(_report, service, minutes, current, with_keys)


def _report(service: GenerationService, minutes: int, current: int | None, with_keys: bool) -> RoutingReport:
    """Sum over tasks, and compare with the baseline."""
    facts, loads = service.facts.router, service.engine.task_loads(minutes)
    layers = _layers(facts, loads) if facts is not None else []
    num_tokens = sum(load.num_tokens for load in loads)
    return RoutingReport(
        model=service.model_id,
        router=facts.name if facts else None,
        experts_per_token=_experts_per_token(facts, current),
        minutes=minutes,
        num_tokens=num_tokens,
        layers=layers,
        tasks=[_task(load) for load in loads],
        keys=[_key(load) for load in service.engine.tenant_loads(minutes)] if with_keys else None,
        baseline=_baseline(facts, layers, num_tokens),
    )


def _experts_per_token(facts: RouterFacts | None, current: int | None) -> ExpertsPerToken | None:
    if facts is None or facts.experts_per_token is None:
        return None
    own = facts.experts_per_token
    return ExpertsPerToken(
        default=own, min=1, max=facts.most_experts_per_token, current=own if current is None else current
    )


def _layers(facts: RouterFacts, loads: Sequence[LabelLoad]) -> list[LayerRouting]:
    num_tokens = sum(load.num_tokens for load in loads)
    found = []
    for place, (layer, num_experts) in enumerate(facts.num_experts.items()):
        pairs = [sum(column) for column in zip(*(load.pairs[place] for load in loads), strict=True)]
        found.append(_layer(layer, pairs or [0] * num_experts, num_tokens, facts))
    return found


def _layer(layer: int, pairs: Sequence[int], num_tokens: int, facts: RouterFacts) -> LayerRouting:
    share = load_shares(pairs)
    return LayerRouting(
        layer=layer,
        num_experts=len(pairs),
        share=share,
        experts_per_token=sum(pairs) / max(num_tokens, 1),
        entropy=entropy(share),
        imbalance=max_violation(pairs),
        idle_experts=idle_experts(pairs),
        drift=facts.baseline.drift(layer, share) if facts.baseline else None,
    )


def _task(load: LabelLoad) -> TaskRouting:
    return TaskRouting(task=load.label, num_tokens=load.num_tokens, share=[load_shares(pairs) for pairs in load.pairs])


def _key(load: LabelLoad) -> KeyRouting:
    return KeyRouting(key=load.label, num_tokens=load.num_tokens, share=[load_shares(pairs) for pairs in load.pairs])


def _baseline(facts: RouterFacts | None, layers: Sequence[LayerRouting], num_tokens: int) -> BaselineDrift | None:
    if facts is None or facts.baseline is None:
        return None
    drifts = {layer.layer: layer.drift for layer in layers if layer.drift is not None}
    worst = max(drifts, key=lambda layer: drifts[layer], default=None)
    return BaselineDrift(
        num_tokens=facts.baseline.num_tokens,
        drift=sum(drifts.values()) / len(drifts) if drifts else None,
        alarm=None if worst is None or num_tokens < FEWEST_TOKENS else _alarm(worst, drifts[worst]),
    )


def _alarm(layer: int, drift: float) -> str | None:
    if drift <= ALARMING_DRIFT:
        return None
    return (
        f"The experts of layer {layer} are not used as in the baseline: the divergence is {drift:.3f} bits, "
        f"more than {ALARMING_DRIFT}."
    )
