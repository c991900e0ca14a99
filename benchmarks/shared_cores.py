"""Servers whose processors others use as well: quiet, beside a process that computes, and under a CPU quota.

    python -m benchmarks.shared_cores --server "default=routelm serve --model DIRECTORY --port {port}" \\
        --server "one thread=routelm serve --model DIRECTORY --port {port} --threads 1" --streams 1 8

Every server takes its turn in every situation, start included, and the order turns round from run to run. In `busy` a
process computes without pause on one processor; in `quota` the server is in a cgroup that has the time of one
(version 1, as root), and the times in which it was stopped are counted. Linux only.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from statistics import median
from typing import Any

from benchmarks import record
from benchmarks.compare import Plan, Turn, digits, full, named
from benchmarks.servers import started
from benchmarks.serving import summary
from model.evaluation.tables import table

CPU_CONTROLLER = Path("/sys/fs/cgroup/cpu")
PERIOD = 100_000  # microseconds, the kernel's default
Turns = dict[str, dict[str, list[Turn]]]  # by server, then by situation


@contextmanager
def quiet(command: str) -> Iterator[str]:
    yield command


@contextmanager
def busy(command: str) -> Iterator[str]:
    """One processor has something else to do."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        os.sched_setaffinity(other.pid, {min(os.sched_getaffinity(0))})
        yield command
    finally:
        other.kill()
        other.wait()


@contextmanager
def quota(command: str) -> Iterator[str]:
    """The server may compute as long as one processor could, on any of them."""
    group = CPU_CONTROLLER / f"benchmark-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cpu.cfs_period_us").write_text(str(PERIOD))
        (group / "cpu.cfs_quota_us").write_text(str(PERIOD))
        yield f"echo $$ > {quote(str(group / 'cgroup.procs'))} && {command}"
    finally:
        remove(group)


def remove(group: Path, patience: float = 10.0) -> None:
    """Remove a cgroup, whose last process may take a moment to end. OSError where it still stands after `patience`."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        with suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.1)
    group.rmdir()


SITUATIONS = {"quiet": quiet, "busy": busy, "quota": quota}


@dataclass(frozen=True, slots=True)
class Throttling:
    """How often a cgroup was stopped because its quota was used up, of how many periods, and for how long in all."""

    periods: int
    throttled: int
    seconds: float

    @classmethod
    def read(cls) -> "Throttling":
        """Of the cgroup that `quota` has made. FileNotFoundError where there is none."""
        lines = (CPU_CONTROLLER / f"benchmark-{os.getpid()}" / "cpu.stat").read_text(encoding="ascii").splitlines()
        found = {name: int(value) for name, value in map(str.split, lines)}
        return cls(found["nr_periods"], found["nr_throttled"], found["throttled_time"] / 1e9)

    def since(self, before: "Throttling") -> Turn:
        return {
            "periods": self.periods - before.periods,
            "throttled": self.throttled - before.throttled,
            "throttled, s": round(self.seconds - before.seconds, 3),
        }


def take_turn(command: str, situation: str, plan: Plan) -> Turn:
    """One server from its start on. What its start costs is no part of the throttling."""
    with SITUATIONS[situation](command) as placed, started(placed) as server:
        load = plan.load(server.url, server.model)
        full(load, 2, 4)  # warms up
        found: Turn = {"ready, s": round(server.ready_seconds, 3)}
        before = Throttling.read() if situation == "quota" else None
        for streams in plan.streams:
            figures = summary(full(load, streams, 4 * streams))
            found[f"{streams} streams, output tokens/s"] = round(figures["output_tokens_per_second"], 2)
            found |= {f"{streams} streams, ITL {p}, ms": round(figures["itl_ms"][p], 2) for p in ("p50", "p99")}
        return found | (Throttling.read().since(before) if before else {})


def measure(servers: dict[str, str], situations: list[str], plan: Plan, runs: int) -> Turns:
    turns: Turns = {name: {situation: [] for situation in situations} for name in servers}
    for run in range(runs):
        for situation in situations:
            for name in list(servers)[:: -1 if run % 2 else 1]:
                turns[name][situation].append(take_turn(servers[name], situation, plan))
                print(f"run {run + 1}, {situation}, {name}: {turns[name][situation][-1]}", flush=True)
    return turns


def medians(turns: Turns) -> dict[str, dict[str, Turn]]:
    return {
        name: {where: {what: median(turn[what] for turn in of) for what in of[0]} for where, of in places.items()}
        for name, places in turns.items()
    }


def rows_of(figures: dict[str, Any]) -> str:
    """The table of a result file: a row for each server in each situation. In brackets, the share of the quiet rate."""
    middle: dict[str, dict[str, Turn]] = figures["medians"]
    heads = dict.fromkeys(what for places in middle.values() for turn in places.values() for what in turn)
    lines = [
        [f"{name}, {where}", *(_cell(what, turn, places) for what in heads)]
        for name, places in middle.items()
        for where, turn in places.items()
    ]
    return table(["", *heads], lines)


def _cell(what: str, turn: Turn, places: dict[str, Turn]) -> str:
    if what not in turn:
        return ""
    is_rate = what.endswith("tokens/s") and "quiet" in places
    return digits(turn[what]) + (f" ({turn[what] / places['quiet'][what]:.2f})" if is_rate else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", type=named, action="append", required=True, metavar="NAME=COMMAND")
    parser.add_argument("--situations", nargs="+", choices=SITUATIONS, default=list(SITUATIONS))
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--output-tokens", type=int, default=48)
    parser.add_argument("--vocabulary", type=int, default=7680, help="prompts are token ids below")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--name", default="shared-cores", help="of the result file")
    given = parser.parse_args()
    plan = Plan(given.streams, given.prompt_tokens, given.output_tokens, given.prompt_tokens, given.vocabulary)
    servers = dict(given.server)
    turns = measure(servers, given.situations, plan, given.runs)
    figures = {"servers": servers, "turns": turns, "medians": medians(turns)}
    print(record.write(given.name, figures), rows_of(figures), sep="\n\n")


if __name__ == "__main__":
    main()
