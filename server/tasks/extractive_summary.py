"""Summaries made of the text's own sentences: likely ones for the model, in which much of the others is said."""

from dataclasses import dataclass

from model.text.centrality import centrality
from model.text.sentence_split import split_sentences
from server.generation.run_in_thread import off_loop
from server.tasks.label_scoring import AnswerScores, Question
from server.tasks.long_documents import MAX_PIECES, pieces_to_read
from server.tasks.sub_generations import EarlierWork

MAX_CANDIDATES = MAX_PIECES
SENTENCES = {"short": 1, "medium": 1, "long": 2}
# Nats per token: by how much a sentence must be better than the first, where the words of titles stand, and what it is
# worth to share all words with the others. Chosen on training texts, see docs/training.md.
NOT_FIRST = {"short": 1.5, "medium": 0.2, "long": 0.2}
CENTRAL = 2.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sentence, where it stands in the text, and what speaks for it."""

    text: str
    place: int
    score: float


class Extraction:
    """Chooses sentences, before the answer to the request that wants them."""

    def __init__(self, earlier: EarlierWork, language: str, length: str) -> None:
        self._service, self._language, self._length = earlier.service, language, length
        self._scores = AnswerScores(earlier)

    async def of(self, text: str) -> str:
        """The best sentence, or two for a long summary, in their order. A text of no more is its own summary."""
        if await off_loop(sentences_in, text) <= SENTENCES[self._length]:
            return text.strip()
        candidates = await self._candidates(text)
        best = sorted(candidates, key=lambda candidate: -candidate.score)[: SENTENCES[self._length]]
        space = "" if self._language == "zh" else " "
        return space.join(candidate.text for candidate in sorted(best, key=lambda candidate: candidate.place))

    async def _candidates(self, text: str) -> list[Candidate]:
        """Of a text that is read in pieces, the first sentences of each."""
        questions = [await self._question(piece) for piece in await pieces_to_read(self._service, text)]
        each = MAX_CANDIDATES // len(questions)
        questions = [Question(question.prompt, question.answers[:each]) for question in questions]
        scores = await self._scores.of(questions)
        found = [pair for q, row in zip(questions, scores, strict=True) for pair in zip(q.answers, row, strict=True)]
        central = centrality([answer for answer, _ in found], self._language)
        return [
            Candidate(answer, place, score.mean - NOT_FIRST[self._length] * (place > 0) + CENTRAL * shared)
            for place, ((answer, score), shared) in enumerate(zip(found, central, strict=True))
        ]

    async def _question(self, piece: str) -> Question:
        prompts = self._service.prompts
        prompt = await self._service.chat_prompt(prompts.summarize(piece, self._language, self._length))
        return Question(prompt, [sentence.text for sentence in split_sentences(piece).sentences])


def sentences_in(text: str) -> int:
    return len(split_sentences(text).sentences)
