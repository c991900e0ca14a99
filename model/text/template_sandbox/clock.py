"""The clock of a rendering, which every operation of a template checks: its CPU time, and the memory that it makes."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from model.text.template_sandbox.limits import TemplateLimitError, check_items, check_number, check_size, checked

MAX_SECONDS = 1.0  # of CPU time, so that a busy machine does not refuse a good template
MAX_BYTES = 2**29  # of all values that one rendering makes
ITEM_BYTES = 64  # of an item that is made together with its list


class Clock:
    """The CPU seconds that several renderings may take in total, and the bytes that each may make.

    Time between them does not count.
    """

    def __init__(self, seconds: float = MAX_SECONDS) -> None:
        self._seconds = self._left = seconds
        self._deadline = 0.0
        self._bytes = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the clock during one rendering."""
        self._deadline, self._bytes = time.thread_time() + self._left, 0
        token = _CLOCK.set(self)
        try:
            yield
        finally:
            _CLOCK.reset(token)
            self._left = self._deadline - time.thread_time()

    def check(self) -> None:
        if time.thread_time() > self._deadline:
            raise TemplateLimitError(f"the chat template of the model ran longer than {self._seconds:g} s")

    def count(self, size: int) -> None:
        self._bytes += size
        if self._bytes > MAX_BYTES:
            raise TemplateLimitError(f"the chat template of the model makes more than {MAX_BYTES >> 20} MiB")


_CLOCK: ContextVar[Clock] = ContextVar("_CLOCK")


def tick(value: Any = None) -> Any:
    """Check the time. Returns its argument, so that it can be a filter."""
    _CLOCK.get().check()
    return value


def operand(value: Any) -> Any:
    """Check a value that is compared, or whose hash is taken."""
    tick()
    return value if isinstance(value, str | int | float | None) else checked(value)


def made(value: Any, item_bytes: int = 0) -> Any:
    """Check and count a value that was made."""
    check_number(value)
    size = sys.getsizeof(value)
    if isinstance(value, str):
        check_size(len(value))
    elif isinstance(value, list | tuple):
        check_items(len(value))
        size += item_bytes * len(value)
    count_bytes(size)
    return value


def count_bytes(size: int) -> None:
    """Count memory that an operation takes beside the value that it makes."""
    _CLOCK.get().count(size)
