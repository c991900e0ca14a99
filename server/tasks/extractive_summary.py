"""Extractive summaries: sentences that the model finds likely as a summary and that are central to the text."""

from dataclasses import dataclass

from model.text.centrality import centrality
from model.text.sentence_split import split_sentences
from server.generation.admission import Admission
from server.generation.run_in_thread import run_in_thread
from server.generation.service import GenerationService
from server.tasks.label_scoring import ScoringRequest, score_continuations
from server.tasks.long_documents import MAX_CHUNKS, split_document

MAX_CANDIDATES = MAX_CHUNKS
SENTENCES = {"short": 1, "medium": 1, "long": 2}
# Both weights are in nats per token and were tuned on training texts, see docs/training.md. A sentence must be better
# than the first one by the penalty. A sentence that shares all its words with the others gets the whole bonus.
POSITION_PENALTY = {"short": 1.5, "medium": 0.2, "long": 0.2}
CENTRALITY_BONUS = 2.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sentence, its position among the candidates, and its score."""

    text: str
    position: int
    score: float


async def extract_summary(admission: Admission, text: str, language: str, length: str) -> str:
    """Return the best sentence, or for a long summary the best two in the order of the text.

    A text that has no more sentences than that is its own summary.
    """
    if await run_in_thread(count_sentences, text) <= SENTENCES[length]:
        return text.strip()
    candidates = await _candidates(admission, text, language, length)
    best = sorted(candidates, key=lambda candidate: -candidate.score)[: SENTENCES[length]]
    space = "" if language == "zh" else " "
    return space.join(candidate.text for candidate in sorted(best, key=lambda candidate: candidate.position))


async def _candidates(admission: Admission, text: str, language: str, length: str) -> list[Candidate]:
    """The first sentences of each chunk with their scores, at most MAX_CANDIDATES in total."""
    chunks = await split_document(admission.service, text)
    per_chunk = MAX_CANDIDATES // len(chunks)
    requests = [await _scoring_request(admission.service, chunk, language, length, per_chunk) for chunk in chunks]
    sentences = [sentence for request in requests for sentence in request.continuations]
    scores = [score for row in await score_continuations(admission, requests) for score in row]
    centralities = centrality(sentences, language)
    return [
        Candidate(
            sentence, position, score.mean - POSITION_PENALTY[length] * (position > 0) + CENTRALITY_BONUS * central
        )
        for position, (sentence, score, central) in enumerate(zip(sentences, scores, centralities, strict=True))
    ]


async def _scoring_request(
    service: GenerationService, chunk: str, language: str, length: str, max_sentences: int
) -> ScoringRequest:
    prompt = await service.task_prompt(service.prompts.summarize(chunk, language, length))
    sentences = [sentence.text for sentence in split_sentences(chunk).sentences]
    return ScoringRequest(prompt, sentences[:max_sentences])


def count_sentences(text: str) -> int:
    return len(split_sentences(text).sentences)
