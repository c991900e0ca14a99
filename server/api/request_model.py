"""What every request body shares: strict types, bounds, and how fields that are not ours are treated."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from model.text.special_tokens import LANGUAGES
from server.api.bounded_json import NO_UNICODE, BoundedValue, is_unicode
from server.api.compatibility import translate_fields, warnings_of
from server.api.validation_errors import FieldError, field_errors, in_one_answer
from server.errors import InvalidRequestError

MAX_FIELDS = 16_384  # of a body, those of other servers included
MAX_TEXT = 1_000_000  # characters of one text; the model's context is far smaller, and answers 400 with its limit

Text = Annotated[str, Field(max_length=MAX_TEXT)]


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank_text", "the text is blank: there is nothing to work on")
    return text


NonBlankText = Annotated[Text, AfterValidator(_not_blank)]


def _known_language(language: str) -> str:
    if language not in LANGUAGES:
        raise PydanticCustomError("unknown_language", "give one of {known}", {"known": ", ".join(LANGUAGES)})
    return language


def _known_language_or_auto(language: str) -> str:
    return language if language == AUTO else _known_language(language)


AUTO = "auto"  # the language of the text itself
Language = Annotated[str, AfterValidator(_known_language), Field(json_schema_extra={"enum": [*LANGUAGES]})]
LanguageOrAuto = Annotated[
    str, AfterValidator(_known_language_or_auto), Field(json_schema_extra={"enum": [AUTO, *LANGUAGES]})
]
ModelName = Annotated[
    str, Field(max_length=256, description="Optional: the served model, or one of its LoRA adapters.")
]


def _as_integer(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WholeNumber = BeforeValidator(_as_integer)  # JSON has one kind of number: 5.0 is an integer


def _as_list(value: Any) -> Any:
    if not isinstance(value, str | list):
        raise PydanticCustomError("string_or_list", "a string, or a list of strings, is expected")
    return [value] if isinstance(value, str) else value


OneAsList = BeforeValidator(_as_list)  # "a" stands for ["a"]


def as_text_parts(content: Any) -> Any:
    """A string as the one text part of a list."""
    if not isinstance(content, str | list):
        raise PydanticCustomError("string_or_parts", "a string, or a list of text parts, is expected")
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


NullableTextParts = BeforeValidator(lambda content: [] if content is None else as_text_parts(content))
FirstErrorOnly = Field(fail_fast=True)  # a list of a million wrong items has one error, not a million


def refused_unless(message: str, *harmless: object) -> AfterValidator:
    """Null and the `harmless` values pass; all others are refused with the message."""

    def check(value: Any) -> None:
        if value is not None and not any(value == allowed for allowed in harmless):
            raise PydanticCustomError("unsupported_parameter", message)

    return AfterValidator(check)


def served_types(*served: str, default: str | None = None) -> tuple[BeforeValidator, Discriminator]:
    """Metadata of a union of models that differ in their `type` and have the tags `[type]`; others are named."""

    def check(value: Any) -> Any:
        kind = _type(value)
        if isinstance(value, dict) and kind not in served:
            raise PydanticCustomError(
                "unsupported_parameter",
                "{kind} is not served; these are: {served}",
                {"kind": f"the type {kind!s:.64}" if kind is not None else "an object without a type",
                 "served": ", ".join(served)},
            )  # fmt: skip
        return value

    def _type(value: Any) -> Any:
        return (value.get("type") or default) if isinstance(value, dict) else None

    return BeforeValidator(check), Discriminator(lambda value: f"[{_type(value) or served[0]}]")


class RequestModel(BaseModel):
    """A part of a request. "0.5" is not a number, and a null stands for a field that is left out."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    required_names: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        fields = cls.model_fields.items()
        cls.required_names = frozenset(field.alias or name for name, field in fields if field.is_required())

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: item for name, item in value.items() if item is not None or name in cls.required_names}


class WithExtras(RequestModel):
    """A part of a body in which fields of other servers are ignored and named in the warnings."""

    model_config = ConfigDict(extra="allow")

    __pydantic_extra__: dict[str, BoundedValue] = Field(init=False)  # answers may repeat them

    def ignored_fields(self, path: str) -> Iterator[str]:
        return (f"{path}.{name}" for name, value in (self.model_extra or {}).items() if value is not None)


class RequestBody(RequestModel):
    """A whole body. Fields that are not ours go through the table in server/api/compatibility.py."""

    own_names: ClassVar[frozenset[str]] = frozenset()

    _ignored: tuple[str, ...] = PrivateAttr(())
    _unknown: tuple[str, ...] = PrivateAttr(())

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls.own_names = frozenset(cls.model_fields)

    @property
    def unknown_fields(self) -> tuple[str, ...]:
        """Fields that nobody knows, misspelt ones perhaps."""
        return self._unknown

    @property
    def ignored_fields(self) -> tuple[str, ...]:
        """What a client may have expected to have an effect, the unknown fields included."""
        return self._ignored

    def ignore(self, name: str) -> None:
        """Count one of the body's own fields as ignored."""
        self._ignored = (*self._ignored, name)

    @property
    def warnings(self) -> list[str]:
        """A sentence for each ignored field."""
        return warnings_of(self.ignored_fields)

    @model_validator(mode="wrap")
    @classmethod
    def _with_foreign_fields(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Raises InvalidRequestError that names all bad fields, in the order of the body.

        It is not raised as pydantic's own error: FastAPI would describe every error at length before it shows one.
        """
        if not isinstance(value, dict):
            return handler(value)
        if len(value) > MAX_FIELDS:
            raise InvalidRequestError(f"a body has at most {MAX_FIELDS:,} fields, this one has {len(value)}")
        translated = translate_fields(value, cls.own_names, cls.required_names)
        errors = [FieldError(name, text, "unsupported_parameter") for name, text in translated.refused.items()]
        errors += [FieldError(name, NO_UNICODE) for name in translated.unknown if not is_unicode(name)]
        try:
            body = handler(translated.fields)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
            errors += field_errors(found, translated.renamed)
        if errors:
            positions = {name: position for position, name in enumerate(value)}
            raise in_one_answer(sorted(errors, key=lambda error: positions.get(error.field, len(positions))))
        body._ignored, body._unknown = translated.ignored, translated.unknown
        return body
