"""/v1/batches: files of requests that are answered in the background, in OpenAI's shapes."""

import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from pydantic import AfterValidator, BaseModel, Field
from pydantic_core import PydanticCustomError

from server.api.dependencies import name_ignored_fields
from server.api.files import MAX_SECONDS, MIN_SECONDS, After, Batches, Limit, Owner, page_of
from server.api.openapi_errors import errors
from server.api.request_model import RequestBody, RequestModel, WholeNumber
from server.batches.store import BatchDescription
from server.batches.types import ENDPOINTS, Batch

router = APIRouter(prefix="/v1/batches", tags=["Batches"])

MAX_PAIRS, MAX_KEY, MAX_VALUE = 16, 64, 512  # OpenAI's own bounds of metadata
MAX_WINDOW = 14 * 86_400  # seconds
_WINDOW = re.compile("([1-9][0-9]{0,5})([mhd])")
_UNIT_SECONDS = {"m": 60, "h": 3600, "d": 86_400}


def _seconds(window: str) -> int | None:
    match = _WINDOW.fullmatch(window)
    seconds = int(match[1]) * _UNIT_SECONDS[match[2]] if match else MAX_WINDOW + 1
    return seconds if seconds <= MAX_WINDOW else None


def _window(text: str) -> str:
    if _seconds(text) is None:
        raise PydanticCustomError("completion_window", "give minutes, hours or days up to 14d, such as 24h")
    return text


def _endpoint(text: str) -> str:
    if text not in ENDPOINTS:
        raise PydanticCustomError("endpoint", "give one of {known}", {"known": ", ".join(ENDPOINTS)})
    return text


Endpoint = Annotated[str, AfterValidator(_endpoint), Field(json_schema_extra={"enum": [*ENDPOINTS]})]
Window = Annotated[str, AfterValidator(_window), Field(max_length=16, description="Such as 24h; 14d at most.")]
MetadataKey = Annotated[str, Field(max_length=MAX_KEY)]
MetadataValue = Annotated[str, Field(max_length=MAX_VALUE)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=MAX_PAIRS)]


class OutputExpiry(RequestModel):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=MIN_SECONDS, le=MAX_SECONDS), WholeNumber]


class CreateBatchRequest(RequestBody):
    input_file_id: Annotated[str, Field(max_length=256)]
    endpoint: Endpoint
    completion_window: Window
    metadata: Metadata | None = None
    output_expires_after: OutputExpiry | None = None


class BatchErrorObject(BaseModel):
    code: str
    message: str
    line: int | None
    param: str | None


class BatchErrors(BaseModel):
    object: Literal["list"] = "list"
    data: list[BatchErrorObject]


class RequestCountsObject(BaseModel):
    total: int
    completed: int
    failed: int


class BatchObject(BaseModel):
    """`request_counts` tells how far the batch is. `errors` says why it failed."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCountsObject
    metadata: dict[str, str] | None


class BatchList(BaseModel):
    object: Literal["list"] = "list"
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


@router.post("", summary="Create a batch")
async def create_batch(body: CreateBatchRequest, batches: Batches, owner: Owner, response: Response) -> BatchObject:
    """Answer the requests of an uploaded file in the background, when the server has time for them.

    The batch survives restarts of the server. It is checked at first: `status` is `failed`, and `errors` names the
    lines, if the file has requests that cannot be posted to `endpoint`.
    """
    name_ignored_fields(body, response)
    expiry = body.output_expires_after
    description = BatchDescription(
        owner=owner,
        endpoint=body.endpoint,
        input_file_id=body.input_file_id,
        completion_window=body.completion_window,
        seconds=_seconds(body.completion_window) or 0,
        metadata=body.metadata,
        output_seconds=None if expiry is None else expiry.seconds,
    )
    return _shown(await batches.create(description))


@router.get("", summary="List the batches")
async def list_batches(batches: Batches, owner: Owner, after: After = None, limit: Limit = 20) -> BatchList:
    """The batches, newest first."""
    page, has_more = page_of(batches.directory.batches.list(owner), after, limit)
    shown = [_shown(batch) for batch in page]
    return BatchList(
        data=shown, has_more=has_more, first_id=shown[0].id if shown else None, last_id=shown[-1].id if shown else None
    )


@router.get("/{batch_id}", summary="Describe a batch", responses=errors(404))
async def get_batch(batch_id: str, batches: Batches, owner: Owner) -> BatchObject:
    """Status and progress of a batch, and the files of its answers when it has ended."""
    return _shown(batches.directory.batches.get(batch_id, owner))


@router.post("/{batch_id}/cancel", summary="Cancel a batch", responses=errors(409))
async def cancel_batch(batch_id: str, batches: Batches, owner: Owner) -> BatchObject:
    """End a batch early. Its files have what was answered until then, and an error for each other request."""
    return _shown(await batches.cancel(batch_id, owner))


def _shown(batch: Batch) -> BatchObject:
    details: dict[str, Any] = dict(batch.times)
    counts = batch.counts
    return BatchObject(
        id=batch.id,
        endpoint=batch.endpoint,
        errors=_errors(batch),
        input_file_id=batch.input_file_id,
        completion_window=batch.completion_window,
        status=batch.status,
        output_file_id=batch.output_file_id,
        error_file_id=batch.error_file_id,
        created_at=batch.created_at,
        expires_at=batch.expires_at,
        request_counts=RequestCountsObject(total=counts.total, completed=counts.completed, failed=counts.failed),
        metadata=None if batch.metadata is None else dict(batch.metadata),
        **details,
    )


def _errors(batch: Batch) -> BatchErrors | None:
    if not batch.errors:
        return None
    return BatchErrors(
        data=[
            BatchErrorObject(code=error.code, message=error.message, line=error.line, param=error.param)
            for error in batch.errors
        ]
    )
