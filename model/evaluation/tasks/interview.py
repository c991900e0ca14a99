"""An interview: everyday questions at the model's default settings, with patterns that a right answer matches.

A question is a line of JSON: `{"lang", "kind", "messages", "must_match", "must_not_match"}`. `messages` are the user's
turns; the model answers each of them, and the patterns are searched for in its last answer. The questions of
interview.jsonl are this project's own and never trained on.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.evaluation.metrics import is_looped, split_words
from model.evaluation.progress import Progress
from model.evaluation.requests import Message, Model, Reply
from model.evaluation.scores import Outcome, Sample, Score, ScoreOf, mean_score
from model.training.data.rows import read_rows

QUESTIONS_FILE = Path(__file__).with_name("interview.jsonl")
MAX_TOKENS = 128
ALL = "all"


@dataclass(frozen=True, slots=True)
class Question:
    """One question. A right answer matches one of `must_match` and none of `must_not_match` (regular expressions)."""

    lang: str
    kind: str  # "fact", "persona", "instruction" or "smalltalk"
    turns: tuple[str, ...]  # of the user
    must_match: tuple[str, ...]
    must_not_match: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        patterns = (*self.must_match, *self.must_not_match)
        if not all(isinstance(text, str) for text in (self.lang, self.kind, *self.turns, *patterns)):
            raise TypeError("lang, kind, content and the patterns are texts")
        if not self.turns or not self.must_match:
            raise ValueError("messages and must_match are not empty")
        for pattern in patterns:
            re.compile(pattern)

    def is_right(self, answer: str) -> bool:
        found = any(re.search(pattern, answer) for pattern in self.must_match)
        return found and not any(re.search(pattern, answer) for pattern in self.must_not_match)


@dataclass(frozen=True, slots=True)
class Interview:
    """The questions and the model's answers, one to each turn of each question."""

    questions: tuple[Question, ...]
    answers: tuple[tuple[str, ...], ...]

    def transcript(self) -> str:
        """Markdown: what was asked and answered; a question that was not answered right is marked with a cross."""
        return "\n\n".join(map(_dialogue, self.questions, self.answers)) + "\n"

    def outcome(self) -> Outcome:
        """The percentage of right answers by kind and language and in all, and of answers that loop."""
        parts = sorted({(question.kind, question.lang) for question in self.questions})
        return Outcome(
            scores=(
                *(self._score(f"interview/{kind}", lang) for kind, lang in parts),
                *(self._score(f"interview/{kind}", ALL) for kind in dict.fromkeys(kind for kind, _ in parts)),
                self._score(f"interview/{ALL}", ALL),
                self._looped(),
            ),
            examples=self._samples(self._firsts()),
            failures=self._samples(
                n
                for n, (question, answers) in enumerate(zip(self.questions, self.answers, strict=True))
                if not question.is_right(answers[-1])
            ),
        )

    def _firsts(self) -> Iterable[int]:
        """The first question of each kind and language."""
        firsts: dict[tuple[str, str], int] = {}
        for number, question in enumerate(self.questions):
            firsts.setdefault((question.kind, question.lang), number)
        return firsts.values()

    def _samples(self, numbers: Iterable[int]) -> tuple[Sample, ...]:
        asked = [(self.questions[number], self.answers[number][-1]) for number in numbers]
        return tuple(
            Sample(f"interview/{question.kind}", question.lang, question.turns[-1], _alternatives(question), last)
            for question, last in asked
        )

    def _score(self, source: str, part: str) -> Score:
        kind = source.partition("/")[2]
        right = [
            100.0 * question.is_right(last)
            for question, (*_, last) in zip(self.questions, self.answers, strict=True)
            if kind in (question.kind, ALL) and part in (question.lang, ALL)
        ]
        return ScoreOf(source, part)("right answers in %", mean_score(right), digits=1)

    def _looped(self) -> Score:
        looped = [100.0 * is_looped(split_words(answer)) for answers in self.answers for answer in answers]
        return ScoreOf(f"interview/{ALL}", ALL)("looped answers in %", mean_score(looped), better="lower", digits=1)


def _alternatives(question: Question) -> str:
    r"""The first pattern as people read it: `(?i)\b(?:calf|calves)\b` is "calf / calves"."""
    text = re.sub(r"\(\?i\)|\(\?:|[()]|\\b|\\s\?|(?<!\\)\?", "", question.must_match[0])
    text = re.sub(r"\\w[*+]|\.\*", "…", text)
    return re.sub(r"\\(.)", r"\1", text).replace("|", " / ")


def read_questions(path: Path = QUESTIONS_FILE) -> list[Question]:
    """Read a file of questions. ValueError, naming the line, where it is not in the format, and where there is none."""
    questions = []
    for number, row in enumerate(read_rows(path), start=1):
        try:
            turns = tuple(message["content"] for message in row["messages"])
            patterns = row["must_match"], row.get("must_not_match", [])
            if not all(isinstance(listed, list) for listed in patterns):
                raise TypeError("must_match and must_not_match are lists")
            questions.append(Question(row["lang"], row["kind"], turns, *map(tuple, patterns)))
        except (KeyError, TypeError, ValueError, re.error) as error:
            raise ValueError(f"{path}, line {number}: {error!r}; see model/evaluation/tasks/interview.py") from error
    if not questions:
        raise ValueError(f"{path} has no questions")
    return questions


def ask(model: Model, questions: Sequence[Question], progress: Progress) -> Interview:
    """Ask all questions, turn by turn, as many at once as the model likes."""
    answers: list[list[str]] = [[] for _ in questions]
    advance = progress.stage("interview", sum(len(question.turns) for question in questions))
    for turn in range(max((len(question.turns) for question in questions), default=0)):
        asked = [number for number, question in enumerate(questions) if turn < len(question.turns)]
        requests = [Reply(_messages(questions[n].turns, answers[n]), MAX_TOKENS, temperature=None) for n in asked]
        for number, answer in zip(asked, model.generate(requests, advance), strict=True):
            answers[number].append(answer)
    return Interview(tuple(questions), tuple(map(tuple, answers)))


def _messages(turns: Sequence[str], answers: Sequence[str]) -> tuple[Message, ...]:
    """The conversation up to the first turn without an answer."""
    messages: list[Message] = []
    for turn, answer in zip(turns, answers, strict=False):
        messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": answer}]
    return (*messages, {"role": "user", "content": turns[len(answers)]})


def _dialogue(question: Question, answers: Sequence[str]) -> str:
    mark = "" if question.is_right(answers[-1]) else "✗ "
    lines = [f"**{question.kind}, {question.lang}** {mark}".rstrip()]
    for turn, answer in zip(question.turns, answers, strict=True):
        lines += [f"- user: {turn}", f"- model: {' '.join(answer.split())}"]
    return "\n".join(lines)
