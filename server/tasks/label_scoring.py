"""How likely the model is to give answers that are known already: labels of a text, sentences as its summary."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from server.engine.types import SamplingParams
from server.generation.prompt import Prompt
from server.generation.stream import GenerationResult
from server.tasks.sub_generations import EarlierWork

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
    """Asks the engine, before the answer to the request that wants to know."""

    def __init__(self, earlier: EarlierWork) -> None:
        self._earlier = earlier

    async def of(self, questions: Sequence[Question]) -> list[list[AnswerScore]]:
        """The scores of every question's answers. The first answers go ahead: the others find their prompts cached."""
        first = [self._answered(question, question.answers[0]) for question in questions]
        others = [self._answered(question, answer) for question in questions for answer in question.answers[1:]]
        first_scores, rest = await self._scores(first), iter(await self._scores(others))
        return [
            [score, *(next(rest) for _ in question.answers[1:])]
            for score, question in zip(first_scores, questions, strict=True)
        ]

    async def _scores(self, prompts: Sequence[Prompt]) -> list[AnswerScore]:
        results = await self._earlier.results(prompts, SCORING)
        return [_score(result, prompt) for result, prompt in zip(results, prompts, strict=True)]

    def _answered(self, question: Question, answer: str) -> Prompt:
        """The prompt with an answer. Scoring starts at the last boundary: there the answers begin to differ."""
        prompt, tokenizer = question.prompt, self._earlier.service.tokenizer
        shared = len(prompt.token_ids)
        token_ids = (*prompt.token_ids, *tokenizer.encode(answer), *tokenizer.eos_token_ids[:1])
        return Prompt(token_ids, (*(boundary for boundary in prompt.boundaries if boundary < shared), shared))


def _score(result: GenerationResult, prompt: Prompt) -> AnswerScore:
    tokens = len(prompt.token_ids) - prompt.boundaries[-1]
    return AnswerScore(math.fsum(entry.chosen.logprob or 0.0 for entry in result.prompt_logprobs[-tokens:]), tokens)
