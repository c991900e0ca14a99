"""The log of a run: JSON Lines, one per step, with validation losses now and then."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from model.files import replace_text

LOG_NAME = "log.jsonl"  # in the directory of a run, and sample_lines out in that of the finished model
LINES_TO_KEEP = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One optimizer step. A study keeps other figures than a training run, and old logs fewer: those are None."""

    step: int
    tokens: int  # seen so far, padding left out
    loss: float  # nats per counted token
    balance: float | None = None  # balance loss, 1 is even
    mean_k: float | None = None  # experts a token, mean over layers
    max_violation: float  # mean over layers
    gradient_norm: float | None = None
    learning_rate: float | None = None  # share of the peak
    tokens_per_second: float
    valid: dict[str, float] | None = None  # nats per answer token, by source

    def to_json(self) -> str:
        """What is None is left out."""
        return json.dumps({name: value for name, value in asdict(self).items() if value is not None})


@dataclass(frozen=True, slots=True)
class RunLog:
    """The log in the directory of a run or of a finished model, which may have none."""

    directory: Path

    @property
    def path(self) -> Path:
        return self.directory / LOG_NAME

    def lines(self) -> list[LogLine]:
        """All whole lines: one that was cut off, because the program was killed, is left out."""
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        return [LogLine(**json.loads(line)) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def append(self, line: LogLine) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{line.to_json()}\n")

    def write(self, lines: Iterable[LogLine]) -> None:
        """Put these lines in place of all that are there."""
        replace_text(self.path, "".join(f"{line.to_json()}\n" for line in lines))

    def forget_after(self, step: int) -> None:
        """Drop the lines of steps that a resumed run repeats, and a line that was cut off."""
        self.write(line for line in self.lines() if line.step <= step)


def sample_lines(lines: Sequence[LogLine], keep: int = LINES_TO_KEEP) -> list[LogLine]:
    """About `keep` lines, evenly spread, with the last one and all that have validation losses."""
    every = max(len(lines) // keep, 1)
    backwards = enumerate(reversed(lines))
    return [line for n, line in backwards if n % every == 0 or line.valid is not None][::-1]
