"""Signals as a person at a terminal sends them."""

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture
def signals_of_a_terminal() -> Iterator[None]:
    """Where the tests run in the background of a script, Ctrl-C is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
