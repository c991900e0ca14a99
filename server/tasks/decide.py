"""Closed questions about a text: the probability of each option, from the likelihood of the model answering with it."""

from collections.abc import Sequence
from dataclasses import dataclass

from server.errors import InvalidRequestError
from server.generation.admission import Admission
from server.tasks.label_scoring import ScoringRequest, probabilities, score_continuations

MAX_OPTIONS = 1024  # of all questions: each is a request to the engine
MAX_PROMPT_TOKENS = 2**23  # of all options


@dataclass(frozen=True, slots=True)
class Option:
    label: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class LabelQuestion:
    instructions: str
    options: Sequence[Option]


async def decide(admission: Admission, text: str, questions: Sequence[LabelQuestion]) -> list[list[float]]:
    """For each question the probabilities of its options, in their order; they sum to 1.

    Raises InvalidRequestError for more than MAX_OPTIONS options, and more than MAX_PROMPT_TOKENS tokens in all.
    """
    total = sum(len(question.options) for question in questions)
    if total > MAX_OPTIONS:
        raise InvalidRequestError(
            f"The questions have {total} options together, and {MAX_OPTIONS} are served: ask fewer at once.",
            param="questions",
        )
    service = admission.service
    requests: list[ScoringRequest] = []
    num_tokens = 0
    for question in questions:
        options = [(option.label, option.description) for option in question.options]
        prompt = await service.task_prompt(service.prompts.decide(text, question.instructions, options))
        service.check_length(prompt)  # the first of hundreds says that the text is too long
        num_tokens += len(prompt.token_ids) * len(options)
        if num_tokens > MAX_PROMPT_TOKENS:
            raise InvalidRequestError(
                f"The options have more than {MAX_PROMPT_TOKENS:,} tokens of input together: ask fewer questions at "
                "once, or about a shorter text.",
                param="questions",
            )
        requests.append(ScoringRequest(prompt, [option.label for option in question.options]))
    rows = await score_continuations(admission, requests)
    return [probabilities([score.log_likelihood for score in row]) for row in rows]
