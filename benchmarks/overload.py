"""Does a server keep its promises at three times what it can do? Ten minutes of random arrivals.

    python -m benchmarks.overload --minutes 10 --factor 3

A closed loop shows what the server can do, before and after, as the speed of a machine may change in ten minutes.
Between them requests with prompts and answers of mixed lengths arrive at `factor` times that rate, whatever became of
those before (Poisson). A client that is refused comes back once, when Retry-After says so, if that is before the end.
Everything is counted by the clients, and compared with what the server counted.
"""

import argparse
import asyncio
import json
import math
import random
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from benchmarks import record
from benchmarks.chaos import metrics
from benchmarks.event_client import ends_answer, post_for_events
from benchmarks.servers import OURS, Server, started, weighed
from benchmarks.steadiness import slope_per_minute
from model.evaluation.tables import table

STREAMS, CLOSED_LOOP_SECONDS, WARM_UP_SECONDS = 32, 60.0, 10.0
PROMPT_TOKENS, OUTPUT_TOKENS = (16, 512), (8, 128)  # lengths are drawn log-uniformly in between
TTFT_SECONDS = 10.0  # what `--max-queue-wait` promises by default
ENDED = "vllm:request_success_total"


@dataclass
class Clients:
    """Asks one server, and counts what came of it."""

    server: Server
    vocabulary: int
    draw: random.Random = field(default_factory=random.Random)
    statuses: Counter[int] = field(default_factory=Counter)
    first_returns: Counter[int] = field(default_factory=Counter)
    retry_after: Counter[int] = field(default_factory=Counter)
    terminal_events: Counter[int] = field(default_factory=Counter)
    ttft: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)  # when each arrived
    broken_off: int = 0
    sent_away: int = 0  # were told to come back after the end

    async def obey(self, end: float) -> None:
        """One request; if it is refused, once more after the seconds that the refusal names, unless `end` is before."""
        body = self.body()
        seconds = await self.ask(body)
        if seconds is not None:
            self.retry_after[seconds] += 1
            if time.perf_counter() + seconds > end:
                self.sent_away += 1
                return
            await asyncio.sleep(seconds)
            refused = await self.ask(body)
            self.first_returns[200 if refused is None else 429] += 1

    async def ask(self, body: bytes) -> int | None:
        """The Retry-After of a refusal; None for an answer. A refusal without the header counts as zero seconds."""
        start, arrivals, ends = time.perf_counter(), list[float](), 0

        def on_event(data: bytes) -> None:
            nonlocal ends
            arrivals.append(time.perf_counter())
            ends += ends_answer(data)

        try:
            response = await post_for_events(f"{self.server.url}/v1/completions", body, on_event)
        except (OSError, TimeoutError):
            self.broken_off += 1
            return None
        self.statuses[response.status] += 1
        if response.status != 200:
            return int(response.headers.get("retry-after", "0"))
        self.terminal_events[ends] += 1
        self.ttft.append(next(iter(arrivals), math.inf) - start)
        self.tokens += arrivals[:-1]  # without [DONE]
        return None

    def body(self) -> bytes:
        prompt = [self.draw.randrange(32, self.vocabulary) for _ in range(self._length(PROMPT_TOKENS))]
        tokens = self._length(OUTPUT_TOKENS)
        return json.dumps({"prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "stream": True}).encode()

    def _length(self, bounds: tuple[int, int]) -> int:
        return round(math.exp(self.draw.uniform(*map(math.log, bounds))))


async def closed_loop(clients: Clients, seconds: float) -> tuple[float, float]:
    """Requests and tokens a second, with STREAMS requests always under way."""
    start = time.perf_counter()

    async def stream() -> None:
        while time.perf_counter() < start + seconds:
            await clients.ask(clients.body())

    await asyncio.gather(*(stream() for _ in range(STREAMS)))
    taken = time.perf_counter() - start
    return len(clients.ttft) / taken, len(clients.tokens) / taken


async def arrivals(clients: Clients, rate: float, seconds: float) -> float:
    """Requests that arrive at random; returns the tokens a second meanwhile, when all requests have ended."""
    start, tasks = time.perf_counter(), set[asyncio.Task[None]]()
    while (now := time.perf_counter()) < start + seconds:
        _keep(tasks, clients.obey(start + seconds))
        await asyncio.sleep(clients.draw.expovariate(rate) - (time.perf_counter() - now))
    await asyncio.gather(*tasks)
    return sum(start <= at < start + seconds for at in clients.tokens) / seconds


def _keep(tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


def measure(command: str, given: argparse.Namespace) -> dict[str, Any]:
    """Run it and return the figures."""
    seconds = 60 * given.minutes
    loop_seconds = min(CLOSED_LOOP_SECONDS, seconds / 5)
    with started(command) as server, weighed(server) as samples:
        asyncio.run(closed_loop(Clients(server, given.vocabulary), WARM_UP_SECONDS))
        rate, first = asyncio.run(closed_loop(Clients(server, given.vocabulary), loop_seconds))
        clients, before = Clients(server, given.vocabulary), metrics(server, (ENDED,))[ENDED]
        start = time.perf_counter()
        under_load = asyncio.run(arrivals(clients, given.factor * rate, seconds))
        ended = metrics(server, (ENDED,))[ENDED] - before
        _, after = asyncio.run(closed_loop(Clients(server, given.vocabulary), loop_seconds))
    half = [(at - start, size / 1e6) for at, size in samples if seconds / 2 <= at - start <= seconds]
    returns, told = clients.first_returns, [float(seconds) for seconds in clients.retry_after.elements()] or [0.0]
    return {
        "minutes": given.minutes,
        "closed_loop_tokens_per_second": {"before": round(first, 1), "after": round(after, 1)},
        "arrivals_per_second": round(given.factor * rate, 2),
        "tokens_per_second": round(under_load, 1),
        "goodput_ratio": round(2 * under_load / (first + after), 3),
        "ttft_seconds": {f"p{p}": round(record.percentile(clients.ttft, p / 100), 2) for p in (50, 95, 99)},
        "statuses": dict(sorted(clients.statuses.items())),
        "retry_after_seconds": {f"p{p}": record.percentile(told, p / 100) for p in (50, 95, 100)},
        "without_retry_after": clients.retry_after[0],
        "first_returns": returns.total(),
        "to_return_after_the_end": clients.sent_away,
        "first_return_served": round(returns[200] / max(returns.total(), 1), 3),
        "terminal_events": dict(clients.terminal_events),
        "broken_off": clients.broken_off,
        "ended_by_the_servers_count": int(ended),
        "memory_slope_mb_per_minute": round(slope_per_minute(half), 3),
    }


def broken_promises(figures: dict[str, Any]) -> list[str]:
    """What must not be in the figures, in words."""
    accepted = figures["statuses"].get(200, 0)
    checks = {
        f"TTFT p95 is {figures['ttft_seconds']['p95']} s": figures["ttft_seconds"]["p95"] <= TTFT_SECONDS,
        f"goodput is {figures['goodput_ratio']} of the closed loop's": figures["goodput_ratio"] >= 0.9,
        f"{figures['first_return_served']} were served at the first return": figures["first_return_served"] >= 0.9,
        f"statuses {list(figures['statuses'])}": set(figures["statuses"]) <= {200, 429, 503},
        f"terminal events {figures['terminal_events']}": set(figures["terminal_events"]) == {1},
        f"{figures['broken_off']} answers broke off": not figures["broken_off"],
        f"{accepted} answers, the server counted {figures['ended_by_the_servers_count']}": accepted
        == figures["ended_by_the_servers_count"],
        f"{figures['without_retry_after']} refusals had no Retry-After": not figures["without_retry_after"],
    }
    return [words for words, is_kept in checks.items() if not is_kept]


def rows_of(figures: dict[str, Any]) -> str:
    """The table of a result file."""
    closed = figures["closed_loop_tokens_per_second"]
    ttft, told = figures["ttft_seconds"], figures["retry_after_seconds"]
    answered = figures["statuses"].get("200", 0)
    rows = {
        "arrivals, requests/s": figures["arrivals_per_second"],
        "tokens/s of a closed loop before and after": f"{closed['before']} and {closed['after']}",
        "tokens/s, and that over the mean of both": f"{figures['tokens_per_second']} ({figures['goodput_ratio']})",
        "first token of what was accepted, p50, p95 and p99, s": f"{ttft['p50']}, {ttft['p95']} and {ttft['p99']}",
        "answers, each with one terminal event": answered,
        "refusals, 429": sum(count for status, count in figures["statuses"].items() if status != "200"),
        "`Retry-After`, p50, p95 and longest, s": f"{told['p50']}, {told['p95']} and {told['p100']}",
        "of those who came back, served at the first return": f"{figures['first_return_served']:.1%}",
        "growth of memory in the second half, MB a minute": figures["memory_slope_mb_per_minute"],
    }
    return table(["", ""], [[name, str(value)] for name, value in rows.items()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", help="a shell command with {port}; default: this project and --model")
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--factor", type=float, default=3, help="arrivals, as a multiple of what a closed loop gets")
    parser.add_argument("--vocabulary", type=int, default=7680, help="prompts are token ids below")
    parser.add_argument("--name", default="overload", help="of the result file")
    given = parser.parse_args()
    figures = measure(given.server or f"{OURS} --model {given.model}", given)
    print(json.dumps(figures, indent=2), record.write(given.name, figures), sep="\n")
    if broken := broken_promises(figures):
        raise SystemExit("\n".join(broken))


if __name__ == "__main__":
    main()
