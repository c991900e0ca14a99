"""Errors of request bodies in plain words: all bad fields in one answer, each with its path."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.api.compatibility import MAX_NAMED_FIELDS
from server.errors import InvalidRequestError

_TAG = re.compile(r"\[.*\]")  # pydantic's marks for "the key of" and for the forms of a union: no part of the path
_CODES = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "unsupported_parameter": "unsupported_parameter",
    "json_invalid": "invalid_json",
}


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with one field. `param` is its path, such as `messages.0.content`."""

    param: str
    message: str
    code: str = "invalid_value"

    @property
    def field(self) -> str:
        """The field of the body that it is in."""
        return self.param.partition(".")[0]


def field_errors(errors: Iterable[Mapping[str, Any]], renamed: Mapping[str, str]) -> list[FieldError]:
    """Pydantic's errors of a body. `renamed` maps our fields to the names the client used for them."""
    return [_field_error(error, renamed) for error in errors]


def in_one_answer(errors: Sequence[FieldError]) -> InvalidRequestError:
    """One error that tells all of them; its `param` and `code` are those of the first."""
    parts = [f"{error.param}: {error.message}." for error in errors[:MAX_NAMED_FIELDS]]
    if len(errors) > MAX_NAMED_FIELDS:
        parts.append(f"{len(errors) - MAX_NAMED_FIELDS} more fields cannot be used.")
    return InvalidRequestError(" ".join(parts), param=errors[0].param, code=errors[0].code)


def unreadable_body(error: Mapping[str, Any]) -> InvalidRequestError:
    """A body that is not JSON, or not an object."""
    kind, location = error["type"], error["loc"]
    if kind == "json_invalid":
        return InvalidRequestError(
            f"The body is not valid JSON: {error['ctx']['error']} at character {location[-1]}.", code=_CODES[kind]
        )
    if path := _path(location[1:]):
        return in_one_answer([FieldError(".".join(path), error["msg"], _CODES.get(kind, "invalid_value"))])
    hint = "Send a JSON object, with the header `Content-Type: application/json`."
    return InvalidRequestError(f"The body cannot be used. {hint}", code=_CODES.get(kind, "invalid_value"))


def _field_error(error: Mapping[str, Any], renamed: Mapping[str, str]) -> FieldError:
    path = _path(error["loc"])
    if path and path[0] in renamed:
        path[0] = renamed[path[0]]
    kind = error["type"]
    message = "this field is not known here" if kind == "extra_forbidden" else error["msg"]
    return FieldError(".".join(path), message.rstrip("."), _CODES.get(kind, "invalid_value"))


def _path(location: Sequence[str | int]) -> list[str]:
    return [str(part) for part in location if not _TAG.fullmatch(str(part))]
