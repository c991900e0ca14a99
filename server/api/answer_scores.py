"""How likely the model is to give answers that are known already: labels of a text, sentences as its summary."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass

from server.api.dependencies import admission
from server.engine.types import SamplingParams
from server.generation import GenerationResult, RunningGeneration
from server.prompt import Prompt
from server.service import GenerationService

AT_ONCE = 32  # generations: one request does not fill the queue
SCORING = SamplingParams(max_tokens=0, prompt_logprobs=True)


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, and the answers to it that are weighed, at least one."""

    prompt: Prompt
    answers: Sequence[str]


@dataclass(frozen=True, slots=True)
class AnswerScore:
    """Sum of the log-probabilities of an answer's tokens and of its end, and how many they are."""

    log_likelihood: float
    tokens: int

    @property
    def mean(self) -> float:
        """Nats per token."""
        return self.log_likelihood / self.tokens


class AnswerScores:
    """Asks the engine; `done` are the generations that took, which count as usage."""

    def __init__(self, service: GenerationService, request_id: str) -> None:
        self.done: list[RunningGeneration] = []
        self._service, self._request_id = service, request_id

    async def of(self, questions: Sequence[Question]) -> list[list[AnswerScore]]:
        """The scores of every question's answers. The first answers go ahead: the others find their prompts cached."""
        first = [self._answered(question, question.answers[0]) for question in questions]
        others = [self._answered(question, answer) for question in questions for answer in question.answers[1:]]
        first_scores, rest = await self._scores("first", first), iter(await self._scores("other", others))
        return [
            [score, *(next(rest) for _ in question.answers[1:])]
            for score, question in zip(first_scores, questions, strict=True)
        ]

    async def _scores(self, name: str, prompts: Sequence[Prompt]) -> list[AnswerScore]:
        scores: list[AnswerScore] = []
        for start in range(0, len(prompts), AT_ONCE):
            some = prompts[start : start + AT_ONCE]
            with admission(self._service, f"{self._request_id}-{name}-{start}", some, SCORING) as generations:
                self.done += generations
                results = await asyncio.gather(*(generation.result() for generation in generations))
            scores += [_score(result, prompt) for result, prompt in zip(results, some, strict=True)]
        return scores

    def _answered(self, question: Question, answer: str) -> Prompt:
        """The prompt with an answer. Scoring starts at the last boundary: there the answers begin to differ."""
        prompt, tokenizer = question.prompt, self._service.tokenizer
        shared = len(prompt.token_ids)
        token_ids = (*prompt.token_ids, *tokenizer.encode(answer), *tokenizer.eos_token_ids[:1])
        return Prompt(token_ids, (*(boundary for boundary in prompt.boundaries if boundary < shared), shared))


def _score(result: GenerationResult, prompt: Prompt) -> AnswerScore:
    tokens = len(prompt.token_ids) - prompt.boundaries[-1]
    return AnswerScore(math.fsum(entry.chosen.logprob or 0.0 for entry in result.prompt_logprobs[-tokens:]), tokens)
