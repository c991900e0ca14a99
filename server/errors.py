"""The errors that clients receive, in the shape of the API that they use: OpenAI's unless the path is another's.

RequestError                    base class of all of them
├── InvalidRequestError         400  a value that cannot be used; `param` names the field
│   └── PromptTooLongError      400  more tokens than the model's context holds
├── UnauthorizedError           401  no API key, or a wrong one
├── ForbiddenError              403  what the API key may not do, or the server's operator has not allowed
├── NotFoundError               404  a file or a batch that does not exist
│   ├── ModelNotFoundError      404  a model that is not served here
│   └── RequestNotFoundError    404  a request that is not running
├── ConflictError               409  what cannot be done now, such as deleting a file that a batch reads
├── BodyTooLargeError           413  more bytes than the server reads
│   └── FileTooLargeError       413  a larger file than the server keeps
├── ClientGoneError             499  the client has disconnected; nobody reads this answer
├── CompressedBodyError         415  a Content-Encoding, which is not read
├── RequestCancelledError       499  cancelled by DELETE /v1/requests/{id}, before there was a text
├── OverloadedError             429  the queue is full; come back after `retry_after` seconds
│   └── DeadlineUnreachableError 429 its turn is expected after its deadline
├── RateLimitError              429  the API key has used what it may in a minute, or at once
├── HeadersTooLargeError        431  longer headers than the server reads
├── EngineFailedError           500  the step that held the request failed
├── DeadlineExceededError       504  the deadline came, and a part of the answer is of no use
├── UnavailableError            503  the server is stopping or not ready, or has too many connections
└── DiskFullError               507  no room on the disk for files and batches
"""

import math
from typing import Any

_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class RequestError(Exception):
    """One refused or failed request: an HTTP status and the fields of OpenAI's error object."""

    status = 500
    type = "server_error"
    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def body(self, path: str = "") -> dict[str, Any]:
        """The JSON body of an answer at `path`. Lone surrogates, which have no UTF-8, are escaped."""
        if path.startswith("/api/"):  # Ollama
            return {"error": _encodable(self.message)}
        if path.removeprefix("/v1").startswith("/messages"):  # Anthropic
            kind = _ANTHROPIC_TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "api_error")
            return {"type": "error", "error": {"type": kind, "message": _encodable(self.message)}}
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": {key: _encodable(value) for key, value in error.items()}}

    def headers(self) -> dict[str, str]:
        """Retry-After in whole seconds, rounded up, where waiting helps."""
        if self.retry_after is None:
            return {}
        return {"Retry-After": str(max(1, math.ceil(self.retry_after)))}


class InvalidRequestError(RequestError):
    status = 400
    type = "invalid_request_error"

    def __init__(self, message: str, *, param: str | None = None, code: str = "invalid_value") -> None:
        super().__init__(message, param=param)
        self.code = code


class PromptTooLongError(InvalidRequestError):
    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message, param=param, code="context_length_exceeded")


class UnauthorizedError(RequestError):
    status = 401
    type = "authentication_error"
    code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class ForbiddenError(RequestError):
    status = 403
    type = "permission_error"
    code = "not_allowed"


class NotFoundError(RequestError):
    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelNotFoundError(NotFoundError):
    code = "model_not_found"

    def __init__(self, model: str, served: str) -> None:
        super().__init__(f"The model '{model}' is not served here; this server has '{served}'.", param="model")


class RequestNotFoundError(NotFoundError):
    code = "request_not_found"

    def __init__(self) -> None:
        super().__init__("No request with this id is running, or it belongs to another API key.", param="request_id")


class ConflictError(RequestError):
    status = 409
    type = "invalid_request_error"
    code = "conflict"


class BodyTooLargeError(RequestError):
    status = 413
    type = "invalid_request_error"
    code = "body_too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"The request body is larger than the limit of {limit} bytes.")


class FileTooLargeError(BodyTooLargeError):
    code = "file_too_large"

    def __init__(self, limit: int) -> None:
        RequestError.__init__(self, f"The file is larger than the limit of {limit} bytes.", param="file")


class ClientGoneError(RequestError):
    status = 499
    type = "invalid_request_error"
    code = "client_closed_request"

    def __init__(self) -> None:
        super().__init__("The client closed the connection before the answer was ready.")


class CompressedBodyError(RequestError):
    status = 415
    type = "invalid_request_error"
    code = "unsupported_content_encoding"

    def __init__(self, encoding: str) -> None:
        super().__init__(f"The request body is encoded with {encoding}: send it without Content-Encoding.")


class HeadersTooLargeError(RequestError):
    status = 431
    type = "invalid_request_error"
    code = "headers_too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"The request's headers are larger than the limit of {limit} bytes.")


class OverloadedError(RequestError):
    status = 429
    type = "rate_limit_error"
    code: str = "queue_full"


class DeadlineUnreachableError(OverloadedError):
    code = "deadline_unreachable"

    def __init__(self, *, retry_after: float) -> None:
        super().__init__(
            "By the rate of the last half minute, the turn of this request comes after its deadline: give it more "
            "time, or try again after the time in Retry-After.",
            param="timeout",
            retry_after=retry_after,
        )


class DeadlineExceededError(RequestError):
    status = 504
    code = "deadline_exceeded"

    def __init__(self) -> None:
        super().__init__("The deadline of this request came before its answer was complete.", param="timeout")


class RequestCancelledError(RequestError):
    status = 499
    type = "invalid_request_error"
    code = "request_cancelled"

    def __init__(self) -> None:
        super().__init__("This request was cancelled before its answer was complete.")


class RateLimitError(RequestError):
    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class EngineFailedError(RequestError):
    status = 500
    code = "engine_error"


class UnavailableError(RequestError):
    status = 503
    type = "service_unavailable"
    code = "unavailable"


class DiskFullError(RequestError):
    status = 507
    type = "server_error"
    code = "disk_full"

    def __init__(self) -> None:
        super().__init__("The disk of the server has no room for this: delete files that are not needed any more.")


def _encodable(text: str | None) -> str | None:
    return None if text is None else text.encode("utf-8", "backslashreplace").decode("utf-8")
