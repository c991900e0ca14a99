"""The requests of an evaluation, independent of prompt formats: the model implementation words them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from model.evaluation.progress import Advance

Message = Mapping[str, Any]  # {"role": "user" or "assistant", "content": ...}
LabelScores = Mapping[str, float]  # probability per label, among the given ones


@dataclass(frozen=True, slots=True)
class Translate:
    """The likeliest translation of `text`. Languages are "en", "zh", "de" or "fr"."""

    text: str
    source_lang: str
    target_lang: str


@dataclass(frozen=True, slots=True)
class Summarize:
    """The likeliest summary of `text`. `length` is "short", "medium" or "long"."""

    text: str
    language: str
    length: str


@dataclass(frozen=True, slots=True)
class Continue:
    """Plain text that goes on from `prompt`, without the prompt itself; temperature 0 is the likeliest."""

    prompt: str
    max_tokens: int
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """The assistant's answer to a conversation that ends with the user.

    Temperature 0 is the likeliest; None leaves all sampling to the model's defaults.
    """

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float | None = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Analyze:
    """How well each label fits `text`."""

    text: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TextLikelihood:
    """Likelihood of `text` as a document from its beginning, without the end of the document."""

    text: str


@dataclass(frozen=True, slots=True)
class ReplyLikelihood:
    """Likelihood of `reply` as the assistant's answer to a conversation, without its end."""

    messages: tuple[Message, ...]
    reply: str


GenerationRequest = Translate | Summarize | Continue | Reply
ScoringRequest = TextLikelihood | ReplyLikelihood


@dataclass(frozen=True, slots=True)
class Likelihood:
    """A text's log-likelihood, and the number of tokens and bytes that were scored.

    A model that cannot condition the first token on anything leaves it out of all three numbers.
    """

    log_likelihood: float  # nats, summed over the scored tokens
    tokens: int
    bytes: int  # of UTF-8


class ModelError(RuntimeError):
    """The model refused a request or failed at it; the message says which and why."""


class NotSupportedError(ValueError):
    """This model cannot answer this kind of request at all, such as likelihoods behind a chat-only server."""


class Model(Protocol):
    """What an evaluation needs of a model, in process or behind a URL.

    Each method answers all requests in their order, as many at once as the model likes, and calls `advance(n)` whenever
    n more of them are done. NotSupportedError for a kind of request that the model cannot answer.
    """

    @property
    def name(self) -> str: ...

    def generate(self, requests: Sequence[GenerationRequest], advance: Advance) -> list[str]: ...

    def classify(self, requests: Sequence[Analyze], advance: Advance) -> list[LabelScores]: ...

    def score(self, requests: Sequence[ScoringRequest], advance: Advance) -> list[Likelihood]: ...
