"""A whole study by one call: the runs one after another, with the time left over all of them."""

from pathlib import Path
from statistics import fmean

import tokenizers
from rich.progress import Progress, TaskID

from benchmarks.routing_study.likelihood import by_task
from benchmarks.routing_study.study import RESULT_NAME, Study, open_study
from benchmarks.routing_study.sub_run import Materials, OnProgress, do_run, load_materials
from model.bundled_recipe.extra_sources import EXTRA_SOURCES
from model.training.data.sample_data import write_sample_data
from model.training.loop.progress import token_progress
from model.training.pipeline import Log, ensure_prepared


def run_study(
    study: Study,
    directory: Path,
    *,
    data_dir: Path | None,
    tokenizer_dir: Path,
    device: str = "cpu",
    workers: int | None = None,
    log: Log = print,
) -> None:
    """Do what is left of the study in `directory`; stop it at any moment and call it again.

    Without `data_dir` the data is made up (see sample_data). ValueError where `directory` holds another study.
    """
    open_study(study, directory)
    extra_sources = () if data_dir is None else EXTRA_SOURCES  # a hundred times as much as what is made up
    if data_dir is None:
        data_dir = write_sample_data(directory / "sample")
    tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    prepared = ensure_prepared(data_dir, tokenizer_dir, directory / "data", log, extra_sources)
    materials = load_materials(study, data_dir, prepared, tokenizer)
    with token_progress(speed_estimate_seconds=1800) as bars:
        _run_all(study, directory, materials, bars, device=device, workers=workers, log=log)


def _run_all(
    study: Study,
    directory: Path,
    materials: Materials,
    bars: Progress,
    *,
    device: str,
    workers: int | None,
    log: Log,
) -> None:
    """Go through the runs that have no result yet."""
    runs = list(study.sub_runs())
    left = [run for run in runs if not (run.directory(directory) / RESULT_NAME).exists()]
    done = len(runs) - len(left)
    bar = bars.add_task("study", total=len(runs) * study.tokens, completed=done * study.tokens, status="")
    for number, run in enumerate(left, start=done):
        name = f"run {number + 1} of {len(runs)}, {run.variant}, seed {run.seed}"
        on_progress = _progress_of(bars, bar, name, number * study.tokens)
        result = do_run(study, run, directory, materials, device=device, workers=workers, on_progress=on_progress)
        log(f"{name}: {fmean(by_task(result.bits_per_byte).values()):.4f} bits per byte")


def _progress_of(bars: Progress, bar: TaskID, name: str, tokens_before: int) -> OnProgress:
    def on_progress(tokens: int, status: str) -> None:
        bars.update(bar, completed=tokens_before + tokens, status=f"{name}: {status}")

    return on_progress
