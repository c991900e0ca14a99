"""What a result file says of where its figures come from."""

import json
from pathlib import Path

import pytest

from benchmarks import record
from model.kernels.library import library_path, source_digest


def test_a_result_names_the_libraries_it_ran_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    written = json.loads(record.write("speed", {"tokens/s": 3}).read_text())
    assert written["figures"] == {"tokens/s": 3}
    kernels = written["circumstances"]["kernels"]
    for name, _, digest in (line.partition(" of ") for line in kernels):
        source, level = name.removesuffix(".so").split("_")
        assert library_path(source, level).exists()
        assert source_digest().startswith(digest)


def test_a_result_without_compiled_kernels_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "load_library", lambda source: None)
    assert record.circumstances()["kernels"] == []


@pytest.mark.parametrize(
    ("given", "recorded"),
    [
        ("/tmp/models/granite --runs 1", "granite --runs 1"),
        ("--model=/srv/models/granite/", "--model=granite"),
        ("--server a=serve -m '/srv/x.gguf' --port {port}", "--server a=serve -m 'x.gguf' --port {port}"),
        ("$PEERS/granite runs/granite", "$PEERS/granite runs/granite"),
        ("${PEERS}/granite --url http://127.0.0.1:8000/v1", "${PEERS}/granite --url http://127.0.0.1:8000/v1"),
    ],
)
def test_a_recorded_command_has_no_folder_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, given: str, recorded: str
) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/benchmarks/speed.py", *given.split()])
    assert record.circumstances()["command"] == f"python -m benchmarks.speed {recorded}"


def commands(results: Path) -> list[str]:
    """Of all result files in the folder and below it that say where their figures come from."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in results.rglob("*.json")]
    return [one["circumstances"]["command"] for one in found if isinstance(one, dict) and "circumstances" in one]


def test_the_recorded_commands_have_no_folder_of_a_machine() -> None:
    assert len(commands(record.RESULTS)) > 20
    assert [command for command in commands(record.RESULTS) if record.without_folders(command) != command] == []


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [record.percentile(values, share) for share in (0.0, 0.5, 0.99)] == [1.0, 50.0, 99.0]
    assert record.percentile([7.0], 0.99) == 7.0
