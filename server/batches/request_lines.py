"""The lines of input and output files: `{"custom_id", "method", "url", "body"}` in, a response or an error out."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.batches.journal import JournalDamagedError, RequestPosition
from server.batches.types import ENDPOINTS, BatchError, BatchLimits, new_id

MAX_ID = 256  # characters
MAX_ERRORS = 100  # that a failed batch tells


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """One request of a batch. `body` is the JSON that is posted to `url`, with streaming off."""

    custom_id: str
    url: str
    body: bytes


class InvalidLineError(Exception):
    """A line that is not a valid request of a batch."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param


class InputValidator:
    """Reads an input file once, in bounded memory. Iterate over `requests`, then look at `errors`.

    `endpoint`: the one that all requests must name; None: any of ENDPOINTS.
    """

    def __init__(self, path: Path, endpoint: str | None, limits: BatchLimits) -> None:
        self._path, self._endpoint, self._limits = path, endpoint, limits
        self._ids: set[str] = set()
        self.errors: list[BatchError] = []

    def requests(self) -> Iterator[RequestPosition]:
        """The positions of valid requests; stops at MAX_ERRORS errors, and at a line that is too long to be read."""
        with self._path.open("rb") as file:
            number = offset = 0
            while line := file.readline(self._limits.max_line_bytes + 1):
                number += 1
                if line.strip():
                    yield from self._request(number, offset, line)
                offset += len(line)
                if len(self.errors) >= MAX_ERRORS or len(line) > self._limits.max_line_bytes:
                    return
        if not self._ids and not self.errors:
            self.errors.append(BatchError("empty_file", "The input file has no requests."))

    def _request(self, number: int, offset: int, line: bytes) -> Iterator[RequestPosition]:
        try:
            request = self._checked(line)
        except InvalidLineError as error:
            self.errors.append(BatchError(error.code, error.message, number, error.param))
            return
        self._ids.add(request.custom_id)
        yield RequestPosition(number, request.custom_id, offset, len(line))

    def _checked(self, line: bytes) -> BatchRequest:
        limits = self._limits
        if len(line) > limits.max_line_bytes:
            raise InvalidLineError("line_too_long", f"A line may have {limits.max_line_bytes} bytes.")
        if len(self._ids) >= limits.max_requests:
            raise InvalidLineError("too_many_requests", f"A batch may have {limits.max_requests} requests.")
        request = parse_request(line)
        if request.custom_id in self._ids:
            raise InvalidLineError("duplicate_custom_id", "Another line has this custom_id.", "custom_id")
        if self._endpoint not in (None, request.url):
            raise InvalidLineError("mismatched_url", f"The batch was made for {self._endpoint}.", "url")
        return request


def parse_request(line: bytes) -> BatchRequest:
    """Raises InvalidLineError."""
    try:
        return _parse_request(line)
    except (ValueError, RecursionError):
        raise InvalidLineError("invalid_json_line", "This line is not valid JSON, or nested too deeply.") from None


def _parse_request(line: bytes) -> BatchRequest:
    value = json.loads(line)
    if not isinstance(value, dict):
        raise InvalidLineError("invalid_json_line", "This line is not a JSON object.")
    custom_id, url, body = value.get("custom_id"), value.get("url"), value.get("body")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_ID or not _is_utf8(custom_id):
        raise InvalidLineError("invalid_custom_id", f"Give a string of 1 to {MAX_ID} characters.", "custom_id")
    if value.get("method") != "POST":
        raise InvalidLineError("invalid_method", "Only POST is allowed.", "method")
    if url not in ENDPOINTS:
        raise InvalidLineError("invalid_url", f"Batches are for {', '.join(ENDPOINTS)}.", "url")
    if not isinstance(body, dict):
        raise InvalidLineError("invalid_body", "Give the JSON object that would be posted.", "body")
    return BatchRequest(custom_id, url, json.dumps(_without_stream(body)).encode())


def read_request(path: Path, position: RequestPosition) -> BatchRequest:
    """Read one request again. Raises JournalDamagedError if it is not at its position."""
    with path.open("rb") as file:
        file.seek(position.offset)
        line = file.read(position.size)
    try:
        request = parse_request(line)
    except InvalidLineError as error:
        raise JournalDamagedError(f"line {position.line} of the input file has changed: {error}") from None
    if request.custom_id != position.custom_id:
        raise JournalDamagedError(f"line {position.line} of the input file is not {position.custom_id!r}")
    return request


def response_line(custom_id: str, status: int, request_id: str, body: bytes) -> bytes:
    """The output line of a request that was answered. `body` is JSON, which is not parsed."""
    if b"\n" in body:
        body = json.dumps(json.loads(body)).encode()
    response = b'{"status_code":%d,"request_id":%b,"body":%b}' % (status, json.dumps(request_id).encode(), body)
    return _line(custom_id, response, b"null")


def error_line(custom_id: str, code: str, message: str) -> bytes:
    """The output line of a request that was not answered."""
    return _line(custom_id, b"null", _compact({"code": code, "message": message}))


def _line(custom_id: str, response: bytes, error: bytes) -> bytes:
    head = _compact({"id": new_id("batch_req_"), "custom_id": custom_id})[:-1]
    return b'%b,"response":%b,"error":%b}\n' % (head, response, error)


def _compact(value: dict[str, str]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _without_stream(body: dict[str, Any]) -> dict[str, Any]:
    """The body with streaming off: an answer in a file has nobody who reads along."""
    rest = {name: value for name, value in body.items() if name != "stream_options"}
    return rest | {"stream": False} if "stream" in body else rest


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True
