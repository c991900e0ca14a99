"""POST /v1/routing/what-if: what a text would be to the model with other experts."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from server.api.dependencies import Context
from server.api.request_model import ModelName, NonBlankText, Text
from server.api.response_model import UsageInfo, Warnings, usage_of
from server.api.routing_fields import ExpertChoiceFields
from server.api.scheduling import SchedulingFields
from server.engine.types import RoutingParams
from server.errors import InvalidRequestError
from server.generation.prompt import Prompt
from server.tasks.label_scoring import with_continuation
from server.tasks.what_if import ComparedToken, compare_routing

router = APIRouter(prefix="/v1", tags=["Server"])


class WhatIfRequest(SchedulingFields, ExpertChoiceFields):
    model: ModelName | None = None
    prompt: Text
    completion: Annotated[NonBlankText, Field(description="Only its tokens are compared, after the prompt.")] | None = (
        None
    )


class WhatIfToken(BaseModel):
    id: int
    token: str
    logprob: float
    changed_logprob: float
    difference: float


class WhatIfTotal(BaseModel):
    """Sums over the tokens."""

    logprob: float
    changed_logprob: float
    difference: float


class WhatIfResponse(BaseModel):
    """`difference` is `changed_logprob - logprob`, in nats: negative where the change makes a token less likely."""

    id: str
    object: Literal["routing.what_if"] = "routing.what_if"
    model: str
    tokens: list[WhatIfToken]
    total: WhatIfTotal
    usage: UsageInfo
    warnings: Warnings = []


@router.post("/routing/what-if", summary="The same text with other experts")
async def what_if(body: WhatIfRequest, context: Context) -> WhatIfResponse:
    """Compare the log-probability of each token with masked or forced experts, or another number of them, and without.

    The text is the prompt, or the `completion` after it.
    """
    service = context.accept(body)
    changed = context.admission.routing
    plain = RoutingParams(adaptive=changed.adaptive, task=changed.task)
    if changed == plain:
        raise InvalidRequestError("Give mask_experts, force_experts or experts_per_token.", param="mask_experts")
    context.admission.routing = plain
    prompt = await service.text_prompt(body.prompt)
    if body.completion is not None:
        completion = await service.encode(body.completion, parse_special=False, add_special_tokens=False)
        prompt = with_continuation(prompt, completion)
    _check_length(prompt)
    tokens = await context.until_disconnect(compare_routing(context.admission, prompt, changed))
    return WhatIfResponse(
        id=f"what-if-{context.admission.request_id}",
        model=context.admission.model_name,
        tokens=[_token(token) for token in tokens],
        total=_total(tokens),
        usage=usage_of(context.admission.generations),
        warnings=body.warnings,
    )


def _check_length(prompt: Prompt) -> None:
    if len(prompt.token_ids) < 2:
        raise InvalidRequestError("The text has no token that another one precedes: make it longer.", param="prompt")


def _token(compared: ComparedToken) -> WhatIfToken:
    return WhatIfToken(
        id=compared.token.token_id,
        token=compared.token.text,
        logprob=compared.logprob,
        changed_logprob=compared.changed_logprob,
        difference=compared.changed_logprob - compared.logprob,
    )


def _total(tokens: Sequence[ComparedToken]) -> WhatIfTotal:
    before = math.fsum(token.logprob for token in tokens)
    after = math.fsum(token.changed_logprob for token in tokens)
    return WhatIfTotal(logprob=before, changed_logprob=after, difference=after - before)
