"""What a flood by one API key does to another key: the time to its first token, alone and beside the flood.

    python -m benchmarks.fairness --streams 100

Starts a server with two keys. In each turn one sends some requests, one after the other; then again, while the other
keeps its number of streams open. Prompts are random, so the prefix cache does not help.
"""

import argparse
import asyncio
import json
import random
import shlex
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import record
from benchmarks.event_client import post_for_events
from benchmarks.servers import OURS, started
from model.evaluation.tables import table
from server.middleware.api_keys import hash_key

KEYS = ("flood", "other")
OTHER_TOKENS = 8  # of an answer of the other key: only the first is of interest
WARM_UP_SECONDS, SETTLE_SECONDS = 10.0, 2.0  # of a flood, and after it
WORDS = ("the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not", "he")


class Client:
    """Sends requests with one key, and counts their statuses."""

    def __init__(self, url: str, key: str, prompt_words: int, max_tokens: int) -> None:
        self._url, self._key = f"{url}/v1/completions", key
        self._words, self._max_tokens = prompt_words, max_tokens
        self._draw = random.Random()
        self.statuses: Counter[int] = Counter()
        self.tokens = 0

    async def ask(self) -> float | None:
        """Milliseconds to the first token; None if the request was refused."""
        prompt = " ".join(self._draw.choices(WORDS, k=self._words))
        body = {"prompt": prompt, "max_tokens": self._max_tokens, "ignore_eos": True, "stream": True}
        first: float | None = None

        def on_event(event: bytes) -> None:
            nonlocal first
            self.tokens += 1
            first = first or time.perf_counter()

        start = time.perf_counter()
        response = await post_for_events(self._url, json.dumps(body).encode(), on_event, self._key)
        self.statuses[response.status] += 1
        return 1e3 * (first - start) if response.status == 200 and first is not None else None

    async def ask_again_and_again(self) -> None:
        while True:
            with suppress(ConnectionError):
                if await self.ask() is None:
                    await asyncio.sleep(1)


async def one_turn(flood: Client, other: Client, given: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds to the first token of the other key, and the flood's tokens a second."""
    alone = [await other.ask() for _ in range(given.requests)]
    tasks = [asyncio.create_task(flood.ask_again_and_again()) for _ in range(given.streams)]
    await asyncio.sleep(WARM_UP_SECONDS)
    start, before = time.perf_counter(), flood.tokens
    beside = [await other.ask() for _ in range(given.requests)]
    rate = (flood.tokens - before) / (time.perf_counter() - start)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(SETTLE_SECONDS)
    figures = {"alone": _ttft(alone), "beside the flood": _ttft(beside)}
    ratio = figures["beside the flood"]["p95"] / figures["alone"]["p95"]
    return {"ttft_ms": figures, "p95_ratio": round(ratio, 2), "flood_tokens_per_second": round(rate, 1)}


def measure(command: str, given: argparse.Namespace) -> dict[str, Any]:
    """Every turn, and the median of each figure."""
    with TemporaryDirectory() as directory:
        path = Path(directory, "keys.json")
        entries = [{"name": name, "sha256": hash_key(name.encode())} for name in KEYS]
        path.write_text(json.dumps({"keys": entries}), encoding="utf-8")
        with started(f"{command} --keys-file {shlex.quote(str(path))}", KEYS[0]) as server:
            flood = Client(server.url, KEYS[0], given.prompt_words, given.max_tokens)
            other = Client(server.url, KEYS[1], given.prompt_words, OTHER_TOKENS)
            asyncio.run(one_turn(flood, other, given))  # what is made at first use is made now
            turns = [asyncio.run(one_turn(flood, other, given)) for _ in range(given.turns)]
    statuses = {key: dict(client.statuses) for key, client in zip(KEYS, (flood, other), strict=True)}
    return {"turns": turns, "median": _median(turns), "statuses": statuses}


def _median(turns: list[Any]) -> Any:
    """Of numbers that stand at the same place in every turn."""
    if isinstance(turns[0], dict):
        return {name: _median([turn[name] for turn in turns]) for name in turns[0]}
    return median(turns)


def _ttft(milliseconds: list[float | None]) -> dict[str, float]:
    served = [value for value in milliseconds if value is not None]
    return {name: round(record.percentile(served, share), 1) for name, share in (("p50", 0.5), ("p95", 0.95))}


def rows_of(figures: dict[str, Any]) -> str:
    """The table of a result file."""
    middle, turns = figures["median"], [turn["p95_ratio"] for turn in figures["turns"]]
    rows = [[f"first token {when}, p50 and p95, ms", f"{of['p50']:.0f} and {of['p95']:.0f}"]
            for when, of in middle["ttft_ms"].items()]  # fmt: skip
    rows.append(["ratio of p95", f"{middle['p95_ratio']:.2f} ({min(turns):.2f} to {max(turns):.2f})"])
    rows.append(["what the flood gets, tokens/s", f"{middle['flood_tokens_per_second']:.0f}"])
    return table(["", "median"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", help="a shell command with {port}; default: this project and --model")
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--streams", type=int, default=100, help="open streams of the flood")
    parser.add_argument(
        "--requests", type=int, default=40, help="of the other key in a turn, alone and beside the flood"
    )
    parser.add_argument("--prompt-words", type=int, default=200)
    parser.add_argument("--max-tokens", type=int, default=64, help="of the flood's answers")
    parser.add_argument("--name", default="fairness", help="of the result file")
    given = parser.parse_args()
    figures = measure(given.server or f"{OURS} --model {given.model}", given)
    path = record.write(given.name, figures)
    print(rows_of(figures), figures["statuses"], path, sep="\n")


if __name__ == "__main__":
    main()
