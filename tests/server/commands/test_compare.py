"""`routelm compare`: what a person types, and what is said to what is wrong."""

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.routing_study.study import Study, open_study, read_study
from server.commands.compare import NOT_INSTALLED, app


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Study, Path, dict[str, object]]]:
    """The studies that were asked for, in place of doing them."""
    found: list[tuple[Study, Path, dict[str, object]]] = []
    monkeypatch.setattr(
        "benchmarks.routing_study.run.run_study",
        lambda study, directory, **rest: found.append((study, directory, rest)),
    )
    return found


def test_options_make_a_study(asked: list[tuple[Study, Path, dict[str, object]]], tmp_path: Path) -> None:
    options = ["--data", "texts", "--tokens", "500k", "--seeds", "3", "--variant", "hash", "--variant", "relu"]
    CliRunner().invoke(app, ["run", str(tmp_path), *options, "--workers", "2"])
    [(study, directory, rest)] = asked
    assert study == Study(500_000, seeds=3, variants=("hash", "relu"))
    assert (directory, rest["data_dir"], rest["workers"]) == (tmp_path, Path("texts"), 2)
    assert (Path(str(rest["tokenizer_dir"])) / "tokenizer.json").exists()


def test_defaults_are_the_whole_study(asked: list[tuple[Study, Path, dict[str, object]]], tmp_path: Path) -> None:
    CliRunner().invoke(app, ["run", str(tmp_path)])
    assert asked[0][0] == Study(2_000_000)
    assert asked[0][2]["data_dir"] is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tokens", "many"], "is no number of tokens"),
        (["--size", "XXL"], "no size 'XXL'"),
        (["--variant", "dance"], "no variant 'dance'"),
    ],
)
def test_what_is_wrong_is_said(options: list[str], said: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["run", str(tmp_path), *options])
    assert result.exit_code == 2
    assert said in result.output


def test_stopping_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.routing_study.run.run_study", stopped)
    result = CliRunner().invoke(app, ["run", str(tmp_path)])
    assert result.exit_code == 130
    assert "run the same command to go on" in result.output


def test_a_table_of_nothing_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["table", str(tmp_path)])
    assert result.exit_code == 2
    assert "holds no study" in result.output
    open_study(Study(1000), tmp_path)
    assert read_study(tmp_path).tokens == 1000
    assert "is finished" in CliRunner().invoke(app, ["table", str(tmp_path)]).output


@pytest.mark.parametrize("pictures", [["experts.png"], []])
def test_missing_pictures_are_told(pictures: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They need an extra, and are not what a study fails for."""
    (tmp_path / "table.md").write_text("| a table |\n")
    written = [tmp_path / name for name in ("table.md", *pictures)]
    monkeypatch.setattr("benchmarks.routing_study.document.publish", lambda directory, **_: written)
    result = CliRunner().invoke(app, ["table", str(tmp_path)])
    assert result.exit_code == 0
    said = 'no pictures: they need matplotlib, which comes with pip install "routelm[train]"'
    assert (said in result.stderr) == (not pictures)


@pytest.mark.parametrize("arguments", [["run"], ["table"]])
def test_an_installed_package_says_that_the_study_is_missing(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "benchmarks", None)  # as in a wheel: it cannot be imported
    result = CliRunner().invoke(app, [*arguments, str(tmp_path)])
    assert result.exit_code == 2
    assert result.output == f"{NOT_INSTALLED}\n"
