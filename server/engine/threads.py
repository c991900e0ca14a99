"""How many threads compute a step: as many as the processors have time for at the moment.

The threads of a parallel kernel wait for each other at its end. If one of them shares its processor with another
process, all wait until the system runs it again, for milliseconds, hundreds of times in a step. One thread fewer is
then many times as fast. If only one is left, a helper uses what the others leave of another processor. Neither the
number of threads nor a helper ever changes a result.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from model.kernels.matmul.helper import start_helper, stop_helper

PROC_STAT = Path("/proc/stat")
INTERVAL = 0.25  # seconds between measurements; the system counts in hundredths of a second
TOLERATED_SHARE = 0.35  # of one processor, that others may use before a thread is given up


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds since an arbitrary start: of the clock, computed by this process, and idle on all its processors."""

    wall: float
    own: float
    idle: float

    @classmethod
    def read(cls) -> "CpuTimes":
        """Linux only: OSError where there is no /proc/stat."""
        names = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        lines = (line.split() for line in PROC_STAT.read_text(encoding="ascii").splitlines())
        ticks = sum(int(line[4]) + int(line[5]) for line in lines if line[0] in names)  # idle, and waiting for a disk
        return cls(time.monotonic(), time.process_time(), ticks / os.sysconf("SC_CLK_TCK"))


class ThreadScaler:
    """Sets the number of threads of the thread that calls `update`, between 1 and `max_threads`.

    Available to this process are the processors' time that it used itself and the time in which they were idle.
    """

    def __init__(
        self,
        max_threads: int,
        *,
        read: Callable[[], CpuTimes] = CpuTimes.read,
        set_threads: Callable[[int], None] | None = None,
    ) -> None:
        self._max_threads, self._read = max_threads, read
        self._set_threads = set_threads or (lambda threads: use_threads(threads, max_threads))
        self._threads = max_threads
        self._last: CpuTimes | None = None

    def update(self) -> bool:
        """Measure, unless that was just done, and adapt; whether the number changed. Only Linux can be measured."""
        if self._max_threads == 1 or (self._last is not None and time.monotonic() - self._last.wall < INTERVAL):
            return False
        try:
            now = self._read()
        except (OSError, AttributeError):
            return False
        threads = self._threads if self._last is None else threads_for(self._last, now, self._max_threads)
        self._last = now
        if threads == self._threads:
            return False
        self._threads = threads
        self._set_threads(threads)
        return True

    def close(self) -> None:
        """Ends a helper, which must not outlive the weights. Called by the thread that called `update`."""
        self._set_threads(self._max_threads)


def use_threads(threads: int, max_threads: int) -> None:
    """Compute with that many threads, in the calling thread. A single one is helped where there are more processors."""
    torch.set_num_threads(threads)
    if threads == 1 < max_threads:
        start_helper()
    else:
        stop_helper()


def threads_for(before: CpuTimes, after: CpuTimes, max_threads: int) -> int:
    """The number of threads for which there was time between two measurements."""
    available = (after.own - before.own + after.idle - before.idle) / (after.wall - before.wall)
    return max(1, min(max_threads, int(available + TOLERATED_SHARE)))
