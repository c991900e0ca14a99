"""Classify texts: the probability of each given label, from the likelihood of the model answering with it."""

from collections.abc import Sequence
from dataclasses import dataclass

from server.errors import InvalidRequestError
from server.generation.admission import Admission
from server.tasks.label_scoring import ScoringRequest, probabilities, score_continuations

MAX_SCORES = 128  # texts times labels: each is a request to the engine


@dataclass(frozen=True, slots=True)
class Classification:
    """The likeliest label, and the probability of each label among the given ones: they sum to 1."""

    label: str
    scores: dict[str, float]


async def classify(admission: Admission, texts: Sequence[str], labels: Sequence[str]) -> list[Classification]:
    """Classify each text. Raises InvalidRequestError for more than MAX_SCORES pairs of text and label."""
    if len(texts) * len(labels) > MAX_SCORES:
        raise InvalidRequestError(
            f"{len(texts)} texts times {len(labels)} labels is more than {MAX_SCORES}.", param="text"
        )
    service = admission.service
    prompts = [await service.chat_prompt(service.prompts.analyze(text, labels)) for text in texts]
    rows = await score_continuations(admission, [ScoringRequest(prompt, labels) for prompt in prompts])
    return [_classification(labels, [score.log_likelihood for score in row]) for row in rows]


def _classification(labels: Sequence[str], log_likelihoods: Sequence[float]) -> Classification:
    scores = dict(zip(labels, probabilities(log_likelihoods), strict=True))
    return Classification(max(labels, key=lambda label: scores[label]), scores)
