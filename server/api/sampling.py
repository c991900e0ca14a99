"""The sampling fields that all text endpoints share."""

from dataclasses import fields, replace
from typing import Annotated

from pydantic import Field, StringConstraints

from server.api.request_model import OneAsList, RequestModel
from server.engine.types import SamplingParams
from server.errors import InvalidRequestError
from server.generation.defaults import GenerationDefaults
from server.generation.service import GenerationService

MAX_CHOICES = 8
MAX_LOGPROBS = 20
MAX_TOKENS = 1_000_000

StopString = Annotated[str, Field(min_length=1, max_length=256)]
TokenId = Annotated[int, Field(ge=0, le=10_000_000)]
TokenIdText = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,8}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]


class SamplingFields(RequestModel):
    """How to choose each next token. Null stands for the default."""

    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=10_000_000, description="0 or -1: no limit.")] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: Annotated[dict[TokenIdText, Bias], Field(max_length=1024)] | None = None
    stop: Annotated[list[StopString], Field(max_length=8), OneAsList] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None
    ignore_eos: bool = False
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return tuple(self.stop or ())

    def sampling_params(
        self,
        service: GenerationService,
        *,
        max_tokens: int,
        defaults: GenerationDefaults,
        frequency_penalty: float = 0.0,
        logprobs: int | None = None,
        prompt_logprobs: bool = False,
    ) -> SamplingParams:
        """The engine's form; `max_tokens`, `defaults` and `frequency_penalty` stand for what the request leaves out.

        Raises InvalidRequestError where fields contradict each other or name ids outside the vocabulary.
        """
        if self.max_tokens is not None:
            max_tokens = self.max_tokens
        logit_bias = {int(token_id): bias for token_id, bias in (self.logit_bias or {}).items()}
        stop_token_ids = self.stop_token_ids or []
        self._check_min_tokens(max_tokens)
        service.check_token_ids(list(logit_bias), "logit_bias")
        service.check_token_ids(stop_token_ids, "stop_token_ids")
        given = {field.name: value for field in fields(defaults) if (value := getattr(self, field.name)) is not None}
        return replace(
            replace(defaults, **given).sampling(max_tokens),
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=frequency_penalty if self.frequency_penalty is None else self.frequency_penalty,
            logit_bias=logit_bias,
            stop_token_ids=frozenset(stop_token_ids),
            min_tokens=self.min_tokens or 0,
            ignore_eos=self.ignore_eos,
            seed=None if self.seed is None else self.seed & (2**63 - 1),
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
        )

    def _check_min_tokens(self, max_tokens: int) -> None:
        if (self.min_tokens or 0) > max_tokens:
            raise InvalidRequestError(
                f"min_tokens ({self.min_tokens}) is larger than max_tokens ({max_tokens}).", param="min_tokens"
            )
