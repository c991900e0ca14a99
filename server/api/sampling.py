"""The sampling fields that all text endpoints share."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, StringConstraints, Tag
from pydantic_core import PydanticCustomError

from server.api.request_model import FirstErrorOnly, OneAsList, RequestBody, WholeNumber
from server.engine.types import SamplingParams
from server.errors import InvalidRequestError
from server.generation.defaults import GenerationDefaults
from server.generation.prompt import Prompt
from server.generation.service import GenerationService
from server.generation.stream import TextOptions

MAX_CHOICES = 128
MAX_LOGPROBS = 20
MAX_TOKENS = 1_000_000
MAX_STOP_STRINGS = 64
MAX_BIASES = 1024
MAX_ALLOWED_TOKENS = 65_536
UNLIMITED = -1  # of max_tokens: what the context holds
RANDOM_SEED = -1
USABLE_TOKENS = 4096  # an answer that is cut to less is refused instead
MAX_TOTAL_LOGPROBS = 2**19  # of one answer, which is held in memory until it is complete: about 250 bytes each


def not_zero(num_tokens: int) -> int:
    if num_tokens == 0:
        raise PydanticCustomError("no_tokens", "0 tokens are not enough: give 1 or more, or -1 for no limit")
    return num_tokens


def _without_empty_strings(value: Any) -> Any:
    return [item for item in value if item != ""] if isinstance(value, list) else value


def _few_biases(value: Any) -> Any:
    """Checked before the entries are: each wrong one would have an error of its own."""
    if isinstance(value, dict) and len(value) > MAX_BIASES:
        raise PydanticCustomError("too_long", f"at most {MAX_BIASES} tokens can have a bias")
    return value


TokenLimit = Annotated[int, Field(ge=-1, le=MAX_TOKENS, description="-1: as many as the context holds."), WholeNumber]
MaxTokens = Annotated[TokenLimit, AfterValidator(not_zero)]
Choices = Annotated[int, Field(ge=1, le=MAX_CHOICES), WholeNumber]
NumLogprobs = Annotated[int, Field(ge=0, le=MAX_LOGPROBS), WholeNumber]
LogprobsField = Annotated[
    Annotated[bool, Tag("[boolean]")] | Annotated[NumLogprobs, Tag("[number]")],
    Discriminator(lambda value: "[boolean]" if isinstance(value, bool) else "[number]"),
]
CacheSalt = Annotated[
    str, Field(max_length=256, description="Only requests with the same salt reuse each other's prefixes.")
]
BadWord = Annotated[str, Field(min_length=1, max_length=256)]
StopString = Annotated[str, Field(max_length=256)]
StopStrings = Annotated[
    list[StopString],
    FirstErrorOnly,
    Field(max_length=MAX_STOP_STRINGS, description="A string or a list of strings; empty ones do not count."),
    BeforeValidator(_without_empty_strings),
    OneAsList,
]
TokenId = Annotated[int, Field(ge=0, le=10_000_000)]
TokenIdText = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,8}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]
LogitBias = Annotated[
    dict[TokenIdText, Bias],
    Field(max_length=MAX_BIASES, description="By token id: what is added to its logit, -100 to 100."),
    BeforeValidator(_few_biases),
]


class SamplingFields(RequestBody):
    """How to choose each next token. Null stands for the default."""

    max_tokens: MaxTokens | None = None
    temperature: Annotated[float, Field(ge=0, le=5, description="0: the likeliest token.")] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, description="0: the likeliest token.")] | None = None
    top_k: Annotated[int, Field(ge=-1, le=10_000_000, description="0 or -1: no limit."), WholeNumber] | None = None
    min_p: Annotated[float, Field(ge=0, le=1, description="Relative to the likeliest token.")] | None = None
    repetition_penalty: (
        Annotated[float, Field(ge=0.01, le=10, description="1: none. Counts the prompt too.")] | None
    ) = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: LogitBias | None = None
    stop: StopStrings | None = None
    include_stop_str_in_output: Annotated[bool, Field(description="true: the text ends with the stop string.")] = False
    stop_token_ids: Annotated[list[TokenId], FirstErrorOnly, Field(max_length=64)] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS), WholeNumber] | None = None
    allowed_token_ids: Annotated[list[TokenId], FirstErrorOnly, Field(max_length=MAX_ALLOWED_TOKENS)] | None = None
    bad_words: Annotated[list[BadWord], FirstErrorOnly, Field(max_length=64)] | None = None
    ignore_eos: Annotated[bool, Field(description="true: only max_tokens and stop end the text.")] = False
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63, description="-1: a random one."), WholeNumber] | None = None
    skip_special_tokens: Annotated[bool, Field(description="false: special tokens are written into the text.")] = True

    @property
    def text_options(self) -> TextOptions:
        return TextOptions(tuple(self.stop or ()), self.include_stop_str_in_output, self.skip_special_tokens)

    def sampling_params(
        self,
        service: GenerationService,
        *,
        max_tokens: int,
        defaults: GenerationDefaults,
        unlimited: int | None = None,
        logprobs: int | None = None,
        prompt_logprobs: bool = False,
    ) -> SamplingParams:
        """The engine's form; `max_tokens` and `defaults` stand for what the request leaves out.

        `unlimited` stands for a max_tokens of -1: by default the length of the context. Raises InvalidRequestError if
        fields contradict each other or name ids outside the vocabulary.
        """
        max_tokens = max_tokens if self.max_tokens is None else self.max_tokens
        if max_tokens == UNLIMITED:
            max_tokens = unlimited or service.max_model_len
        self._check_min_tokens(max_tokens)
        self._check_token_ids(service)
        return self._over(defaults).sampling(
            max_tokens,
            logit_bias=tuple(self._biases().items()),
            allowed_token_ids=tuple(dict.fromkeys(self.allowed_token_ids or ())),
            bad_words=service.word_token_ids(self.bad_words or ()),
            stop_token_ids=frozenset(self.stop_token_ids or ()),
            min_tokens=self.min_tokens or 0,
            ignore_eos=self.ignore_eos,
            seed=None if self.seed is None or self.seed == RANDOM_SEED else self.seed & (2**63 - 1),
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
        )

    def _over(self, defaults: GenerationDefaults) -> GenerationDefaults:
        """The defaults with the request's own values."""
        given = {field.name: value for field in fields(defaults) if (value := getattr(self, field.name)) is not None}
        if given.get("top_p") == 0:  # no token has that little; the engine takes the likeliest one by top_k
            given |= {"top_p": 1.0, "top_k": 1}
        return replace(defaults, **given)

    def _biases(self) -> dict[int, float]:
        return {int(token_id): bias for token_id, bias in (self.logit_bias or {}).items()}

    def _check_token_ids(self, service: GenerationService) -> None:
        service.check_token_ids(list(self._biases()), "logit_bias")
        service.check_token_ids(self.stop_token_ids or [], "stop_token_ids")
        service.check_token_ids(self.allowed_token_ids or [], "allowed_token_ids")

    def _check_min_tokens(self, max_tokens: int) -> None:
        if (self.min_tokens or 0) > max_tokens:
            raise InvalidRequestError(
                f"min_tokens ({self.min_tokens}) is larger than max_tokens ({max_tokens}).", param="min_tokens"
            )


def answer_sampling(
    service: GenerationService, fields: SamplingFields, prompt: Prompt, *, logprobs: int | None = None
) -> SamplingParams:
    """The engine's form for one answer, which may take what the context holds."""
    unlimited = unlimited_max_tokens(service, 1, logprobs)
    sampling = fields.sampling_params(
        service, max_tokens=unlimited, unlimited=unlimited, defaults=service.defaults, logprobs=logprobs
    )
    check_total_logprobs(service, [prompt], 1, sampling)
    return sampling


def unlimited_max_tokens(service: GenerationService, n: int, logprobs: int | None) -> int:
    """What stands for a `max_tokens` that is left out: the context, or as many tokens as log-probabilities are held."""
    if logprobs is None:
        return service.max_model_len
    held = MAX_TOTAL_LOGPROBS // (n * (1 + logprobs))
    return min(service.max_model_len, max(held, USABLE_TOKENS))


def check_total_logprobs(
    service: GenerationService, prompts: Sequence[Prompt], n: int, sampling: SamplingParams
) -> None:
    """Raise InvalidRequestError for too many log-probabilities: each field is bounded, this bounds their product."""
    tokens = 0
    if sampling.logprobs is not None:
        room = (max(0, service.max_model_len - len(prompt.token_ids)) for prompt in prompts)
        tokens += sum(min(sampling.max_tokens, free) for free in room)
    if sampling.prompt_logprobs:
        tokens += sum(len(prompt.token_ids) for prompt in prompts)
    total = n * tokens * (1 + (sampling.logprobs or 0))
    if total > MAX_TOTAL_LOGPROBS:
        raise InvalidRequestError(
            f"This may be {total:,} log-probabilities, and one answer has at most {MAX_TOTAL_LOGPROBS:,}: ask for "
            "fewer tokens (max_tokens), choices, alternatives or prompts at once.",
            param="logprobs",
        )
