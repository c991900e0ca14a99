"""How much the engine and HTTP add: the network alone, the engine around it, the server around both, in turn.

    python -m benchmarks.overhead --model model/bundled --streams 1 32

Decode of the network alone counts no prompt; the engine's and the server's figures include prompts of 128 tokens.
To compare like with like, the time of one prompt is added to the network's: `network with prompts`.
"""

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import httpx
import torch

from benchmarks import record
from benchmarks.engine import build, output_rate
from benchmarks.network import decode_rate, prompt_seconds
from benchmarks.serving import Load, closed_loop, summary
from model.loading import load_network

PROMPT, OUTPUT = 128, 64


@contextmanager
def server(model: Path, port: int, threads: int) -> Iterator[str]:
    """A server process of its own, as people run it."""
    command = [sys.executable, "-m", "server", "serve", "--model", str(model), "--port", str(port)]
    process = subprocess.Popen([*command, "--threads", str(threads), "--log-level", "warning"])
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                if httpx.get(f"{url}/health/ready").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def measure(model: Path, streams: list[int], runs: int, threads: int) -> dict[str, dict[str, float]]:
    """Median tokens per second by what was measured and number of streams."""
    torch.set_num_threads(threads)
    network, engine = load_network(model), build(model)
    vocabulary = network.config.vocab_size
    rates: dict[str, dict[int, list[float]]] = {}

    def note(what: str, count: int, rate: float) -> None:
        rates.setdefault(what, {}).setdefault(count, []).append(rate)

    with server(model, 8765, threads) as url:
        name = httpx.get(f"{url}/v1/models").json()["data"][0]["id"]
        load = Load(url, name, PROMPT, OUTPUT, 0, vocabulary)
        asyncio.run(closed_loop(load, 2, 4))
        output_rate(engine, 4, rounds=1)
        for _ in range(runs):
            for count in streams:
                decode = decode_rate(network, count, context=PROMPT)
                seconds = OUTPUT * count / decode + count * prompt_seconds(network, PROMPT)
                note("network, decode only", count, decode)
                note("network with prompts", count, OUTPUT * count / seconds)
                note("engine", count, output_rate(engine, count, prompt=PROMPT, output=OUTPUT, rounds=4))
                figures = summary(asyncio.run(closed_loop(load, count, 4 * count)))
                note("HTTP, streaming", count, figures["output_tokens_per_second"])
    return {what: {str(c): round(median(values)) for c, values in by.items()} for what, by in rates.items()}


def table(figures: dict[str, dict[str, float]]) -> str:
    """The figures as Markdown."""
    counts = list(next(iter(figures.values())))
    lines = ["| output tokens/s | " + " | ".join(f"{c} streams" for c in counts) + " |", "|---|" + "---|" * len(counts)]
    lines += [f"| {what} | " + " | ".join(str(by[c]) for c in counts) + " |" for what, by in figures.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("model/bundled"))
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    figures = measure(arguments.model, arguments.streams, arguments.runs, arguments.threads)
    print(table(figures))
    print(record.write("overhead", figures))


if __name__ == "__main__":
    main()
