"""From a directory of text to a trained model: tokenizer, prepared data, run. Finished stages are skipped."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import tokenizers
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from model.training.data.prepare import (
    ExtraSource,
    SourceCounts,
    changed_files,
    is_prepared,
    prepare,
    read_meta,
    source_names,
    tokenizer_digest,
)
from model.training.data.rows import find_all_sources, task_of
from model.training.data.sample_data import write_sample_data
from model.training.loop.run import run
from model.training.loop.trainer import Trainer
from model.training.recipe import Recipe
from model.training.train_tokenizer import sample_texts, save_tokenizer, train_tokenizer

Log = Callable[[str], None]  # shows a line to the person at the terminal


def train(
    recipe: Recipe,
    run_dir: Path,
    *,
    data_dir: Path | None,
    tokenizer_dir: Path | None,
    device: str = "cpu",
    workers: int | None = None,
    start_from: Path | None = None,
    extra_sources: Sequence[ExtraSource] = (),
    log: Log = print,
) -> Path:
    """Start or resume a run in `run_dir`; returns the directory of the finished model.

    A new run takes its weights from the run in `start_from`, where given; it must have the same tokenizer.
    `extra_sources` are prepared with the files of the data directory.
    Without `data_dir` a run goes on with the data it has, and a new one gets data that is made up (see sample_data),
    without extra sources: those of the bundled recipes are a hundred times as much, and take minutes.
    Without `tokenizer_dir` a tokenizer is trained on the data. ValueError where `run_dir` holds something else.
    """
    _check_run_dir(run_dir)
    if data_dir is None:
        data_dir, extra_sources = run_dir / "sample", ()
        if not (run_dir / "data" / "meta.json").exists():
            write_sample_data(data_dir)
            log(f"no --data given: made sample data in {data_dir}")
    if tokenizer_dir is None:
        tokenizer_dir = ensure_tokenizer(data_dir, run_dir / "tokenizer", recipe.model.vocab_size, log)
    _check_tokenizer(tokenizer_dir, recipe, run_dir)
    prepared = ensure_prepared(data_dir, tokenizer_dir, run_dir / "data", log, extra_sources)
    trainer = Trainer(recipe, prepared, run_dir, device=device, workers=workers, start_from=start_from)
    state = trainer.state
    if state.step:
        inherited = f", {state.inherited_tokens:,} of them by earlier runs" if state.inherited_tokens else ""
        log(f"going on at step {state.step}, {state.tokens:,} tokens{inherited}")
    return run(trainer, tokenizer_dir=tokenizer_dir, validate_on=validation_sources(prepared))


def ensure_tokenizer(data_dir: Path, directory: Path, vocab_size: int, log: Log) -> Path:
    """Train a tokenizer on the data unless `directory` has one. ValueError where there is no data."""
    if not (directory / "tokenizer.json").exists():
        find_all_sources(data_dir)  # raises before a tokenizer is trained on nothing
        log(f"training a tokenizer of {vocab_size} tokens")
        save_tokenizer(train_tokenizer(sample_texts(data_dir), vocab_size), directory)
    return directory


def ensure_prepared(
    data_dir: Path, tokenizer_dir: Path, directory: Path, log: Log, extra_sources: Sequence[ExtraSource] = ()
) -> Path:
    """Encode the data unless `directory` holds it, encoded with the same tokenizer.

    What is prepared anew is deleted first. ValueError, with nothing deleted, where `directory` holds something else,
    other data included, or there is no data.
    """
    tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    if is_prepared(directory, tokenizer):
        _check_files(data_dir, directory, log)
        return directory
    files = find_all_sources(data_dir)
    if directory.exists():
        if any(directory.iterdir()) and not (directory / "meta.json").exists():
            raise ValueError(f"{directory} holds other files than prepared data: name a new directory")
        shutil.rmtree(directory)
    sizes = {f"{source.name}.{source.split}": source.path.stat().st_size for source in files}
    with Progress(
        TextColumn("encoding"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    ) as bars:
        task = bars.add_task("encoding", total=sum(sizes.values()))

        def on_source(name: str, counts: SourceCounts) -> None:
            bars.advance(task, sizes.get(name, 0))
            log(f"{name}: {_in_words(counts)}")

        prepare(data_dir, tokenizer, directory, extra_sources=extra_sources, on_source=on_source)
    return directory


def _check_run_dir(directory: Path) -> None:
    """ValueError for a directory with other files than those of a run, such as the one a person happens to be in."""
    begun = ("log.jsonl", "data/meta.json", "tokenizer/tokenizer.json", "sample")
    if directory.exists() and any(directory.iterdir()) and not any((directory / name).exists() for name in begun):
        raise ValueError(f"{directory.absolute()} holds other files than those of a run: name a new directory")


def _check_tokenizer(directory: Path, recipe: Recipe, run_dir: Path) -> None:
    """ValueError for more tokens than the network has, and for another tokenizer than that of the run so far."""
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    if tokenizer.get_vocab_size() > recipe.model.vocab_size:
        raise ValueError(
            f"the tokenizer in {directory} has {tokenizer.get_vocab_size()} tokens, and the network of this recipe "
            f"{recipe.model.vocab_size}: use one with no more, or leave it out"
        )
    begun = (run_dir / "log.jsonl").exists() and (run_dir / "data" / "meta.json").exists()
    if begun and read_meta(run_dir / "data")["tokenizer"] not in ("", tokenizer_digest(tokenizer)):
        raise ValueError(
            f"the run in {run_dir} was begun with another tokenizer than the one in {directory}: go on with its own, "
            "or name a new directory"
        )


def _check_files(data_dir: Path, prepared: Path, log: Log) -> None:
    """ValueError where other files were prepared: a run cannot be resumed on them, and nobody would notice."""
    changed = changed_files(prepared, data_dir)
    if changed is None:
        log(f"{prepared} is used as it is: whether {data_dir} holds the files it was prepared from cannot be told")
    elif changed:
        raise ValueError(
            f"{prepared} was prepared from other files than {data_dir} holds now; the first that differs is "
            f"{changed[0]}: name a new directory for the new data, or the data that was prepared"
        )


def _in_words(counts: SourceCounts) -> str:
    dropped = counts.dropped
    reasons = {
        "twice": dropped.duplicates,
        "nearly twice": dropped.near_duplicates,
        "in validation": dropped.in_validation,
        "overlapping with validation": dropped.overlaps,
    }
    why = ", ".join(f"{number:,} {reason}" for reason, number in reasons.items() if number)
    kept = f"{counts.examples:,} examples of {counts.tokens:,} tokens"
    if counts.too_long:
        kept += f", {counts.too_long:,} too long or empty"
    return f"{kept}; {sum(reasons.values()):,} of {counts.rows:,} rows dropped ({why})" if why else kept


def validation_sources(prepared: Path) -> list[str]:
    """The validation sources to watch while training: two of each task, the last by name."""
    by_task: dict[str, list[str]] = {}
    for name in source_names(prepared, "valid"):
        by_task.setdefault(task_of(name), []).append(name)
    return [name for names in by_task.values() for name in names[-2:]]
