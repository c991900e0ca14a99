"""What is known of files and batches, and the limits they have."""

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

ENDPOINTS = (
    *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"),
    *("/v1/translate", "/v1/summarize", "/v1/analyze", "/v1/generate"),
)


def new_id(prefix: str) -> str:
    """A unique id; later ones sort after earlier ones."""
    return f"{prefix}{time.time_ns():016x}{uuid.uuid4().hex[:16]}"


class BatchStatus(StrEnum):
    """OpenAI's statuses."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in (self.COMPLETED, self.FAILED, self.EXPIRED, self.CANCELLED)


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds of what clients may store. Sizes in bytes."""

    max_file_bytes: int = 100 * 2**20
    max_disk_bytes: int = 4 * 2**30
    max_line_bytes: int = 2 * 2**20
    max_requests: int = 50_000  # of a batch; OpenAI's own limit
    max_files: int = 2_000
    max_unfinished: int = 64  # batches
    max_batches: int = 2_000  # finished ones included; the oldest finished one makes room for a new one


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a client, or the output of a batch. `owner` is the name of the API key, empty without keys."""

    id: str
    owner: str
    filename: str
    purpose: str
    bytes: int
    created_at: int
    expires_at: int | None = None

    @property
    def has_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= time.time()


@dataclass(frozen=True, slots=True)
class BatchError:
    """Why a batch failed; `line` counts the lines of its input file from 1."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """`completed` requests were answered with status 200, `failed` ones with another or not at all."""

    total: int = 0
    completed: int = 0
    failed: int = 0

    @property
    def open(self) -> int:
        """Requests without a result."""
        return self.total - self.completed - self.failed


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch. `times` has a Unix time for each status that it has reached, such as `in_progress_at`."""

    id: str
    owner: str
    endpoint: str | None  # None: each request names its own, for files that a command runs
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    metadata: Mapping[str, str] | None = None
    output_seconds: int | None = None  # how long the output files are kept; None: until they are deleted
    status: BatchStatus = BatchStatus.VALIDATING
    times: Mapping[str, int] = field(default_factory=dict)
    counts: RequestCounts = RequestCounts()
    errors: tuple[BatchError, ...] = ()
    output_file_id: str | None = None
    error_file_id: str | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The batch that `dataclasses.asdict` made `value` of. Raises KeyError, TypeError or ValueError."""
        return cls(
            **{
                **value,
                "status": BatchStatus(value["status"]),
                "counts": RequestCounts(**value["counts"]),
                "errors": tuple(BatchError(**error) for error in value["errors"]),
            }
        )
