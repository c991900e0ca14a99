"""Log-likelihoods of known continuations: labels of a text, sentences as its summary."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from model.text.tokenizer import Tokenizer
from server.engine.types import SamplingParams
from server.generation.admission import Admission
from server.generation.prompt import Prompt
from server.generation.stream import GenerationResult
from server.tasks.sub_generations import run_sub_generations

SCORING = SamplingParams(max_tokens=0, prompt_logprobs=True)


@dataclass(frozen=True, slots=True)
class ScoringRequest:
    """A context and the continuations to score after it, at least one."""

    context: Prompt
    continuations: Sequence[str]


@dataclass(frozen=True, slots=True)
class ContinuationScore:
    """Sum of the log-probabilities (nats) of a continuation's tokens and its end token, and how many these are."""

    log_likelihood: float
    num_tokens: int

    @property
    def mean(self) -> float:
        """Nats per token."""
        return self.log_likelihood / self.num_tokens


async def score_continuations(
    admission: Admission, requests: Sequence[ScoringRequest]
) -> list[list[ContinuationScore]]:
    """Score the continuations of every request.

    The first continuation of each request is computed before the others, which then find their context in the cache.
    """
    tokenizer = admission.service.tokenizer
    first = [_with_continuation(request.context, request.continuations[0], tokenizer) for request in requests]
    others = [
        _with_continuation(request.context, continuation, tokenizer)
        for request in requests
        for continuation in request.continuations[1:]
    ]
    first_scores, rest = await _score(admission, first), iter(await _score(admission, others))
    return [
        [score, *(next(rest) for _ in request.continuations[1:])]
        for score, request in zip(first_scores, requests, strict=True)
    ]


async def _score(admission: Admission, prompts: Sequence[Prompt]) -> list[ContinuationScore]:
    results = await run_sub_generations(admission, prompts, SCORING)
    return [_score_of(result, prompt) for result, prompt in zip(results, prompts, strict=True)]


def _with_continuation(context: Prompt, continuation: str, tokenizer: Tokenizer) -> Prompt:
    """The context followed by a continuation. The last boundary, where scoring starts, is the end of the context."""
    shared = len(context.token_ids)
    token_ids = (*context.token_ids, *tokenizer.encode(continuation), *tokenizer.eos_token_ids[:1])
    return Prompt(token_ids, (*(boundary for boundary in context.boundaries if boundary < shared), shared))


def _score_of(result: GenerationResult, prompt: Prompt) -> ContinuationScore:
    num_tokens = len(prompt.token_ids) - prompt.boundaries[-1]
    logprobs = (entry.chosen.logprob or 0.0 for entry in result.prompt_logprobs[-num_tokens:])
    return ContinuationScore(math.fsum(logprobs), num_tokens)


def probabilities(log_likelihoods: Sequence[float]) -> list[float]:
    """Softmax: the probability of each continuation among the given ones."""
    highest = max(log_likelihoods)
    weights = [math.exp(value - highest) for value in log_likelihoods]
    total = sum(weights)
    return [weight / total for weight in weights]
