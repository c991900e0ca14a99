"""From a directory of text to a trained model: tokenizer, prepared data, run. Each stage is skipped where it stands."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import tokenizers
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from model.training.prepare import SourceCounts, prepare, read_meta, source_names, tokenizer_digest
from model.training.recipes import RECIPES, Recipe
from model.training.rows import SourceFile, find_sources
from model.training.run import run
from model.training.sample_data import write_sample_data
from model.training.train_tokenizer import sample_texts, save_tokenizer, train_tokenizer
from model.training.trainer import Trainer

Say = Callable[[str], None]


def train(
    recipe: Recipe,
    run_dir: Path,
    *,
    data_dir: Path | None,
    tokenizer_dir: Path | None,
    device: str = "cpu",
    workers: int | None = None,
    say: Say = print,
) -> Path:
    """Do or resume a whole run in `run_dir`; returns the directory of the finished model.

    Without `data_dir` the data is made up (see sample_data); without `tokenizer_dir` a tokenizer is trained on it.
    """
    if data_dir is None:
        data_dir = write_sample_data(run_dir / "sample")
        say(f"no --data given: made sample data in {data_dir}")
    if tokenizer_dir is None:
        tokenizer_dir = ensure_tokenizer(data_dir, run_dir / "tokenizer", recipe.model.vocab_size, say)
    prepared = ensure_prepared(data_dir, tokenizer_dir, run_dir / "data", say)
    trainer = Trainer(recipe, prepared, run_dir, device=device, workers=workers)
    if trainer.step:
        say(f"resuming at step {trainer.step}, {trainer.tokens:,} tokens")
    return run(trainer, tokenizer_dir=tokenizer_dir, validate_on=validation_sources(prepared))


def recipe_named(name: str, tokens: int | None) -> Recipe:
    """A recipe by its name, with its own or another number of tokens. ValueError lists the names."""
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; there are: {', '.join(RECIPES)}")
    recipe = RECIPES[name]()
    return recipe if tokens is None else replace(recipe, tokens=tokens)


def ensure_tokenizer(data_dir: Path, directory: Path, vocab_size: int, say: Say) -> Path:
    """Train a tokenizer on the data unless `directory` has one."""
    if not (directory / "tokenizer.json").exists():
        say(f"training a tokenizer of {vocab_size} tokens")
        save_tokenizer(train_tokenizer(sample_texts(data_dir), vocab_size), directory)
    return directory


def ensure_prepared(data_dir: Path, tokenizer_dir: Path, directory: Path, say: Say) -> Path:
    """Encode the data unless `directory` holds it, encoded with the same tokenizer."""
    tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    if (directory / "meta.json").exists() and read_meta(directory)["tokenizer"] == tokenizer_digest(tokenizer):
        return directory
    shutil.rmtree(directory, ignore_errors=True)
    files = [source for split in ("valid", "train") for source in find_sources(data_dir, split)]
    with Progress(
        TextColumn("encoding"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    ) as bars:
        task = bars.add_task("encoding", total=sum(source.path.stat().st_size for source in files))

        def done(source: SourceFile, counts: SourceCounts) -> None:
            bars.advance(task, source.path.stat().st_size)
            say(f"{source.name} ({source.split}): {_in_words(counts)}")

        prepare(data_dir, tokenizer, directory, progress=done)
    return directory


def _in_words(counts: SourceCounts) -> str:
    dropped = counts.duplicates + counts.in_validation + counts.too_long
    return (
        f"{counts.examples:,} examples of {counts.tokens:,} tokens; {dropped:,} of {counts.rows:,} rows dropped "
        f"({counts.duplicates:,} twice, {counts.in_validation:,} in validation, {counts.too_long:,} too long)"
    )


def validation_sources(prepared: Path) -> list[str]:
    """The validation sources to watch while training: two of each task, the last by name."""
    by_task: dict[str, list[str]] = {}
    for name in source_names(prepared, "valid"):
        by_task.setdefault(name.split("/")[0], []).append(name)
    return [name for names in by_task.values() for name in names[-2:]]
