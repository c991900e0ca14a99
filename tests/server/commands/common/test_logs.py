"""Where log lines go."""

import io
import json
import logging
import sys

import pytest

from server.commands.common.logs import JsonFormatter, StderrHandler, configure_logging


def test_the_level_is_set_for_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", logging.WARNING)
    configure_logging("error")
    assert root.level == logging.ERROR
    assert len(root.handlers) == 1


def test_lines_follow_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    """A progress bar puts a file in its place that prints above the bar."""
    logger = logging.getLogger("some.module")
    monkeypatch.setattr(logger, "handlers", [StderrHandler()])
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    logger.warning("first")
    replaced = sys.stderr
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    logger.warning("second")
    assert replaced.getvalue() == "first\n"  # type: ignore[attr-defined]
    assert sys.stderr.getvalue() == "second\n"  # type: ignore[attr-defined]


def test_a_json_line_has_the_fields_of_its_record() -> None:
    record = logging.LogRecord("some.module", logging.WARNING, "", 0, "two\nlines of %s", ("a",), None)
    record.fields = {"request_id": "abc"}
    line = JsonFormatter().format(record)
    assert "\n" not in line
    read = json.loads(line)
    assert read.pop("time").endswith("+00:00")
    expected = {"level": "warning", "logger": "some.module", "message": "two\nlines of a", "request_id": "abc"}
    assert read == expected
