"""POST /v1/decisions: closed questions about an input, answered with probabilities, in OpenAI's shape."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import AfterValidator, BaseModel, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from server.api.dependencies import Context
from server.api.request_model import FirstErrorOnly, ModelName, NonBlankText, WithExtras, served_types
from server.api.response_model import Warnings, usage_of
from server.api.responses.input_items import (
    FunctionCallItem,
    FunctionCallOutputItem,
    InputItem,
    InputItems,
    MessageItem,
    Parts,
    ignored_item_fields,
    joined,
)
from server.api.scheduling import SchedulingFields
from server.generation.stream import RunningGeneration
from server.tasks.decide import LabelQuestion, Option, decide

router = APIRouter(tags=["OpenAI"])

MAX_QUESTIONS = 400
MAX_CHOICES = 255
MAX_LEVELS = 10

Label = Annotated[NonBlankText, Field(max_length=256)]
Description = Annotated[str, Field(max_length=4096)]
Value = Annotated[
    Annotated[bool, Tag("[boolean]")] | Annotated[Label, Tag("[text]")],
    Discriminator(lambda value: "[boolean]" if isinstance(value, bool) else "[text]"),
]


class Choice(WithExtras):
    value: Value
    description: Description | None = None


class Level(WithExtras):
    label: Label
    description: Description | None = None


def _different(options: list[Any]) -> list[Any]:
    keys = {_written(option.value) if isinstance(option, Choice) else option.label for option in options}
    if len(keys) < len(options):
        raise PydanticCustomError("same_options", "two of them are the same")
    return options


class _Question(WithExtras):
    instructions: Annotated[Parts, Field(min_length=1, description="A string or a list of text parts.")]
    name: Annotated[str, Field(max_length=256)] | None = None


class PredicateQuestion(_Question):
    """How likely is it that a statement about the input is true?"""

    type: Literal["predicate"]


class ChoiceQuestion(_Question):
    """Which of the choices fits the input?"""

    type: Literal["choice"]
    choices: Annotated[
        list[Choice], FirstErrorOnly, Field(min_length=2, max_length=MAX_CHOICES), AfterValidator(_different)
    ]


class ScoreQuestion(_Question):
    """Which of the ordered levels does the input reach?"""

    type: Literal["score"]
    levels: Annotated[
        list[Level], FirstErrorOnly, Field(min_length=2, max_length=MAX_LEVELS), AfterValidator(_different)
    ]


AnyQuestion = PredicateQuestion | ChoiceQuestion | ScoreQuestion
_CHECK, _CHOOSE = served_types("predicate", "choice", "score")
_Tagged = Annotated[
    Annotated[
        Annotated[PredicateQuestion, Tag("[predicate]")]
        | Annotated[ChoiceQuestion, Tag("[choice]")]
        | Annotated[ScoreQuestion, Tag("[score]")],
        _CHOOSE,
    ],
    _CHECK,
]


class DecisionsRequest(SchedulingFields):
    model: ModelName | None = None
    input: InputItems
    questions: Annotated[list[_Tagged], FirstErrorOnly, Field(min_length=1, max_length=MAX_QUESTIONS)]

    @property
    def ignored_fields(self) -> tuple[str, ...]:
        return (*super().ignored_fields, *ignored_item_fields(self.input))


class PredicateAnswer(BaseModel):
    type: Literal["predicate"] = "predicate"
    name: str | None
    probability: float


class ChoiceProbability(BaseModel):
    value: str | bool
    probability: float


class ChoiceAnswer(BaseModel):
    """`confidence`: 0 where all choices are equally likely, 1 where one is certain."""

    type: Literal["choice"] = "choice"
    name: str | None
    choice: str | bool
    confidence: float
    probabilities: list[ChoiceProbability]


class LevelProbability(BaseModel):
    value: int
    label: str
    probability: float


class ScoreAnswer(BaseModel):
    """`score`: the expected level; the first one is 0."""

    type: Literal["score"] = "score"
    name: str | None
    score: float
    confidence: float
    probabilities: list[LevelProbability]


class InputTokensDetails(BaseModel):
    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(BaseModel):
    reasoning_tokens: int = 0


class DecisionsUsage(BaseModel):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int = 0
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    total_tokens: int


class DecisionsResponse(BaseModel):
    model: str
    answers: list[PredicateAnswer | ChoiceAnswer | ScoreAnswer]
    usage: DecisionsUsage
    warnings: Warnings = []


@router.post("/v1/decisions", response_model=DecisionsResponse, summary="Answer closed questions with probabilities")
async def decisions(body: DecisionsRequest, context: Context) -> Any:
    """Predicates, choices and scores about one input: the likelihood of each option is measured, no text is written."""
    service = context.accept(body)
    questions = [LabelQuestion(joined(question.instructions), _options(question)) for question in body.questions]
    rows = await context.until_disconnect(decide(context.admission, _text(body.input), questions))
    return DecisionsResponse(
        model=body.model or service.model_id,
        answers=[_answer(question, row) for question, row in zip(body.questions, rows, strict=True)],
        usage=_usage(context.admission.generations),
        warnings=[*service.quality.warnings("analyze"), *body.warnings],
    )


def _text(items: Sequence[InputItem]) -> str:
    """One message is its text; a conversation is written down turn by turn."""
    if len(items) == 1 and isinstance(items[0], MessageItem):
        return joined(items[0].content)
    return "\n\n".join(turn for item in items if (turn := _turn(item)))


def _turn(item: InputItem) -> str:
    if isinstance(item, MessageItem):
        return f"{item.role}: {joined(item.content)}"
    if isinstance(item, FunctionCallItem):
        return f"call of {item.name}: {item.arguments}"
    return f"result: {joined(item.output)}" if isinstance(item, FunctionCallOutputItem) else ""


def _options(question: AnyQuestion) -> list[Option]:
    if isinstance(question, PredicateQuestion):
        return [Option("yes"), Option("no")]
    if isinstance(question, ScoreQuestion):
        return [Option(level.label, level.description or "") for level in question.levels]
    return [Option(_written(choice.value), choice.description or "") for choice in question.choices]


def _written(value: str | bool) -> str:
    return value if isinstance(value, str) else "true" if value else "false"


def _answer(question: AnyQuestion, row: Sequence[float]) -> PredicateAnswer | ChoiceAnswer | ScoreAnswer:
    if isinstance(question, PredicateQuestion):
        return PredicateAnswer(name=question.name, probability=row[0])
    confidence = (max(row) - 1 / len(row)) / (1 - 1 / len(row))
    if isinstance(question, ScoreQuestion):
        return ScoreAnswer(
            name=question.name,
            score=sum(index * probability for index, probability in enumerate(row)),
            confidence=confidence,
            probabilities=[
                LevelProbability(value=index, label=level.label, probability=probability)
                for index, (level, probability) in enumerate(zip(question.levels, row, strict=True))
            ],
        )
    return ChoiceAnswer(
        name=question.name,
        choice=question.choices[row.index(max(row))].value,
        confidence=confidence,
        probabilities=[
            ChoiceProbability(value=choice.value, probability=probability)
            for choice, probability in zip(question.choices, row, strict=True)
        ],
    )


def _usage(generations: Sequence[RunningGeneration]) -> DecisionsUsage:
    usage = usage_of(generations)
    details = InputTokensDetails(cached_tokens=usage.prompt_tokens_details.cached_tokens)
    return DecisionsUsage(
        input_tokens=usage.prompt_tokens, input_tokens_details=details, total_tokens=usage.prompt_tokens
    )
