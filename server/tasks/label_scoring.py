"""Log-likelihoods of known continuations: labels of a text, sentences as its summary."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
    first = [(request.context, request.continuations[0]) for request in requests]
    others = [(request.context, continuation) for request in requests for continuation in request.continuations[1:]]
    first_scores, rest = await _score(admission, first), iter(await _score(admission, others))
    return [
        [score, *(next(rest) for _ in request.continuations[1:])]
        for score, request in zip(first_scores, requests, strict=True)
    ]


async def _score(admission: Admission, pairs: Sequence[tuple[Prompt, str]]) -> list[ContinuationScore]:
    """The scores of contexts and continuations. Only the prompts that are being computed exist at the same time."""
    tokenizer = admission.service.tokenizer
    answers = [(*tokenizer.encode(continuation), *tokenizer.eos_token_ids[:1]) for _, continuation in pairs]
    prompts = (with_continuation(context, answer) for (context, _), answer in zip(pairs, answers, strict=True))
    results = await run_sub_generations(admission, prompts, SCORING)
    return [_score_of(result, len(answer)) for result, answer in zip(results, answers, strict=True)]


def with_continuation(context: Prompt, answer: Sequence[int]) -> Prompt:
    """The context followed by an answer. The last boundary, where scoring starts, is the end of the context."""
    shared = len(context.token_ids)
    boundaries = (*(boundary for boundary in context.boundaries if boundary < shared), shared)
    return Prompt((*context.token_ids, *answer), boundaries)


def _score_of(result: GenerationResult, num_tokens: int) -> ContinuationScore:
    logprobs = (entry.chosen.known_logprob for entry in result.prompt_logprobs[-num_tokens:])
    return ContinuationScore(math.fsum(logprobs), num_tokens)


def probabilities(log_likelihoods: Sequence[float]) -> list[float]:
    """Softmax: the probability of each continuation among the given ones."""
    highest = max(log_likelihoods)
    weights = [math.exp(value - highest) for value in log_likelihoods]
    total = sum(weights)
    return [weight / total for weight in weights]
