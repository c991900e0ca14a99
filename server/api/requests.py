"""DELETE /v1/requests/{id}: cancel a running request."""

import re
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from server.errors import RequestNotFoundError
from server.generation.admission import Admission
from server.middleware.api_keys import ApiKey, KeyScope

router = APIRouter(tags=["Server"])

_ID = re.compile(r"[0-9a-f]{32}")  # with any prefix, such as chatcmpl-


class CancelledRequest(BaseModel):
    id: str
    object: Literal["request"] = "request"
    cancelled: Literal[True] = True


@router.delete("/v1/requests/{request_id}", summary="Cancel a running request")
async def cancel(request_id: str, request: Request) -> CancelledRequest:
    """The id is that of X-Request-Id or of the answer. The request ends with the finish reason `abort` and its text so
    far. An API key may cancel its own requests, one with the scope `admin` those of all keys.
    """
    running: dict[str, Admission] = request.app.state.running_requests
    key: ApiKey | None = request.scope.get("api_key")
    found = _ID.search(request_id[:256])
    admission = running.get(found[0]) if found else None
    if admission is None or not _may_cancel(key, admission):
        raise RequestNotFoundError
    admission.cancel()
    return CancelledRequest(id=request_id)


def _may_cancel(key: ApiKey | None, admission: Admission) -> bool:
    """Without API keys, every client may cancel every request."""
    return key is None or key.name == admission.scheduling.tenant or KeyScope.ADMIN in key.scopes
