"""What a long prompt does to the answers that are being written: gaps between tokens before and while it is read.

    python -m benchmarks.stall --url http://127.0.0.1:8000 --streams 8 --long-prompt 4000

The prompt arrives when every stream has a quarter of its answer. `before` are the gaps from the moment all streams were
writing until then, `during` those that overlap the time until the long prompt has its first token.
"""

import argparse
import asyncio
import json
import random
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Any

import httpx

from benchmarks import record
from benchmarks.serving import Load, Timing, ask


@dataclass(frozen=True, slots=True)
class Arrival:
    """The running streams and the long prompt, as the client saw them."""

    running: list[Timing]
    long: Timing

    def figures(self) -> dict[str, Any]:
        begin, end = self.long.start, self.long.events[0]
        before = self._gaps(max(timing.events[0] for timing in self.running), begin)
        during = self._gaps(begin, end)
        gaps = {"before": percentiles(before), "during": percentiles(during)}
        ratio = {p: round(gaps["during"][p] / gaps["before"][p], 2) for p in gaps["before"]}
        still = sum(timing.events[-1] >= end for timing in self.running)
        ttft = round(1e3 * (end - begin), 1)
        return {"itl_ms": gaps, "ratio": ratio, "long_prompt_ttft_ms": ttft, "streams_running_to_its_end": still}

    def _gaps(self, begin: float, end: float) -> list[float]:
        """Milliseconds between events, of the gaps that overlap the time from `begin` to `end`."""
        pairs = [pair for timing in self.running for pair in pairwise(timing.events)]
        return [1e3 * (second - first) for first, second in pairs if second > begin and first < end]


def percentiles(values: list[float]) -> dict[str, float]:
    """The median, what one gap in a hundred exceeds, and the longest."""
    return {
        "p50": round(record.percentile(values, 0.5), 3),
        "p99": round(record.percentile(values, 0.99), 3),
        "max": round(max(values), 3),
    }


async def arrive(load: Load, streams: int, long_prompt: int) -> Arrival:
    """`streams` answers, and the long prompt in the midst of them."""
    draw, running = random.Random(time.perf_counter_ns()), [Timing() for _ in range(streams)]
    tasks = [asyncio.create_task(ask(load, draw, timing)) for timing in running]
    while min(len(timing.events) for timing in running) < load.output_tokens / 4:
        if any(task.done() for task in tasks):
            raise RuntimeError(f"a stream ended too early, with status {[timing.status for timing in running]}")
        await asyncio.sleep(0.005)
    long = await ask(replace(load, prompt_tokens=long_prompt, output_tokens=1), draw)
    await asyncio.gather(*tasks)
    if long.status != 200:
        raise RuntimeError(f"the long prompt was answered with status {long.status}")
    return Arrival(running, long)


def medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The same tree with the median of every value."""
    return {
        key: medians([run[key] for run in runs]) if isinstance(runs[0][key], dict) else median(run[key] for run in runs)
        for key in runs[0]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=32, help="of the running streams")
    parser.add_argument("--output-tokens", type=int, default=400, help="of the running streams")
    parser.add_argument("--long-prompt", type=int, default=4000)
    parser.add_argument("--vocabulary", type=int, default=7680, help="prompts are token ids below")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--name", default="stall", help="of the result file")
    given = parser.parse_args()
    model = httpx.get(f"{given.url}/v1/models").json()["data"][0]["id"]
    load = Load(given.url, model, given.prompt_tokens, given.output_tokens, 0, given.vocabulary)
    asyncio.run(arrive(load, given.streams, given.long_prompt))  # warms up
    runs = []
    for _ in range(given.runs):
        runs.append(asyncio.run(arrive(load, given.streams, given.long_prompt)).figures())
        print(json.dumps(runs[-1]), flush=True)
    print(record.write(given.name, {"model": model, "runs": runs, "median": medians(runs)}))


if __name__ == "__main__":
    main()
