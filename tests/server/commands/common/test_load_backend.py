"""What a person sees while a model is loaded."""

import io
import logging
import re

import pytest
from rich.console import Console

from server.commands.common import load_backend
from server.commands.common.load_backend import loading_progress
from server.commands.common.logs import StderrHandler


def on_terminal() -> tuple[Console, io.StringIO]:
    screen = io.StringIO()
    return Console(file=screen, force_terminal=True, width=120), screen


def test_a_terminal_shows_bytes_and_time_left() -> None:
    console, screen = on_terminal()
    with loading_progress(console, "mine") as progress:
        progress(2**28, 2**30)
    assert "loading mine" in screen.getvalue()
    assert "0.2/1.0 GiB" in screen.getvalue()
    assert "-:--:--" in screen.getvalue()


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    monkeypatch.setattr("server.commands.common.load_backend.time.monotonic", lambda: now[0])
    with caplog.at_level(logging.INFO), loading_progress(None, "mine") as progress:
        for second in range(25):
            now[0] = float(second)
            progress(second * 2**30, 25 * 2**30)
    assert [record.message for record in caplog.records] == [
        "loading mine: 10.00 GiB of 25.00 GiB",
        "loading mine: 20.00 GiB of 25.00 GiB",
    ]


def test_nothing_is_drawn_while_the_hub_draws() -> None:
    console, screen = on_terminal()
    with loading_progress(console, "org/name") as progress:
        assert screen.getvalue() == ""
        progress(1, 2)
        assert "loading org/name" in screen.getvalue()


def test_a_log_line_has_a_line_of_its_own_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("some.module")
    monkeypatch.setattr(logger, "handlers", [StderrHandler()])
    monkeypatch.setattr(logger, "propagate", False)
    console, screen = on_terminal()
    with loading_progress(console, "mine") as progress:
        progress(2**28, 2**30)
        logger.warning("something happened")
    assert re.search(r"(\r|\n|\x1b\[2K)something happened\n", screen.getvalue())


def test_a_process_without_stderr_logs_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python sets it to None where whoever starts the server has closed it: `routelm serve 2>&-`."""
    monkeypatch.setattr("sys.stderr", None)
    assert load_backend._terminal() is None
