"""How long a server takes from the start of its process to the first token of an answer.

    python -m benchmarks.startup --model bundled DIRECTORY --precisions none int8 int4

Every start is a fresh process; models and precisions take turns. The first start of each is not counted: from then on
its files are in the page cache.
"""

import argparse
import shlex
import time
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from benchmarks import record
from benchmarks.servers import OURS, started


def start(model: str, precision: str) -> dict[str, float]:
    """Seconds until the server says that it is ready, and until a short prompt has its first token."""
    command = f"{OURS} --model {shlex.quote(model)} --quantize {precision}"
    with httpx.Client(timeout=60) as client, started(command) as server:
        body = {"model": server.model, "prompt": list(range(100, 116)), "max_tokens": 1, "ignore_eos": True}
        client.post(f"{server.url}/v1/completions", json=body).raise_for_status()
        answered = time.perf_counter() - server.started
    return {"ready_seconds": server.ready_seconds, "first_token_seconds": answered}


def measure(models: list[str], precisions: list[str], runs: int) -> dict[str, Any]:
    """Every start and the medians, by model and precision."""
    starts: dict[str, list[dict[str, float]]] = {}
    for run in range(1 + runs):
        for model, precision in product(models, precisions):
            found = start(model, precision)
            if run:
                starts.setdefault(f"{Path(model).name}, {precision}", []).append(found)
    return {name: _summary(found) for name, found in starts.items()}


def _summary(found: list[dict[str, float]]) -> dict[str, Any]:
    lists = {what: [round(of[what], 3) for of in found] for what in found[0]}
    return {"starts": lists, "median": {what: median(values) for what, values in lists.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["bundled"], help="checkpoint directories, or `bundled`")
    parser.add_argument("--precisions", nargs="+", default=["auto"], help="auto, none, int8, int4")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--name", default="startup", help="of the result file")
    given = parser.parse_args()
    figures = measure(given.model, given.precisions, given.runs)
    for name, found in figures.items():
        print(f"{name}: {found['median']}")
    print(record.write(given.name, figures))


if __name__ == "__main__":
    main()
