"""Does a server keep its speed and its size under full load? Memory and throughput over minutes at saturation.

    python -m benchmarks.steadiness --minutes 10 --streams 32

A closed loop against one server that is started for it. Memory is sampled every second; its slope is a least-squares
line through the second half, when caches are full. The picture needs matplotlib.
"""

import argparse
import asyncio
import random
import time
from dataclasses import dataclass, field
from statistics import linear_regression, mean
from typing import Any

from benchmarks import record
from benchmarks.servers import OURS, started, weighed
from benchmarks.serving import Load, ask


@dataclass(slots=True)
class Counter:
    """Output tokens by the window of time in which they arrived; single answers are not kept."""

    start: float
    window: float
    tokens: dict[int, float] = field(default_factory=dict)
    failed: int = 0

    async def stream(self, load: Load, draw: random.Random, end: float) -> None:
        """One request after the other until `end`."""
        while time.perf_counter() < end:
            timing = await ask(load, draw)
            self.failed += timing.tokens != load.output_tokens
            for event in timing.events:
                number = int((event - self.start) / self.window)
                self.tokens[number] = self.tokens.get(number, 0.0) + timing.tokens / len(timing.events)

    def rates(self, seconds: float) -> list[float]:
        """Tokens a second, by window; the last one that is not full is left out."""
        return [round(self.tokens.get(n, 0.0) / self.window, 1) for n in range(int(seconds / self.window))]


async def saturate(load: Load, streams: int, seconds: float, window: float) -> Counter:
    """`streams` requests always under way."""
    draw, start = random.Random(time.perf_counter_ns()), time.perf_counter()
    counter = Counter(start, window)
    await asyncio.gather(*(counter.stream(load, draw, start + seconds) for _ in range(streams)))
    return counter


def measure(command: str, given: argparse.Namespace) -> dict[str, Any]:
    """The samples, the slope of the memory, and how the second half's throughput compares with the first's."""
    seconds = 60 * given.minutes
    with started(command) as server, weighed(server) as samples:
        load = Load(server.url, server.model, given.prompt_tokens, given.output_tokens, 0, given.vocabulary)
        counter = asyncio.run(saturate(load, given.streams, seconds, given.window))
    inside = [(at - counter.start, size / 1e6) for at, size in samples if 0 <= at - counter.start <= seconds]
    rates = counter.rates(seconds)
    half = len(rates) // 2
    return {
        "memory_slope_mb_per_minute": round(slope_per_minute([one for one in inside if one[0] >= seconds / 2]), 3),
        "throughput_second_half_over_first": round(mean(rates[half:]) / mean(rates[:half]), 3),
        "failed_requests": counter.failed,
        "window_seconds": given.window,
        "output_tokens_per_second": rates,
        "memory_mb": [round(size, 1) for size in _windows(inside, given.window)],
    }


def slope_per_minute(samples: list[tuple[float, float]]) -> float:
    """Of samples (seconds, value)."""
    return 60 * linear_regression(*zip(*samples, strict=True)).slope


def _windows(samples: list[tuple[float, float]], window: float) -> list[float]:
    """The last sample of each window: enough for a file to be read by people."""
    return list({int(at / window): size for at, size in samples}.values())


def draw_picture(figures: dict[str, Any], name: str) -> None:
    """Memory and throughput over time; does nothing without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    canvas = Figure(figsize=(9, 5), layout="constrained")
    memory, rate = canvas.subplots(2, 1, sharex=True)
    lines = {memory: ("memory_mb", "memory, MB"), rate: ("output_tokens_per_second", "output tokens/s")}
    for axes, (key, label) in lines.items():
        axes.plot([(n + 0.5) * figures["window_seconds"] / 60 for n in range(len(figures[key]))], figures[key])
        axes.set_ylabel(label)
        axes.set_ylim(0, 1.1 * max(figures[key]))
    rate.set_xlabel("minutes")
    canvas.savefig(record.RESULTS / f"{name}.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", help="a shell command with {port}; default: this project and --model")
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--vocabulary", type=int, default=7680, help="prompts are token ids below")
    parser.add_argument("--window", type=float, default=10, help="seconds over which throughput is counted")
    parser.add_argument("--name", default="steadiness", help="of the result file")
    given = parser.parse_args()
    figures = measure(given.server or f"{OURS} --model {given.model}", given)
    path = record.write(given.name, figures)
    draw_picture(figures, given.name)
    print(*(f"{what}: {figures[what]}" for what in list(figures)[:3]), path, sep="\n")


if __name__ == "__main__":
    main()
