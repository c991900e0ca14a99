"""The fields with which clients constrain an answer: those of OpenAI, vLLM (today's and older ones), SGLang, llama.cpp.

Each is one way to say what server/generation/grammar.py knows; a request may use one of them.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from server.api.request_model import FirstErrorOnly, RequestModel
from server.errors import InvalidRequestError
from server.generation.grammar import AnswerGrammar, ChoiceGrammar, JsonSchemaGrammar, RegexGrammar, WrittenGrammar
from server.generation.service import GenerationService

ANY_OBJECT = {"type": "object"}
MAX_CHOICES = 4096


def _schema_or_text(value: Any) -> Any:
    if not isinstance(value, dict | str):
        raise PydanticCustomError("object_or_text", "a JSON schema is expected: an object, or its text")
    return value


def _not_served(value: Any) -> Any:
    if value is not None:
        raise PydanticCustomError("unsupported_parameter", "structural tags are not served here; use grammar")
    return value


JsonSchema = Annotated[Any, BeforeValidator(_schema_or_text), Field(description="A JSON schema, or its text.")]
Regex = Annotated[str, Field(max_length=16_384)]
Choice = Annotated[str, Field(min_length=1, max_length=4096)]
Choices = Annotated[list[Choice], FirstErrorOnly, Field(max_length=MAX_CHOICES)]
WrittenText = Annotated[str, Field(max_length=200_000, description="Lark with the rule start, or GBNF with root.")]


class NamedJsonSchema(RequestModel):
    """The schema of OpenAI's `response_format`. It always is enforced, whatever `strict` says."""

    json_schema: Annotated[JsonSchema, Field(alias="schema")]
    name: Annotated[str, Field(max_length=256)] | None = None
    description: Annotated[str, Field(max_length=16_384)] | None = None
    strict: bool | None = None


class ResponseFormat(RequestModel):
    """OpenAI's: `{"type": "json_schema", "json_schema": {"name", "schema"}}`; llama.cpp has `schema` at this level."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedJsonSchema | None = None
    bare_schema: Annotated[JsonSchema, Field(alias="schema")] = None

    def grammar(self) -> AnswerGrammar | None:
        path = "response_format"
        if self.type == "text":
            return None
        if self.json_schema is not None and self.type == "json_schema":
            return JsonSchemaGrammar(f"{path}.json_schema.schema", self.json_schema.json_schema)
        if self.bare_schema is not None:
            return JsonSchemaGrammar(f"{path}.schema", self.bare_schema)
        if self.type == "json_schema":
            raise InvalidRequestError(f"{path}.json_schema: give the schema.", param=f"{path}.json_schema")
        return JsonSchemaGrammar(path, ANY_OBJECT)


class StructuredOutputs(RequestModel):
    """vLLM's: one of the first five."""

    json_schema: Annotated[JsonSchema, Field(alias="json")] = None
    regex: Regex | None = None
    choice: Choices | None = None
    grammar: WrittenText | None = None
    json_object: bool | None = None
    structural_tag: Annotated[Any, AfterValidator(_not_served), Field(description="Refused unless null.")] = None
    disable_any_whitespace: Annotated[bool, Field(description="Always so.")] | None = None
    disable_additional_properties: Annotated[bool, Field(description="So where the schema does not say.")] | None = None


_NO_OUTPUTS = StructuredOutputs()


class GrammarFields(BaseModel):
    """What the answer must look like. At most one of these may be given."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: JsonSchema = None
    guided_regex: Regex | None = None
    guided_choice: Choices | None = None
    guided_grammar: WrittenText | None = None
    json_schema: JsonSchema = None
    grammar: WrittenText | None = None
    regex: Regex | None = None
    ebnf: WrittenText | None = None

    @property
    def answer_grammar(self) -> AnswerGrammar | None:
        """The one that was given. Raises InvalidRequestError for more than one."""
        given = list(self._grammars())
        if len(given) > 1:
            names = " and ".join(grammar.param for grammar in given[:2])
            raise InvalidRequestError(f"{names} exclude each other: give one of them.", param=given[1].param)
        return given[0] if given else None

    async def compile_grammar(self, service: GenerationService) -> str | None:
        """For SamplingParams. Raises InvalidRequestError, see GenerationService.compile_grammar."""
        grammar = self.answer_grammar
        return None if grammar is None else await service.compile_grammar(grammar)

    def _grammars(self) -> Iterator[AnswerGrammar]:
        """Empty values ask for nothing."""
        if self.response_format is not None and (grammar := self.response_format.grammar()) is not None:
            yield grammar
        outputs = self.structured_outputs or _NO_OUTPUTS
        if outputs.json_object:
            yield JsonSchemaGrammar("structured_outputs.json_object", ANY_OBJECT)
        schemas = {"structured_outputs.json": outputs.json_schema, "guided_json": self.guided_json}
        schemas["json_schema"] = self.json_schema or None  # llama.cpp's clients send {} for none
        yield from (JsonSchemaGrammar(path, schema) for path, schema in schemas.items() if schema is not None)
        regexes = {"structured_outputs.regex": outputs.regex, "guided_regex": self.guided_regex}
        regexes["regex"] = self.regex
        yield from (RegexGrammar(path, regex) for path, regex in regexes.items() if regex)
        choices = {"structured_outputs.choice": outputs.choice, "guided_choice": self.guided_choice}
        yield from (ChoiceGrammar(path, choice) for path, choice in choices.items() if choice)
        texts = {"structured_outputs.grammar": outputs.grammar, "guided_grammar": self.guided_grammar}
        texts |= {"grammar": self.grammar, "ebnf": self.ebnf}
        yield from (WrittenGrammar(path, text) for path, text in texts.items() if text)
