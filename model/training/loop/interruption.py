"""Ctrl-C and SIGTERM: the first asks a run to stop after its step and to save, the second stops it at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, and has saved what it did."""


@contextmanager
def interruption(announce: Callable[[], None] = lambda: None) -> Iterator[threading.Event]:
    """The event is set when somebody wants to stop; `announce` is called then. Signals reach the main thread only.

    A signal that the process ignores, as jobs in the background of a script do Ctrl-C, stays ignored.
    """
    wanted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield wanted
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(number: int, frame: FrameType | None) -> None:
        restore()
        wanted.set()
        announce()

    for number in before:
        signal.signal(number, stop)
    try:
        yield wanted
    finally:
        restore()
