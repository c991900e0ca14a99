"""A checkpoint served as people serve it, in every precision: time to ready, peak memory, tokens a second over HTTP.

    python -m benchmarks.checkpoint_serving DIRECTORY --schemes none int8 int4 --streams 1 8

Prompts of 128 distinct random tokens, answers of 64, greedy, closed loop. Memory is what the kernel counts for the
server's process: `peak` until it is ready, against the bytes its weights take in the end.
"""

import argparse
import asyncio
import shlex
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import record
from benchmarks.servers import OURS, started
from benchmarks.serving import Load, closed_loop, summary
from model.checkpoints.safetensors_files import read_config

PROMPT, OUTPUT = 128, 64


def measure(directory: Path, schemes: list[str], streams: list[int], runs: int) -> dict[str, Any]:
    """Figures by scheme; the servers take turns, one run each."""
    vocabulary = min(read_config(directory)["vocab_size"], 8192)
    figures: dict[str, Any] = {scheme: {"ready_seconds": [], "rates": {}} for scheme in schemes}
    for run in range(runs):
        for scheme in schemes:
            with started(f"{OURS} --model {shlex.quote(str(directory))} --quantize {scheme}") as server:
                found = figures[scheme]
                found["ready_seconds"].append(round(server.ready_seconds, 2))
                found["peak_bytes"], found["resident_bytes"] = server.memory("VmHWM"), server.memory()
                load = Load(server.url, server.model, PROMPT, OUTPUT, 0, vocabulary)
                asyncio.run(closed_loop(load, 1, 1))
                for count in streams:
                    rate = summary(asyncio.run(closed_loop(load, count, 2 * count)))["output_tokens_per_second"]
                    found["rates"].setdefault(str(count), []).append(round(rate, 1))
                found["resident_under_load_bytes"] = server.memory()
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
