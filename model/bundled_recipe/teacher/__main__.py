"""The command: tune the teacher, then let it write and label."""

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich import print as show

from model.bundled_recipe.teacher.network import Llama
from model.bundled_recipe.teacher.texts import (
    CERTAIN,
    CERTAIN_OF_PEOPLE,
    FILM_SENTENCES,
    KINDS,
    REVIEWS,
    STORIES,
    STORY_PROMPT,
    LabelledKind,
    examples,
    is_story,
    labelled,
)
from model.bundled_recipe.teacher.tuning import tune
from model.bundled_recipe.teacher.writing import label_shares, write
from model.checkpoints.hub import local_checkpoint
from model.checkpoints.safetensors_files import open_checkpoint, read_config
from model.text.tokenizer import Tokenizer
from model.training.data.rows import Row, find_sources, read_source, write_training_source

END = "<|im_end|>"
STORY_ROWS, STORY_TOKENS, LABELLED_ROWS, LABELLED_TOKENS = 3072, 560, 8192, 80


@dataclass(frozen=True)
class Teacher:
    """A network with its tokenizer. Texts in, texts out."""

    network: Llama
    tokenizer: Tokenizer

    @property
    def end_id(self) -> int:
        return self.tokenizer.special_tokens[END]

    def tune(self, pairs: Iterable[tuple[str, str]]) -> None:
        encode = self.tokenizer.encode
        tune(self.network, [(encode(p), [*encode(a), self.end_id]) for p, a in pairs], self.end_id, show)

    def write(self, prompt: str, rows: int, max_tokens: int) -> list[str]:
        ids = [self.end_id, *self.tokenizer.encode(prompt)]
        return [self.tokenizer.decode(text).strip() for text in write(self.network, ids, rows, max_tokens, self.end_id)]

    def label_shares(self, kind: LabelledKind, texts: Sequence[str], labels: Sequence[str]) -> list[list[float]]:
        prompts = [[self.end_id, *self.tokenizer.encode(kind.label_request(text))] for text in texts]
        return label_shares(self.network, prompts, [self.tokenizer.encode(f" {label}")[0] for label in labels])


def stories(teacher: Teacher, seconds: float) -> Iterator[Row]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for text in filter(is_story, teacher.write(STORY_PROMPT, STORY_ROWS, STORY_TOKENS)):
            yield {"task": "generate", "text": text}


def labelled_texts(teacher: Teacher, kind: LabelledKind, labels: Sequence[str]) -> Iterator[Row]:
    for label in labels:
        for begun in range(0, kind.per_label, LABELLED_ROWS):
            rows = min(LABELLED_ROWS, kind.per_label - begun)
            texts = teacher.write(kind.request_for(label), rows, LABELLED_TOKENS)
            shares = teacher.label_shares(kind, texts, labels)
            found = (labelled(text, labels, s, CERTAIN, asked=label) for text, s in zip(texts, shares, strict=True))
            yield from (row for row in found if row)


def film_sentences(teacher: Teacher, rows: Sequence[Row], labels: Sequence[str]) -> Iterator[Row]:
    """Sentences of film reviews that people wrote and nobody labelled, with the teacher's labels."""
    texts = [row["text"] for row in rows if row["label"] == "subjective"]
    for text, shares in zip(texts, teacher.label_shares(REVIEWS, texts, labels), strict=True):
        row = labelled(text, labels, shares, CERTAIN_OF_PEOPLE)
        if row:
            yield row


def accuracy(teacher: Teacher, kind: LabelledKind, rows: Sequence[Row]) -> float:
    labels: list[str] = rows[0]["label_set"]
    shares = teacher.label_shares(kind, [row["text"] for row in rows], labels)
    return sum(labels[s.index(max(s))] == row["label"] for s, row in zip(shares, rows, strict=True)) / len(rows)


def _read(data_dir: Path, split: str) -> dict[str, list[Row]]:
    wanted = {STORIES, FILM_SENTENCES, *(kind.source for kind in KINDS)}
    return {s.name: list(read_source(s)) for s in find_sources(data_dir, split) if s.name in wanted}


def _write(out_dir: Path, source: str, rows: Iterable[Row]) -> None:
    path, count = write_training_source(out_dir, source, rows)
    show(f"{path}: {count:,} texts")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m model.bundled_recipe.teacher", description=__doc__)
    parser.add_argument("teacher", type=Path, help="a GGUF file or checkpoint of SmolLM2, or of a Llama like it")
    parser.add_argument("data", type=Path, help="directory of JSON Lines files: see docs/training.md")
    parser.add_argument("out", type=Path, help="directory for the new files, which may be that of the data")
    parser.add_argument("--device", default="cuda", help="cpu or cuda (default: cuda)")
    parser.add_argument("--story-seconds", type=float, default=65.0, help="how long it writes stories (default: 65)")
    chosen = parser.parse_args(arguments)
    torch.manual_seed(0)
    train, valid = _read(chosen.data, "train"), _read(chosen.data, "valid")
    directory = local_checkpoint(chosen.teacher)
    reader = open_checkpoint(directory)
    network = Llama(read_config(directory), {name: reader.get(name) for name in reader.names()}).to(chosen.device)
    teacher = Teacher(network, Tokenizer.load(directory))
    teacher.tune(examples(train))
    network.to(torch.bfloat16)
    for kind in KINDS:
        show(f"{kind.source}: {accuracy(teacher, kind, valid[kind.source]):.1%} of the validation labels are right")
        labels = train[kind.source][0]["label_set"]
        _write(chosen.out, kind.new_source, labelled_texts(teacher, kind, labels))
    labels = train[REVIEWS.source][0]["label_set"]
    _write(chosen.out, "analyze/taught-reviews-en", film_sentences(teacher, train[FILM_SENTENCES], labels))
    _write(chosen.out, "generate/taught-stories-en", stories(teacher, chosen.story_seconds))


if __name__ == "__main__":
    main()
