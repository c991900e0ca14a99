"""A load generator for any OpenAI-compatible server: closed loop at fixed concurrency, or Poisson arrivals.

    python -m benchmarks.serving --url http://127.0.0.1:8000 --concurrency 1 8 32
    python -m benchmarks.serving --url http://127.0.0.1:8000 --rate 5 --requests 100

Prompts are random token ids, distinct unless `--shared-prefix` says how many tokens all have in common. Times are
seen by the client: TTFT until the first event with a choice, ITL between those, both in milliseconds. A server may put
several tokens in an event, so TPOT is said as well: the mean time of a request's tokens after its first event.
"""

import argparse
import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks import record
from benchmarks.event_client import post_for_events


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent. `fields` are further fields of each body."""

    url: str
    model: str
    prompt_tokens: int
    output_tokens: int
    shared_prefix: int
    vocabulary: int
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Timing:
    """What one request met. Times are seconds on one clock."""

    start: float = 0.0
    events: list[float] = field(default_factory=list)
    tokens: int = 0
    status: int = 0

    def note(self, data: bytes) -> None:
        """An event has arrived. What need not be parsed is not: it is the server's processor, too."""
        arrived = time.perf_counter()
        event: dict[str, Any] = (
            json.loads(data) if b'"completion_tokens"' in data else {"choices": b'"choices"' in data}
        )
        if event.get("choices"):
            self.events.append(arrived)
        if event.get("usage"):
            self.tokens = event["usage"]["completion_tokens"]


async def ask(load: Load, draw: random.Random, timing: Timing | None = None) -> Timing:
    """One streamed completion; `timing`, if given, can be watched while the answer arrives."""
    shared = random.Random(0)
    prefix = [shared.randrange(32, load.vocabulary) for _ in range(load.shared_prefix)]
    rest = [draw.randrange(32, load.vocabulary) for _ in range(load.prompt_tokens - load.shared_prefix)]
    body = {
        "model": load.model,
        **load.fields,
        "prompt": prefix + rest,
        "max_tokens": load.output_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    timing = timing or Timing()
    data = json.dumps(body).encode()
    timing.start = time.perf_counter()
    timing.status = (await post_for_events(f"{load.url}/v1/completions", data, timing.note)).status
    return timing


async def closed_loop(load: Load, concurrency: int, requests: int) -> list[Timing]:
    """`requests` requests, always `concurrency` of them under way."""
    draw, timings, left = random.Random(time.perf_counter_ns()), [], requests

    async def worker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            timings.append(await ask(load, draw))

    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return timings


async def open_loop(load: Load, rate: float, requests: int) -> list[Timing]:
    """`requests` requests that arrive at random, `rate` a second, whether or not earlier ones are done."""
    draw = random.Random(1)
    tasks = []
    for _ in range(requests):
        tasks.append(asyncio.create_task(ask(load, draw)))
        await asyncio.sleep(draw.expovariate(rate))
    return list(await asyncio.gather(*tasks))


def summary(timings: list[Timing]) -> dict[str, Any]:
    """Throughput and latency percentiles of the requests that were answered."""
    answered = [timing for timing in timings if timing.status == 200 and timing.events]
    if not answered:
        return {"requests": len(timings), "answered": 0}
    span = max(t.events[-1] for t in answered) - min(t.start for t in answered)
    first = [1e3 * (t.events[0] - t.start) for t in answered]
    gaps = [1e3 * (b - a) for t in answered for a, b in zip(t.events, t.events[1:], strict=False)]
    whole = [1e3 * (t.events[-1] - t.start) for t in answered]
    each = [1e3 * (t.events[-1] - t.events[0]) / (t.tokens - 1) for t in answered if t.tokens > 1]
    times = {"ttft": first, "itl": gaps, "tpot": each, "e2e": whole}
    figures = {f"{name}_ms": _percentiles(values) for name, values in times.items() if values}
    rate = sum(t.tokens for t in answered) / span
    return {"requests": len(timings), "answered": len(answered), "output_tokens_per_second": rate, **figures}


def _percentiles(values: list[float]) -> dict[str, float]:
    return {f"p{round(100 * share)}": round(record.percentile(values, share), 3) for share in (0.5, 0.95, 0.99)}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", help="default: the first that the server lists")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--shared-prefix", type=int, default=0)
    parser.add_argument("--vocabulary", type=int, default=7680, help="ids are drawn from so many")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rate", type=float, help="requests a second: open loop instead of closed")
    parser.add_argument("--requests", type=int, help="default: four per stream")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--name", default="serving", help="of the result file")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    model = given.model or httpx.get(f"{given.url}/v1/models").json()["data"][0]["id"]
    load = Load(given.url, model, given.prompt_tokens, given.output_tokens, given.shared_prefix, given.vocabulary)
    figures: dict[str, list[dict[str, Any]]] = {}
    asyncio.run(closed_loop(load, 2, 4))
    for run in range(given.runs):
        if given.rate:
            results = {f"rate {given.rate}": asyncio.run(open_loop(load, given.rate, given.requests or 50))}
        else:
            counts = {c: given.requests or 4 * c for c in given.concurrency}
            results = {f"{c} streams": asyncio.run(closed_loop(load, c, counts[c])) for c in given.concurrency}
        for key, timings in results.items():
            figures.setdefault(key, []).append(summary(timings))
            if not figures[key][-1]["answered"]:
                raise SystemExit(f"{key}: no request was answered")
            print(f"run {run + 1}, {key}: {json.dumps(figures[key][-1])}")
    print(record.write(given.name, figures))


if __name__ == "__main__":
    main()
