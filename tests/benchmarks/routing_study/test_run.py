"""A whole study in seconds: equal data, stopped and resumed, measured once."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import tokenizers

from benchmarks.routing_study.result import read_result
from benchmarks.routing_study.run import run_study
from benchmarks.routing_study.study import Study, SubRun
from benchmarks.routing_study.sub_run import Materials, do_run, load_materials, recipe_of
from benchmarks.routing_study.table import study_table
from benchmarks.routing_study.variants import Size
from model.training.loop.log import RunLog
from model.training.loop.trainer import Trainer
from tests.benchmarks.routing_study.conftest import BUNDLED

TOKENS = 8_000  # three steps
ROWS = {"rows_per_source": 2, "rows_per_label_set": 2, "rows_per_probe": 1}


class Stopped(Exception):  # noqa: N818
    """In place of a person's Ctrl-C."""


@pytest.fixture
def study(tiny: Size) -> Study:
    return Study(TOKENS, seeds=1, size="tiny", variants=("relu", "dense-active"), **ROWS)


@pytest.fixture
def materials(study: Study, data_dir: Path, prepared: Path, tokenizer: tokenizers.Tokenizer) -> Materials:
    return load_materials(study, data_dir, prepared, tokenizer)


def logged(study_dir: Path, run: SubRun) -> list[dict[str, float]]:
    """The log without what depends on the machine's speed."""
    lines = [asdict(line) for line in RunLog(run.directory(study_dir)).lines()]
    return [{key: value for key, value in line.items() if key != "tokens_per_second"} for line in lines]


def test_a_study_runs_whole_once_and_makes_a_table(
    study: Study, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("benchmarks.routing_study.run.EXTRA_SOURCES", ())  # their 90,000 rows take half a minute
    arguments = {"data_dir": data_dir, "tokenizer_dir": BUNDLED, "workers": 1, "log": said.append}
    run_study(study, tmp_path, **arguments)  # type: ignore[arg-type]
    assert sum("bits per byte" in line for line in said) == 2
    assert said[-1].startswith("run 2 of 2, dense-active, seed 1")
    routed, dense = (read_result(run.directory(tmp_path)) for run in (SubRun("relu", 1), SubRun("dense-active", 1)))
    assert routed.tokens == dense.tokens >= TOKENS
    assert set(routed.agreement) == {"0.25", "0.5", "0.75"}
    assert (len(routed.layers), dense.layers, dense.agreement) == (4, (), {})
    assert 0 <= routed.accuracy["analyze/reviews-en"] <= 100
    assert all(0 < bits < 20 for bits in routed.bits_per_byte.values())
    assert "ReLU" in study_table(tmp_path)

    monkeypatch.setattr("benchmarks.routing_study.run.do_run", lambda *_, **__: pytest.fail("ran again"))
    run_study(study, tmp_path, **arguments)  # type: ignore[arg-type]


def test_all_variants_see_the_same_tokens_in_the_same_order(study: Study, materials: Materials, tmp_path: Path) -> None:
    firsts = []
    for run in study.sub_runs():
        trainer = Trainer(recipe_of(study, run, 7680), materials.prepared, tmp_path / run.variant, workers=1)
        batch = next(trainer.streams["stable"])
        firsts.append((batch.token_ids_BL.tolist(), batch.sources))
    assert firsts[0] == firsts[1]
    other = Trainer(recipe_of(study, SubRun("relu", 2), 7680), materials.prepared, tmp_path / "other", workers=1)
    assert next(other.streams["stable"]).token_ids_BL.tolist() != firsts[0][0]


@pytest.mark.parametrize(
    "variant",
    ["top-p", pytest.param("relu", marks=pytest.mark.slow), pytest.param("expert-threshold", marks=pytest.mark.slow)],
)
def test_a_stopped_and_resumed_run_ends_as_one_that_was_never_stopped(
    variant: str, study: Study, materials: Materials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = SubRun(variant, 1)

    def do(name: str, stop_after: int = 10**9) -> None:
        def on_progress(tokens: int, status: str) -> None:
            if tokens >= stop_after:
                raise Stopped

        do_run(study, run, tmp_path / name, materials, device="cpu", workers=1, on_progress=on_progress)

    monkeypatch.setattr("benchmarks.routing_study.sub_run.CHECKPOINT_SECONDS", 0.0)
    do("whole")
    with pytest.raises(Stopped):
        do("cut", stop_after=TOKENS // 2)
    assert not (run.directory(tmp_path / "cut") / "result.json").exists()
    do("cut")
    assert logged(tmp_path / "cut", run) == logged(tmp_path / "whole", run)
    results = [json.loads((run.directory(tmp_path / name) / "result.json").read_text()) for name in ("whole", "cut")]
    for result in results:
        del result["serving_tokens_per_second"], result["training"]["tokens_per_second"]
    assert results[0] == results[1]


def test_a_run_that_was_stopped_while_it_was_measured_is_not_trained_again(
    study: Study, materials: Materials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = SubRun("hash", 1)
    statuses: list[str] = []

    def on_progress(tokens: int, status: str) -> None:
        statuses.append(status)
        if status == "measuring" and statuses.count("measuring") == 1:
            raise Stopped

    with pytest.raises(Stopped):
        do_run(study, run, tmp_path, materials, device="cpu", workers=1, on_progress=on_progress)
    trained = len(statuses)
    do_run(study, run, tmp_path, materials, device="cpu", workers=1, on_progress=on_progress)
    assert statuses[trained:] == ["measuring"]


@pytest.mark.parametrize(("variant", "buffer", "start"), [("relu", "penalty", 1e-3), ("top-p", "threshold", 0.9)])
def test_training_leads_the_number_of_experts(
    variant: str, buffer: str, start: float, study: Study, materials: Materials, tmp_path: Path
) -> None:
    """The trainer tells routers how many tokens a step had, and adds what they ask to the loss."""
    trainer = Trainer(recipe_of(study, SubRun(variant, 1), 7680), materials.prepared, tmp_path, workers=1)
    [router, *_] = trainer.workers.routers
    router.get_buffer(buffer).fill_(start)
    report = trainer.train_step()
    assert float(router.get_buffer(buffer)) != pytest.approx(start)
    assert report.balance > 0


def test_a_study_needs_something_to_measure_on(
    study: Study, tmp_path: Path, prepared: Path, tokenizer: tokenizers.Tokenizer
) -> None:
    with pytest.raises(ValueError, match="no validation files"):
        load_materials(study, tmp_path, prepared, tokenizer)
