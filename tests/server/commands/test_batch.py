"""`routelm batch run`: all answers in the order of the input, and again where it was interrupted."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from server.batches.journal import Journal
from server.batches.store import BatchDescription
from server.cli import app
from server.commands import batch
from server.errors import DiskFullError
from tests.server.applications import Server, make_server
from tests.server.batches.directories import line, open_directory

BODY = {"prompt": "hello", "max_tokens": 3}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    return next_server(monkeypatch)


def next_server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """What the next run of the command has in it; an engine has one life."""
    server = make_server()
    monkeypatch.setattr(batch, "load_backend", lambda settings: server.open_backend)
    return server


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "in.jsonl", tmp_path / "out.jsonl"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["batch", "run", *map(str, arguments)])


def test_answers_and_errors_are_in_the_order_of_the_input(server: Server, files: tuple[Path, Path]) -> None:
    source, target = files
    texts = [line(f"r{number}", body=BODY, url="/v1/generate") for number in range(9)]
    texts[3] = line("r3", body={"prompt": 3})
    texts[5] = line("r5", body=BODY)
    source.write_text("\n".join(texts))
    result = run(source, "-o", target)
    assert result.exit_code == 1
    assert "8 of 9" in result.output
    outputs = [json.loads(text) for text in target.read_text().splitlines()]
    assert [output["custom_id"] for output in outputs] == [f"r{number}" for number in range(9)]
    assert [output["response"]["status_code"] for output in outputs] == [200] * 3 + [400] + [200] * 5
    assert outputs[5]["response"]["body"]["choices"][0]["text"] == outputs[4]["response"]["body"]["text"] == "hel"
    assert sorted(path.name for path in target.parent.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_it_goes_on_where_it_was_interrupted(server: Server, files: tuple[Path, Path]) -> None:
    source, target = files
    source.write_text("\n".join(line(f"r{number}", body=BODY) for number in range(5)))
    with open_directory(target.with_name("out.jsonl.batch")) as directory:
        file_id = batch._stored_input(directory, source, target)
        directory.batches.create(BatchDescription("", None, file_id, "", 1000))
    other = source.with_name("other.jsonl")
    other.write_text(line("x", body=BODY))
    refused = run(other, "-o", target)
    assert refused.exit_code == 2
    assert "another input" in refused.output
    assert run(source, "-o", target).exit_code == 0
    assert len(target.read_text().splitlines()) == 5
    assert len(server.engine.submitted) == 5


@pytest.mark.parametrize("fault", [DiskFullError(), OSError(5, "Input/output error")])
def test_it_goes_on_after_a_fault_of_the_disk(
    server: Server, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    source, target = files
    source.write_text("\n".join(line(f"r{number}", body=BODY) for number in range(9)))
    real, recorded = Journal.record, list[Any]()

    def record(self: Journal, results: Any) -> None:
        if len(recorded) >= 2:
            raise fault
        real(self, results)
        recorded.extend(results)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "record", record)
        stopped = run(source, "-o", target, "--max-num-seqs", 1)
    assert stopped.exit_code == 2
    assert (getattr(fault, "strerror", None) or str(fault)) in stopped.output
    assert "Stopped after 2 of 9: the same command goes on" in stopped.output
    assert not target.exists()
    second = next_server(monkeypatch)
    assert run(source, "-o", target).exit_code == 0
    assert [json.loads(text)["custom_id"] for text in target.read_text().splitlines()] == [f"r{n}" for n in range(9)]
    assert len(second.engine.submitted) == 7
    assert sorted(path.name for path in target.parent.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_wrong_lines_are_named_and_nothing_is_left(server: Server, files: tuple[Path, Path]) -> None:
    source, target = files
    source.write_text("{")
    result = run(source, "-o", target)
    assert result.exit_code == 2
    assert "line 1: This line is not valid JSON, or" in result.output
    assert list(target.parent.iterdir()) == [source]


def test_a_missing_file(files: tuple[Path, Path]) -> None:
    result = run(*files[:1], "-o", files[1])
    assert result.exit_code == 2
    assert "in.jsonl" in result.output


def test_the_answers_replace_neither_the_input_nor_a_directory(
    server: Server, files: tuple[Path, Path], tmp_path: Path
) -> None:
    source, target = files
    source.write_text(line("r0", body=BODY))
    target.symlink_to(source)
    problems = {source: "is the input", target: "is the input"}
    problems |= dict.fromkeys((tmp_path, Path(), Path("/")), "is a directory")
    for output, problem in problems.items():
        result = run(source, "-o", output)
        assert (result.exit_code, problem in result.output) == (2, True)
    assert source.read_text() == line("r0", body=BODY)
    assert server.engine.submitted == []


def test_the_keys_of_a_server_do_not_matter(
    server: Server, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUTELM_API_KEY", "key")
    monkeypatch.setenv("ROUTELM_KEYS_FILE", "/nowhere/keys.toml")
    source, target = files
    source.write_text(line("r0", body=BODY))
    assert run(source, "-o", target).exit_code == 0
