"""What a flood by one API key does to another key: the time to its first token, alone and beside the flood.

    routelm keys create flood --keys-file keys.toml; routelm keys create other --keys-file keys.toml
    routelm serve --keys-file keys.toml
    python -m benchmarks.fairness --flood-key rlm-... --other-key rlm-... --streams 100

The flood keeps its number of streams open; the other key sends one request after the other. Prompts are random, so the
prefix cache does not help.
"""

import argparse
import asyncio
import json
import random
import time
from collections import Counter
from contextlib import suppress
from typing import Any

from benchmarks import record
from benchmarks.event_client import post_for_events

WARM_UP_SECONDS = 10.0
WORDS = ("the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not", "he")


class Client:
    """Sends requests with one key, and counts their statuses."""

    def __init__(self, arguments: argparse.Namespace, key: str) -> None:
        self._url, self._key = f"{arguments.url}/v1/completions", key
        self._words, self._max_tokens = arguments.prompt_words, arguments.max_tokens
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
        status = await post_for_events(self._url, json.dumps(body).encode(), on_event, self._key)
        self.statuses[status] += 1
        return 1e3 * (first - start) if status == 200 and first is not None else None

    async def ask_again_and_again(self) -> None:
        while True:
            with suppress(ConnectionError):
                if await self.ask() is None:
                    await asyncio.sleep(1)


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    flood, other = Client(arguments, arguments.flood_key), Client(arguments, arguments.other_key)
    await other.ask()
    alone = [await other.ask() for _ in range(arguments.requests)]
    tasks = [asyncio.create_task(flood.ask_again_and_again()) for _ in range(arguments.streams)]
    await asyncio.sleep(WARM_UP_SECONDS)
    start, before = time.perf_counter(), flood.tokens
    beside = [await other.ask() for _ in range(arguments.requests)]
    rate = (flood.tokens - before) / (time.perf_counter() - start)
    for task in tasks:
        task.cancel()
    figures = {"alone": _ttft(alone), "beside_the_flood": _ttft(beside)}
    p95 = [figures[when]["p95"] for when in figures]
    return {
        "ttft_ms": figures,
        "p95_ratio": round(p95[1] / p95[0], 2),
        "flood_tokens_per_second": round(rate, 1),
        "statuses": {"flood": dict(flood.statuses), "other": dict(other.statuses)},
    }


def _ttft(milliseconds: list[float | None]) -> dict[str, float]:
    served = [value for value in milliseconds if value is not None]
    return {name: round(record.percentile(served, share), 1) for name, share in (("p50", 0.5), ("p95", 0.95))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--flood-key", required=True)
    parser.add_argument("--other-key", required=True)
    parser.add_argument("--streams", type=int, default=100, help="open streams of the flood")
    parser.add_argument("--requests", type=int, default=40, help="of the other key, alone and beside the flood")
    parser.add_argument("--prompt-words", type=int, default=200)
    parser.add_argument("--max-tokens", type=int, default=64)
    print(json.dumps(asyncio.run(measure(parser.parse_args())), indent=2))


if __name__ == "__main__":
    main()
