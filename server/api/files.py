"""/v1/files: the input files of batches and their outputs, in OpenAI's shapes."""

from collections.abc import Sequence
from typing import Annotated, Literal, Protocol, TypeVar

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import FileResponse
from pydantic import BaseModel

from server.api.multipart import FileForm
from server.api.openapi_errors import errors
from server.batches.files import FileDescription
from server.batches.runner import BatchRunner
from server.batches.types import StoredFile
from server.errors import InvalidRequestError, NotFoundError
from server.middleware.api_keys import ApiKey

router = APIRouter(prefix="/v1/files", tags=["Batches"])

PURPOSE = "batch"
MIN_SECONDS, MAX_SECONDS = 3600, 30 * 86_400  # OpenAI's own bounds of `expires_after`
MAX_DIGITS = 20  # of these seconds
MAX_NAME = 256  # characters of a file name

_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "purpose": {"type": "string", "enum": [PURPOSE]},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {
                            "type": "integer", "minimum": MIN_SECONDS, "maximum": MAX_SECONDS,
                        },
                        "file": {"type": "string", "format": "binary"},
                    },
                }
            }
        },
    }
}  # fmt: skip


class FileObject(BaseModel):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"


class FileList(BaseModel):
    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(BaseModel):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


async def get_batches(request: Request) -> BatchRunner:
    """Raises NotFoundError if batches are off."""
    batches: BatchRunner | None = request.app.state.batches
    if batches is None:
        raise NotFoundError("Files and batches are off on this server: start it with --batch-dir DIRECTORY.")
    return batches


async def get_owner(request: Request) -> str:
    """Whose files and batches a request is about: the name of its API key, empty on a server without keys."""
    key: ApiKey | None = request.scope.get("api_key")
    return key.name if key is not None else ""


Batches = Annotated[BatchRunner, Depends(get_batches)]
Owner = Annotated[str, Depends(get_owner)]
Limit = Annotated[int, Query(ge=1, le=10_000)]
After = Annotated[str | None, Query(max_length=256, description="The id that the list goes on after.")]


@router.post("", summary="Upload a file", openapi_extra=_FORM)
async def upload_file(request: Request, batches: Batches, owner: Owner) -> FileObject:
    """Store the input file of a batch: a line of JSON for each request. It is written to the disk as it arrives."""
    form = FileForm(request.headers.get("content-type", ""))
    threads = batches.directory.threads
    upload = await threads.run(batches.directory.files.begin)
    try:
        async for chunk in request.stream():
            if data := form.feed(chunk):
                await threads.run(upload.write, data)
        return _shown(await threads.run(upload.commit, _description(form, owner)))
    except BaseException:
        await threads.run(upload.discard)
        raise


def _description(form: FileForm, owner: str) -> FileDescription:
    """What a complete form says. Raises InvalidRequestError."""
    if not form.is_complete:
        raise InvalidRequestError("The form ends before its last boundary.")
    if form.filename is None:
        raise InvalidRequestError("The form has no file.", param="file", code="missing_required_parameter")
    if form.fields.get("purpose") != PURPOSE:
        raise InvalidRequestError("Files are kept for the purpose 'batch' only.", param="purpose")
    return FileDescription(owner, form.filename[:MAX_NAME] or "file", PURPOSE, _seconds(form.fields))


def _seconds(fields: dict[str, str]) -> int | None:
    text = fields.get("expires_after[seconds]")
    if text is None:
        return None
    if fields.get("expires_after[anchor]") != "created_at":
        raise InvalidRequestError("The anchor must be 'created_at'.", param="expires_after.anchor")
    seconds = int(text) if text.isdecimal() and len(text) <= MAX_DIGITS else 0
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        message = f"Give {MIN_SECONDS} to {MAX_SECONDS} seconds."
        raise InvalidRequestError(message, param="expires_after.seconds")
    return seconds


@router.get("", summary="List the files")
async def list_files(
    batches: Batches,
    owner: Owner,
    after: After = None,
    limit: Limit = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: Annotated[str | None, Query(max_length=64)] = None,
) -> FileList:
    """The files, newest first."""
    found = [file for file in batches.directory.files.list(owner) if purpose in (None, file.purpose)]
    page, has_more = page_of(found if order == "desc" else found[::-1], after, limit)
    shown = [_shown(file) for file in page]
    return FileList(
        data=shown, has_more=has_more, first_id=shown[0].id if shown else None, last_id=shown[-1].id if shown else None
    )


@router.get("/{file_id}", summary="Describe a file", responses=errors(404))
async def get_file(file_id: str, batches: Batches, owner: Owner) -> FileObject:
    """Size, name and times of a file."""
    return _shown(batches.directory.files.get(file_id, owner))


@router.get("/{file_id}/content", summary="Download a file", responses=errors(404), response_class=FileResponse)
async def get_content(file_id: str, batches: Batches, owner: Owner) -> FileResponse:
    """The bytes of a file, read from the disk as they are sent."""
    files = batches.directory.files
    file, path = files.get(file_id, owner), files.path(file_id)
    try:
        found = await batches.directory.threads.run(path.stat)
    except FileNotFoundError:  # deleted since it was looked up
        raise NotFoundError(f"There is no file '{file_id}'.") from None
    return FileResponse(path, media_type="application/jsonl", filename=file.filename, stat_result=found)


@router.delete("/{file_id}", summary="Delete a file", responses=errors(404, 409))
async def delete_file(file_id: str, batches: Batches, owner: Owner) -> DeletedFile:
    """Delete a file, unless a batch that is not finished reads it."""
    await batches.directory.threads.run(batches.directory.delete_file, file_id, owner)
    return DeletedFile(id=file_id)


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


Item = TypeVar("Item", bound=_HasId)


def page_of(items: Sequence[Item], after: str | None, limit: int) -> tuple[Sequence[Item], bool]:
    """The items that follow the one with the id `after`, and whether there are more. InvalidRequestError for others."""
    start = 0
    if after is not None:
        start = next((index + 1 for index, item in enumerate(items) if item.id == after), -1)
        if start < 0:
            raise InvalidRequestError("There is nothing with this id in the list.", param="after")
    return items[start : start + limit], len(items) > start + limit


def _shown(file: StoredFile) -> FileObject:
    return FileObject(
        id=file.id,
        bytes=file.bytes,
        created_at=file.created_at,
        expires_at=file.expires_at,
        filename=file.filename,
        purpose=file.purpose,
    )
