"""The table from results and logs alone."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.routing_study.plots import pareto_front, write_plots
from benchmarks.routing_study.study import Study, open_study
from benchmarks.routing_study.table import Figure, read_runs, study_table


def cells(text: str, title: str) -> list[str]:
    [row] = [line for line in text.splitlines() if line.startswith(f"| {title} |")]
    return [cell.strip() for cell in row.strip("|").split("|")][1:]


def test_figures_are_means_with_half_the_range(study_dir: Path) -> None:
    text = study_table(study_dir)
    # translate: (2.01 + 2.21) / 2 and (2.02 + 2.22) / 2; generate: 0.5 less than the first
    assert cells(text, "bits per byte, translate") == ["**2.1150 ± 0.0050**", "2.2150 ± 0.0050"]
    assert cells(text, "bits per byte, mean over tasks") == ["**1.8150 ± 0.0050**", "1.9150 ± 0.0050"]
    assert cells(text, "label accuracy, % (most frequent label: 40.0)") == ["**51.5 ± 0.5**"] * 2
    assert cells(text, "tokens/s, decoding 8 rows") == ["800", "**1,200**"]
    assert cells(text, "tokens/s, training") == ["**200**"] * 2


def test_a_dense_network_has_no_router(study_dir: Path) -> None:
    text = study_table(study_dir)
    assert cells(text, "experts per token") == ["2.50", "–"]
    assert cells(text, "idle experts, of all") == ["**0.062 ± 0.062**", "–"]  # none of 8, and 1 of 8
    assert cells(text, "MaxVio")[1] == "–"


def test_what_no_run_has_is_left_out(study_dir: Path) -> None:
    assert "bits per byte, chat" not in study_table(study_dir)


def test_header_and_caption_say_what_it_is(study_dir: Path) -> None:
    caption, _, header, *_ = study_table(study_dir).splitlines()
    assert "Size XS, 1,000 training tokens, 2 seeds" in caption
    assert "3 validation sources, speeds with 2 threads" in caption
    assert header == "|  | softmax top-2 | dense, same active |"


def test_the_same_files_give_the_same_table(study_dir: Path) -> None:
    assert study_table(study_dir) == study_table(study_dir)


def test_runs_that_are_not_finished_are_left_out(study_dir: Path) -> None:
    (study_dir / "dense-active-seed2" / "result.json").unlink()
    assert {name: len(runs) for name, runs in read_runs(study_dir).items()} == {"softmax-top-2": 2, "dense-active": 1}
    assert cells(study_table(study_dir), "bits per byte, translate")[1] == "2.2100"


def test_nothing_finished_is_refused(tmp_path: Path) -> None:
    open_study(Study(1000), tmp_path)
    with pytest.raises(ValueError, match="is finished: go on with"):
        study_table(tmp_path)


def test_it_takes_no_network_to_make_a_table(study_dir: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from benchmarks.routing_study.document import publish; "
        f"publish(Path({str(study_dir)!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_spread_that_rounds_to_nothing_is_not_shown() -> None:
    assert Figure.of([1.0, 1.001]).show(2) == "1.00"
    assert Figure.of([1.0, 1.02]).show(2) == "1.01 ± 0.01"
    assert Figure.of([1234.0]).show(0) == "1,234"


def test_pictures_are_written(study_dir: Path) -> None:
    written = write_plots(study_dir)
    assert [path.name for path in written] == ["quality-speed.png", "experts.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


def test_front_is_what_no_other_beats_in_both() -> None:
    points = {"slow": (1.0, 1.0), "fast": (4.0, 2.0), "middle": (2.0, 1.5), "beaten": (1.5, 1.6), "worse": (4.0, 2.5)}
    assert pareto_front(points) == ["fast", "middle", "slow"]
    assert pareto_front({"alone": (1.0, 1.0)}) == ["alone"]
