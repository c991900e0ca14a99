"""A model whose answers a test gives as functions, and rows of every task in a directory."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.evaluation.progress import Advance
from model.evaluation.requests import (
    Analyze,
    Continue,
    GenerationRequest,
    LabelScores,
    Likelihood,
    Reply,
    ReplyLikelihood,
    ScoringRequest,
)

Rows = list[dict[str, Any]]
LABELS = ("positive", "negative")


def copy(request: GenerationRequest) -> str:
    """Give back what was asked."""
    if isinstance(request, Reply):
        return str(request.messages[-1]["content"])
    return request.prompt if isinstance(request, Continue) else request.text


class Remembering:
    """Answers always the same and keeps the requests."""

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.asked: list[GenerationRequest] = []

    def __call__(self, request: GenerationRequest) -> str:
        self.asked.append(request)
        return self.answer


def first_label(request: Analyze) -> LabelScores:
    rest = 0.2 / (len(request.labels) - 1)
    return dict.fromkeys(request.labels, rest) | {request.labels[0]: 0.8}


def one_nat_a_byte(request: ScoringRequest) -> Likelihood:
    text = request.reply if isinstance(request, ReplyLikelihood) else request.text
    size = len(text.encode())
    return Likelihood(-float(size), size, size)


@dataclass
class FakeModel:
    answer: Callable[[GenerationRequest], str] = copy
    label: Callable[[Analyze], LabelScores] = first_label
    likelihood: Callable[[ScoringRequest], Likelihood] = one_nat_a_byte
    name: str = "fake"

    def generate(self, requests: Sequence[GenerationRequest], advance: Advance) -> list[str]:
        advance(len(requests))
        return [self.answer(request) for request in requests]

    def classify(self, requests: Sequence[Analyze], advance: Advance) -> list[LabelScores]:
        advance(len(requests))
        return [self.label(request) for request in requests]

    def score(self, requests: Sequence[ScoringRequest], advance: Advance) -> list[Likelihood]:
        advance(len(requests))
        return [self.likelihood(request) for request in requests]


class CountingProgress:
    """Remembers each stage with its total and how far it came."""

    def __init__(self) -> None:
        self.totals: dict[str, int] = {}
        self.done: dict[str, int] = {}

    def stage(self, name: str, total: int) -> Advance:
        assert name not in self.totals
        self.totals[name], self.done[name] = total, 0

        def advance(count: int) -> None:
            self.done[name] += count

        return advance


def write_rows(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")


def translation(source: str, target: str, target_lang: str = "de") -> dict[str, Any]:
    return {"task": "translate", "source_lang": "en", "target_lang": target_lang, "source": source, "target": target}


def summary(document: str, short: str) -> dict[str, Any]:
    return {"task": "summarize", "document": document, "summary": short}


def labelled(text: str, label: str, labels: Sequence[str] = LABELS) -> dict[str, Any]:
    return {"task": "analyze", "text": text, "label": label, "label_set": list(labels)}


def conversation(*contents: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    messages = [{"role": roles[turn % 2], "content": content} for turn, content in enumerate(contents)]
    return {"task": "chat", "messages": messages}


def document(text: str) -> dict[str, Any]:
    return {"task": "generate", "text": text}


GERMAN = (
    ("The dog sleeps in the house.", "Der Hund schläft in dem Haus."),
    ("I drink a glass of water every day.", "Ich trinke jeden Tag ein Glas Wasser."),
    ("Where is the station, please?", "Wo ist bitte der Bahnhof?"),
    ("She reads the book that he wrote.", "Sie liest das Buch, das er schrieb."),
    ("We are going home now because it is late.", "Wir gehen jetzt nach Hause, weil es spät ist."),
    ("My brother does not like the rain.", "Mein Bruder mag den Regen nicht."),
)
STORY = "Once upon a time there was a small {0} who lived in the wood with a {1} and was never sad about it at all. "


def write_data(root: Path) -> Path:
    """All five tasks: validation rows, and training rows for labels, summaries, texts and conversations."""
    animals = ("fox", "bear", "hare", "owl", "mouse", "wolf")
    stories = [STORY.format(one, other) * 2 for one in animals for other in animals]
    opinions = [labelled(f"a good and lovely film, number {n}", "positive") for n in range(12)]
    opinions += [labelled(f"a bad and boring film, number {n}", "negative") for n in range(12)]
    files: dict[str, Rows] = {
        "translate/tatoeba-en-de.valid": [translation(*pair) for pair in GERMAN],
        "summarize/news-en.valid": [
            summary(f"The {a} ran away. It was never seen again.", f"{a} gone") for a in animals
        ],
        "summarize/news-en.train": [summary(f"A {a} came. It stayed.", f"a {a} came") for a in animals],
        "summarize/secret-en-nc.valid": [summary("Nobody may sell this.", "secret")],
        "analyze/films-en.valid": [opinions[n] for n in (0, 12, 1, 13, 2, 14)],
        "analyze/films-en.train": opinions,
        "chat/talk-en.valid": [conversation(f"Do you like the {a}?", f"Yes, the {a} is what I like.") for a in animals],
        "chat/talk-en.train": [conversation("What do you like?", f"I like the {a}.") for a in animals],
        "generate/stories-en.valid": [document(text) for text in stories[::6]],
        "generate/stories-en.train": [document(text) for text in stories[1::6]],
        "generate/tales-en.valid": [document(text) for text in stories[2::6]],
    }
    for name, rows in files.items():
        write_rows(root / f"{name}.jsonl", rows)
    return root
