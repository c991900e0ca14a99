"""The rows a model is evaluated on, and the training rows of the same source, from which baselines learn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

from model.text.language_detection import detect_language
from model.training.data.rows import Row, SourceFile, find_sources, read_source, row_texts, task_of

TASKS = ("translate", "summarize", "analyze", "chat", "generate")
ROWS_TO_TELL_LANGUAGE = 50


@dataclass(frozen=True, slots=True)
class EvaluationSource:
    """The first rows of one file. `training` is the training file of the same source, if it exists."""

    name: str  # such as "translate/tatoeba-en-zh"
    rows: tuple[Row, ...]
    training: SourceFile | None = None

    @property
    def task(self) -> str:
        return task_of(self.name)

    def training_rows(self, limit: int) -> Iterator[Row]:
        """Yield the first `limit` training rows: none where the file is not at hand."""
        return iter(()) if self.training is None else islice(read_source(self.training), limit)

    def language(self) -> str:
        """The language most of the first rows are in: "en", "zh", "de" or "fr"."""
        texts = [" ".join(text for text, _ in row_texts(row)) for row in self.rows[:ROWS_TO_TELL_LANGUAGE]]
        found = [detect_language(text) for text in texts]
        return max(sorted(set(found)), key=found.count)


def load_sources(
    data_dir: Path, tasks: Sequence[str] = TASKS, samples: int | None = None, split: str = "valid"
) -> list[EvaluationSource]:
    """Return the sources of `tasks`, each with its first `samples` rows (all where None).

    A task is a name such as "translate" or a pattern such as "analyze/kdconv-*". ValueError where one of them has no
    rows in `data_dir`.
    """
    if samples is not None and samples < 1:
        raise ValueError(f"samples is {samples}: use 1 or more, or None for all")
    files = find_sources(data_dir, split)
    for task in tasks:
        if not any(_wanted(file.name, task) for file in files):
            known = ", ".join(file.name for file in files) or "nothing"
            raise ValueError(f"no {split} rows for {task!r} in {data_dir}: there is {known}")
    training = {file.name: file for file in find_sources(data_dir, "train")}
    return [
        EvaluationSource(file.name, rows, training.get(file.name))
        for file in files
        if any(_wanted(file.name, task) for task in tasks) and (rows := tuple(islice(read_source(file), samples)))
    ]


def _wanted(name: str, task: str) -> bool:
    return fnmatchcase(name, task if "/" in task else f"{task}/*")
