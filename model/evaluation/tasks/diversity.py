"""Sampled stories and answers: how varied they are and how much they repeat themselves, next to what people wrote.

Texts are cut to the length of the human text of the same row, or that to theirs: both counts grow with length.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from model.evaluation.data import EvaluationSource
from model.evaluation.metrics import REPEATED, distinct, repetition, split_words
from model.evaluation.progress import Progress
from model.evaluation.requests import Continue, GenerationRequest, Model, Reply
from model.evaluation.scores import Baseline, Outcome, Sample, Score, ScoreOf, join, mean_score
from model.training.data.rows import Row

MAX_TOKENS = 128
TEMPERATURE = 0.8
OPENING_WORDS = 20
OPENING_CHARACTERS = 20  # in Chinese


@dataclass(frozen=True, slots=True)
class _Prompt:
    """One request, how it reads, and how a person went on."""

    request: GenerationRequest
    shown: str
    human: str


def evaluate_continuations(model: Model, sources: Sequence[EvaluationSource], progress: Progress) -> Outcome:
    """Let the model go on from the opening of every text."""
    return join([_source(model, source, [*map(_opening, source.rows)], progress) for source in sources])


def evaluate_replies(model: Model, sources: Sequence[EvaluationSource], progress: Progress) -> Outcome:
    """Let the model give the last answer of every conversation."""
    return join([_source(model, source, [*map(_reply, source.rows)], progress) for source in sources])


def _source(model: Model, source: EvaluationSource, prompts: Sequence[_Prompt | None], progress: Progress) -> Outcome:
    usable = [prompt for prompt in prompts if prompt is not None]
    if not usable:
        return Outcome()
    advance = progress.stage(f"{source.name} sampled", len(usable))
    answers = model.generate([prompt.request for prompt in usable], advance)
    pairs = [_even(answer, prompt.human) for answer, prompt in zip(answers, usable, strict=True)]
    ours, human = [answer for answer, _ in pairs], [text for _, text in pairs]
    language = source.language()
    examples = [
        Sample(source.name, language, prompt.shown, prompt.human, answer)
        for prompt, answer in zip(usable, answers, strict=True)
    ]
    worst = max(range(len(examples)), key=lambda index: repetition(split_words(answers[index])))
    scores = _scores(ScoreOf(source.name, language), ours, human)
    return Outcome(scores, (examples[0],), (examples[worst],))


def _scores(of: ScoreOf, ours: list[list[str]], human: list[list[str]]) -> tuple[Score, ...]:
    signature = f"temperature:{TEMPERATURE}|max_tokens:{MAX_TOKENS}|cut to equal length"
    repeated = of(
        f"repetition-{REPEATED}",
        mean_score([repetition(words) for words in ours]),
        better="neither",
        comparisons=[Baseline("human", mean_score([repetition(words) for words in human]).value)],
        signature=signature,
    )
    return (*(_distinct(of, n, ours, human, signature) for n in (1, 2)), repeated)


def _distinct(of: ScoreOf, n: int, ours: list[list[str]], human: list[list[str]], signature: str) -> Score:
    """Without an interval: texts drawn twice would make the resampled ones look less varied than they are."""
    return Score(
        source=of.source,
        part=of.part,
        metric=f"distinct-{n}",
        value=distinct(ours, n),
        interval=None,
        samples=len(ours),
        better="neither",
        comparisons=(Baseline("human", distinct(human, n)),),
        signature=signature,
    )


def _opening(row: Row) -> _Prompt | None:
    """A text cut after its first words; None for one that is too short to go on."""
    text = row["text"].strip()
    end = _opening_end(text)
    if end >= len(text):
        return None
    request = Continue(text[:end], MAX_TOKENS, TEMPERATURE, seed=_seed(row))
    return _Prompt(request, text[:end], text[end:].strip())


def _opening_end(text: str) -> int:
    words = text.split(" ")
    if len(words) <= OPENING_WORDS:
        return OPENING_CHARACTERS
    return len(" ".join(words[:OPENING_WORDS]))


def _reply(row: Row) -> _Prompt:
    *before, last = row["messages"]
    request = Reply(tuple(before), MAX_TOKENS, TEMPERATURE, seed=_seed(row))
    return _Prompt(request, "\n".join(f"{m['role']}: {m['content']}" for m in before), last["content"].strip())


def _seed(row: Row) -> int:
    """The same row always gives the same sample."""
    text: str = row["text"] if row["task"] == "generate" else row["messages"][0]["content"]
    return sum(text.encode())


def _even(answer: str, human: str) -> tuple[list[str], list[str]]:
    words, others = split_words(answer), split_words(human)
    size = min(len(words), len(others))
    return words[:size], others[:size]
