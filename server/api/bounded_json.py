"""JSON of a request that is passed on as it is. Others recurse into it and write it, so its depth is bounded."""

import json
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from model.text.chat_formats.json_values import is_deeper

MAX_DEPTH = 32  # of lists and objects
NO_UNICODE = "text that is not valid Unicode cannot be used: remove the lone surrogate"


def is_unicode(text: str) -> bool:
    """Whether a text can be written in UTF-8. JSON's escapes can make a lone surrogate, which cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _checked(value: Any) -> Any:
    if is_deeper(value, MAX_DEPTH):
        raise PydanticCustomError("too_deep", f"at most {MAX_DEPTH} lists and objects can be in each other")
    if not is_unicode(json.dumps(value, ensure_ascii=False)):
        raise PydanticCustomError("no_unicode", NO_UNICODE)
    return value


BoundedValue = Annotated[Any, AfterValidator(_checked)]
BoundedObject = Annotated[dict[str, Any], AfterValidator(_checked), Field(json_schema_extra={"x-max-depth": MAX_DEPTH})]
