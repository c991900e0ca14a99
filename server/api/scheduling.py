"""When a request is computed: its priority and its deadline, from its body, its headers and its API key."""

import math
import time
from dataclasses import replace
from typing import Annotated

from fastapi import Request
from pydantic import Field

from server.api.request_model import RequestBody, WholeNumber
from server.engine.types import SchedulingParams
from server.errors import ForbiddenError, InvalidRequestError
from server.middleware.api_keys import ApiKey

TIMEOUT_HEADER = "X-Request-Timeout"
MAX_TIMEOUT = 86_400.0  # seconds
MAX_PRIORITY = 1000


class SchedulingFields(RequestBody):
    priority: (
        Annotated[
            int,
            Field(
                ge=-MAX_PRIORITY,
                le=MAX_PRIORITY,
                description="Lower is more urgent. Below the priority of the API key (0) only where the key allows it.",
            ),
            WholeNumber,
        ]
        | None
    ) = None
    timeout: (
        Annotated[
            float,
            Field(
                gt=0,
                le=MAX_TIMEOUT,
                description="Seconds until the answer ends with what it has; refused if its turn comes later. The "
                f"header {TIMEOUT_HEADER} says the same.",
            ),
        ]
        | None
    ) = None


def key_scheduling(key: ApiKey | None, background: int = 0) -> SchedulingParams:
    """What applies to the requests of a key. Those without one share a tenant. `background` is added to priorities."""
    return SchedulingParams(background) if key is None else SchedulingParams(key.priority + background, key.name)


def request_scheduling(request: Request, body: RequestBody, default: SchedulingParams) -> SchedulingParams:
    """The scheduling of a request that begins now; `default` is that of its key.

    Raises ForbiddenError for a priority that the key may not use, and InvalidRequestError for a header that is not a
    number.
    """
    fields = body if isinstance(body, SchedulingFields) else None
    priority = default.priority if fields is None or fields.priority is None else fields.priority
    if request.scope.get("is_batch"):
        priority = default.priority  # all of a batch waits for everybody else
    key: ApiKey | None = request.scope.get("api_key")
    if priority < default.priority and not (key is not None and key.may_set_priority):
        raise ForbiddenError(
            f"priority is {priority}, but this API key may use {default.priority} or more (less urgent).",
            param="priority",
        )
    given = (fields.timeout if fields is not None else None, _header_timeout(request))
    timeout = min((seconds for seconds in given if seconds is not None), default=None)
    deadline = None if timeout is None else time.monotonic() + timeout
    return replace(default, priority=priority, deadline=deadline)


def _header_timeout(request: Request) -> float | None:
    text = request.headers.get(TIMEOUT_HEADER)
    if text is None:
        return None
    try:
        seconds = float(text[:32])
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_TIMEOUT:  # NaN too
        raise InvalidRequestError(
            f"{TIMEOUT_HEADER} is not a number of seconds: give more than 0 and at most {MAX_TIMEOUT:.0f}.",
            param=TIMEOUT_HEADER,
        )
    return seconds
