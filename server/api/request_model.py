"""What every request body shares: strict types, no unknown fields, and fields that others have and we do not."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

MAX_TEXT = 1_000_000  # characters of one text; the model's context is far smaller, and answers 400 with its limit

Text = Annotated[str, Field(max_length=MAX_TEXT)]


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank_text", "the text is blank: there is nothing to work on")
    return text


NonBlankText = Annotated[Text, AfterValidator(_not_blank)]
Language = Literal["en", "zh", "de", "fr"]
ModelName = Annotated[str, Field(max_length=256, description="Optional: this server has one model.")]
Ignored = Annotated[Any, Field(description="Accepted and ignored: it changes nothing here.")]


class RequestModel(BaseModel):
    """A request body. A misspelt field is an error, not a silent default; "0.5" is not a number."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def only(*harmless: object) -> AfterValidator:
    """For a field that asks for what this server does not do: null and the `harmless` values are let through."""

    def check(value: Any) -> None:
        if value is not None and not any(value == allowed for allowed in harmless):
            raise PydanticCustomError("unsupported_parameter", "this server does not support it; leave it out")

    return AfterValidator(check)


Refused = Annotated[Any, only(), Field(description="Not supported: null only.")]


def _as_list(value: Any) -> Any:
    if not isinstance(value, str | list):
        raise PydanticCustomError("string_or_list", "a string, or a list of strings, is expected")
    return [value] if isinstance(value, str) else value


OneAsList = BeforeValidator(_as_list)  # "a" stands for ["a"]
