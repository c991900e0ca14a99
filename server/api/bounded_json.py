"""JSON objects of a request that are passed on as they are. Others recurse into them, so their depth is bounded."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from model.text.chat_formats.json_values import is_deeper

MAX_DEPTH = 32  # of lists and objects


def _not_too_deep(value: dict[str, Any]) -> dict[str, Any]:
    if is_deeper(value, MAX_DEPTH):
        raise PydanticCustomError("too_deep", f"at most {MAX_DEPTH} lists and objects can be in each other")
    return value


BoundedObject = Annotated[
    dict[str, Any], AfterValidator(_not_too_deep), Field(json_schema_extra={"x-max-depth": MAX_DEPTH})
]
