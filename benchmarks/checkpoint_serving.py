"""A checkpoint served as people serve it, in every precision: time to ready, peak memory, tokens a second over HTTP.

    python -m benchmarks.checkpoint_serving DIRECTORY --schemes none int8 int4 --streams 1 8

Prompts of 128 distinct random tokens, answers of 64, greedy, closed loop. Memory is what the kernel counts for the
server's process: `peak` until it is ready, against the bytes its weights take in the end.
"""

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from benchmarks import record
from benchmarks.serving import Load, closed_loop, summary
from model.checkpoint import read_config

PROMPT, OUTPUT = 128, 64


@dataclass(frozen=True, slots=True)
class Ready:
    """A server that answers: where, how long it took, and the memory of its process in bytes."""

    url: str
    seconds: float
    peak: int
    resident: int
    process: int


@contextmanager
def served(directory: Path, scheme: str, port: int) -> Iterator[Ready]:
    command = [sys.executable, "-m", "server", "serve", "--model", str(directory), "--quantize", scheme]
    start = time.monotonic()
    process = subprocess.Popen([*command, "--port", str(port), "--log-level", "warning"])
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url, process)
        seconds = time.monotonic() - start
        yield Ready(url, seconds, memory(process.pid, "VmHWM"), memory(process.pid, "VmRSS"), process.pid)
    finally:
        process.terminate()
        process.wait(60)


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    while process.poll() is None:
        try:
            if httpx.get(f"{url}/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise RuntimeError(f"the server ended with code {process.returncode} before it was ready")


def memory(process: int, field: str) -> int:
    """VmHWM or VmRSS of a process, in bytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measure(directory: Path, schemes: list[str], streams: list[int], runs: int) -> dict[str, Any]:
    """Figures by scheme; the servers take turns, one run each."""
    vocabulary = min(read_config(directory)["vocab_size"], 8192)
    figures: dict[str, Any] = {scheme: {"ready_seconds": [], "rates": {}} for scheme in schemes}
    for run in range(runs):
        for number, scheme in enumerate(schemes):
            with served(directory, scheme, 8900 + number) as server:
                found = figures[scheme]
                found["ready_seconds"].append(round(server.seconds, 2))
                found["peak_bytes"], found["resident_bytes"] = server.peak, server.resident
                load = Load(server.url, directory.name, PROMPT, OUTPUT, 0, vocabulary)
                asyncio.run(closed_loop(load, 1, 1))
                for count in streams:
                    rate = summary(asyncio.run(closed_loop(load, count, 2 * count)))["output_tokens_per_second"]
                    found["rates"].setdefault(str(count), []).append(round(rate, 1))
                found["resident_under_load_bytes"] = memory(server.process, "VmRSS")
                print(f"run {run + 1}, {scheme}: {found}", flush=True)
    for found in figures.values():
        found["tokens_per_second"] = {count: median(rates) for count, rates in found["rates"].items()}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--schemes", nargs="+", default=["none", "int8", "int4"], help="none: as the network's type is")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    figures = measure(given.directory, given.schemes, given.streams, given.runs)
    print(record.write(f"serving-{given.directory.name}", figures))


if __name__ == "__main__":
    main()
