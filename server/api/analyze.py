"""POST /v1/analyze: which of the given labels fits a text, or what it says, in the form of a JSON schema."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import AfterValidator, BaseModel, Field
from pydantic_core import PydanticCustomError

from server.api.dependencies import Context, RequestContext
from server.api.request_model import FirstErrorOnly, ModelName, NonBlankText, OneAsList
from server.api.response_format import GrammarFields
from server.api.response_model import UsageInfo, usage_of
from server.api.sampling import SamplingFields
from server.api.scheduling import SchedulingFields
from server.api.tasks import GREEDY
from server.errors import InvalidRequestError
from server.generation.grammar import JsonSchemaGrammar
from server.tasks.analyze import classify, extract

router = APIRouter(prefix="/v1", tags=["Tasks"])

MAX_TEXTS = 16
DEFAULT_MAX_TOKENS = 512


def _distinct(labels: list[str]) -> list[str]:
    labels = [label.strip() for label in labels]
    if len(set(labels)) < len(labels):
        raise PydanticCustomError("same_labels", "two labels are the same")
    return labels


Label = Annotated[NonBlankText, Field(max_length=128)]


class AnalyzeRequest(SamplingFields, SchedulingFields, GrammarFields):
    """`labels`, or a JSON schema in one of the fields that constrain answers."""

    model: ModelName | None = None
    text: Annotated[list[NonBlankText], FirstErrorOnly, Field(min_length=1, max_length=MAX_TEXTS), OneAsList]
    labels: (
        Annotated[list[Label], FirstErrorOnly, Field(min_length=2, max_length=32), AfterValidator(_distinct)] | None
    ) = None

    def ignore_sampling(self) -> None:
        """Count all sampling fields as ignored: with labels nothing is sampled."""
        for name, field in SamplingFields.model_fields.items():
            if getattr(self, name) not in (None, [], {}, field.default):
                self.ignore(name)

    @property
    def schema_grammar(self) -> JsonSchemaGrammar | None:
        """The schema, if there are no labels. Raises InvalidRequestError unless there is one of the two."""
        grammar = self.answer_grammar
        if grammar is None and self.labels is None:
            raise InvalidRequestError(
                "Give labels to choose from, or a JSON schema in response_format.", param="labels"
            )
        if grammar is not None and self.labels is not None:
            raise InvalidRequestError(
                f"labels and {grammar.param} exclude each other: give one of them.", param=grammar.param
            )
        if grammar is not None and not isinstance(grammar, JsonSchemaGrammar):
            raise InvalidRequestError(
                f"{grammar.param}: a JSON schema is needed here; other formats are followed at /v1/chat/completions.",
                param=grammar.param,
            )
        return grammar


class Analysis(BaseModel):
    """The likeliest label, and for each label its probability among the given ones: they sum to 1."""

    label: str
    scores: dict[str, float]


class SchemaAnalysis(BaseModel):
    """`data` is valid by the schema; null if the answer was cut off, with the finish reason "length"."""

    data: Any
    finish_reason: str


class AnalyzeResponse(BaseModel):
    id: str
    object: Literal["analysis"] = "analysis"
    model: str
    results: list[Analysis | SchemaAnalysis]
    usage: UsageInfo
    warnings: list[str] = []


@router.post("/analyze", response_model=AnalyzeResponse, summary="Choose a label for a text, or fill in a JSON schema")
async def analyze(body: AnalyzeRequest, context: Context) -> Any:
    """With `labels`: score each by how likely the model is to answer with it; no free text is generated.

    With a JSON schema (`response_format`, as in chats): a JSON value for each text that is valid by the schema, greedy
    unless sampling fields are given.
    """
    schema = body.schema_grammar
    if schema is None:
        body.ignore_sampling()
    context.accept(body)
    found = await context.until_disconnect(_results(body, schema, context))
    return AnalyzeResponse(
        id=f"analysis-{context.admission.request_id}",
        model=context.admission.model_name,
        results=[*found],
        usage=usage_of(context.admission.generations),
        warnings=[*(context.service.quality.warnings("analyze") if body.labels else ()), *body.warnings],
    )


async def _results(
    body: AnalyzeRequest, schema: JsonSchemaGrammar | None, context: RequestContext
) -> Sequence[Analysis | SchemaAnalysis]:
    if schema is None:
        classes = await classify(context.admission, body.text, body.labels or ())
        return [Analysis(label=found.label, scores=found.scores) for found in classes]
    sampling = body.sampling_params(context.service, max_tokens=DEFAULT_MAX_TOKENS, defaults=GREEDY)
    values = await extract(context.admission, body.text, schema, sampling, body.text_options)
    return [SchemaAnalysis(data=found.data, finish_reason=found.finish_reason) for found in values]
