"""Which work is done in a thread, so that the event loop stays free."""

import asyncio
import threading
import time
import timeit
from pathlib import Path

import model
from model.text.tokenizer import Tokenizer
from server.generation.run_in_thread import LONG_TEXT, run_in_thread

BUNDLED = Path(model.__file__).parent / "bundled"


def thread_of(text: str, size: int | None = None) -> str:
    return asyncio.run(run_in_thread(lambda _: threading.current_thread().name, text, size))


def test_long_texts_leave_the_event_loop() -> None:
    here = threading.current_thread().name
    assert thread_of("a" * LONG_TEXT) == here
    assert thread_of("a" * (LONG_TEXT + 1)) != here
    assert thread_of("a", size=LONG_TEXT + 1) != here


def test_what_stays_on_the_event_loop_takes_milliseconds() -> None:
    """A request may have 64 such texts, and others wait for each of them."""
    tokenizer = Tokenizer.load(BUNDLED)
    text = ("The boat 1 " * LONG_TEXT)[:LONG_TEXT]
    seconds = timeit.repeat(lambda: tokenizer.encode_document(text), time.thread_time, number=1, repeat=5)
    assert min(seconds) < 0.005
