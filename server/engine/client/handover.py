"""What the engine's thread gives to the event loop."""

import asyncio
import ctypes
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")

_write_keeping_lock = ctypes.PyDLL(None).write
_write_keeping_lock.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t)
_write_keeping_lock.restype = ctypes.c_ssize_t


class Handover(Generic[T]):
    """Gives items to `receive`, which runs on the event loop that creates this, in their order.

    `put` wakes the loop and keeps Python's lock, so that the caller can begin with what needs no lock before the loop
    takes it. `loop.call_soon_threadsafe` lets go of the lock: the caller would wait until the loop has sent something.
    """

    def __init__(self, receive: Callable[[T], None]) -> None:
        self._receive = receive
        self._items: deque[T] = deque()
        self._loop = asyncio.get_running_loop()
        self._read_end, self._write_end = os.pipe()
        for end in (self._read_end, self._write_end):
            os.set_blocking(end, False)
        self._loop.add_reader(self._read_end, self._wake_up)

    def put(self, item: T) -> None:
        """Called by one thread, until `close`."""
        self._items.append(item)
        _write_keeping_lock(self._write_end, b"\0", 1)  # if the pipe is full, the loop is going to wake up anyway

    def deliver(self) -> None:
        """Give what has been put to `receive`. Called on the loop."""
        while self._items:
            self._receive(self._items.popleft())

    def close(self) -> None:
        """Called on the loop, when nothing will be put any more. A second call does nothing."""
        if self._loop.remove_reader(self._read_end):
            os.close(self._read_end)
            os.close(self._write_end)

    def _wake_up(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._read_end, 2**16)
        self.deliver()
