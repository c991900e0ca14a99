"""Progress of an evaluation: stages of a known number of requests, shown with their rate and the time left."""

from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

Advance = Callable[[int], None]  # so many more requests are done


class Progress(Protocol):
    """Shows the stages of an evaluation."""

    def stage(self, name: str, total: int) -> Advance: ...


class SilentProgress:
    """Shows nothing."""

    def stage(self, name: str, total: int) -> Advance:
        return lambda count: None


class RichProgress:
    """A bar per stage on the terminal; use it in a `with` statement."""

    def __init__(self, console: Console | None = None) -> None:
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            refresh_per_second=2,
        )

    def __enter__(self) -> "RichProgress":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def stage(self, name: str, total: int) -> Advance:
        task = self._bars.add_task(name, total=total)
        return lambda count: self._bars.advance(task, count)


class _Rate(ProgressColumn):
    """Requests per second since the stage began."""

    def render(self, task: Task) -> Text:
        seconds = task.finished_time or task.elapsed
        return Text(f"{task.completed / seconds:.1f}/s" if seconds else "")
