"""JSON objects of a request that are passed on as they are. Others recurse into them, so their depth is bounded."""

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

MAX_DEPTH = 32  # of lists and objects


def _not_too_deep(value: dict[str, Any]) -> dict[str, Any]:
    """Level by level: whoever works through the object by recursion needs a bound on the number of levels."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [part for value in level for part in _parts(value) if isinstance(part, dict | list)]
    if level:
        raise PydanticCustomError("too_deep", f"at most {MAX_DEPTH} lists and objects can be in each other")
    return value


def _parts(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


BoundedObject = Annotated[
    dict[str, Any], AfterValidator(_not_too_deep), Field(json_schema_extra={"x-max-depth": MAX_DEPTH})
]
