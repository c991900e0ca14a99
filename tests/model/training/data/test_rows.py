"""Lines of data files that are not what they should be: the file and the line are named, and what is expected."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model.evaluation.data import load_sources
from model.training.data.rows import find_sources, read_rows, read_source
from model.training.train_tokenizer import sample_texts

TALK = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
GOOD: dict[str, dict[str, Any]] = {
    "generate": {"text": "Once"},
    "translate": {"source": "Hi.", "target": "嗨。", "source_lang": "en", "target_lang": "zh"},
    "summarize": {"document": "A long text.", "summary": "A text."},
    "chat": {"messages": TALK},
    "analyze": {"text": "Fine.", "label": "good", "label_set": ["good", "bad"]},
}
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("generate", {"task": "chat"}, "task is 'chat' in a file of the task 'generate'"),
    ("generate", {"task": None}, "task is None in a file"),
    ("generate", {"text": None}, "text is None: a text is expected"),
    ("generate", {"text": "\ud800"}, "surrogates not allowed"),
    ("translate", {"source": 5}, "source is 5: a text"),
    ("translate", {"target_lang": "tlh"}, "target_lang is 'tlh': use one of en, zh, de, fr"),
    ("summarize", {"summary": ["a"]}, r"summary is \['a'\]: a text"),
    ("chat", {"messages": "Hi."}, "messages is 'Hi.': a list of objects"),
    ("chat", {"messages": []}, r"messages is \[\]: a list of objects"),
    ("chat", {"messages": ["Hi."]}, "a list of objects"),
    ("chat", {"messages": [*TALK, {"role": "tool", "content": "5"}]}, "role is 'tool': use one of system, user"),
    ("chat", {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "content is .*: a text"),
    ("analyze", {"label": 1}, "label is 1: a text"),
    ("analyze", {"label_set": []}, r"label_set is \[\]: a list of texts"),
    ("analyze", {"label_set": ["good", 1]}, "a label is 1: a text"),
]
BROKEN = [
    b"nonsense", b"[1]", b"null", b"", b"\xff", b'{"task": "gener', b'{"n": ' + b"[" * 100_000, b'{"n": ' + b"9" * 5000,
]  # fmt: skip


def lines_of(task: str, *changes: dict[str, Any]) -> str:
    return "".join(json.dumps({"task": task, **GOOD[task], **change}) + "\n" for change in changes)


@pytest.mark.parametrize(
    "read", [lambda path: list(sample_texts(path)), lambda path: load_sources(path, split="train")]
)
@pytest.mark.parametrize(("task", "change", "message"), WRONG)
def test_a_row_without_what_its_task_needs_is_named(
    task: str, change: dict[str, Any], message: str, read: Callable[[Path], object], tmp_path: Path
) -> None:
    for other in GOOD:  # what is right is read
        (tmp_path / other).mkdir()
        (tmp_path / other / "x.train.jsonl").write_text(lines_of(other, {}, {}))
    read(tmp_path)
    (tmp_path / task / "x.train.jsonl").write_text(lines_of(task, {}, change))
    with pytest.raises(ValueError, match=rf"{task}/x\.train\.jsonl, line 2: .*{message}"):
        read(tmp_path)


@pytest.mark.parametrize("key", sorted({key for row in GOOD.values() for key in row}))
def test_a_row_that_lacks_something_is_named(key: str, tmp_path: Path) -> None:
    task = next(task for task, row in GOOD.items() if key in row)
    row = {"task": task, **GOOD[task]}
    del row[key]
    (tmp_path / task).mkdir()
    (tmp_path / task / "x.train.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError, match=rf"x\.train\.jsonl, line 1: {key} is None"):
        list(read_source(find_sources(tmp_path, "train")[0]))


@pytest.mark.parametrize("line", BROKEN, ids=lambda line: repr(line[:10]))
def test_a_line_that_is_no_object_is_named(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"n": 1}\n' + line + b"\n")
    with pytest.raises(ValueError, match=r"x\.jsonl, line 2: "):
        list(read_rows(path))


def test_line_ends_of_windows_and_a_file_without_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"n": 1}\r\n{"n": "a\xe2\x80\xa8b"}')
    assert list(read_rows(path)) == [{"n": 1}, {"n": "a\u2028b"}]
    path.write_bytes(b"")
    assert list(read_rows(path)) == []


def test_a_damaged_compressed_file_is_named(tmp_path: Path) -> None:
    path, whole = tmp_path / "x.jsonl.gz", gzip.compress(b'{"n": 1}\n' * 1000)
    for content in (whole[:-12], whole[:20] + b"abc" + whole[23:], b'{"n": 1}\n'):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.jsonl\.gz, line \d+: "):
            list(read_rows(path))
