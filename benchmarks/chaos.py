"""Does a server stay whole while everything goes wrong? Minutes of faults at 0.8 of saturation, and what is left after.

    python -m benchmarks.chaos --minutes 30

Starts `benchmarks.faulty_server`, whose steps fail and whose clock jumps, and stops its process now and then (SIGSTOP).
Some clients cancel, reset their connections, read slowly, or send half a request. Meanwhile /health/live is asked five
times a second. Afterwards nothing may be left: no request, no block or slot of the cache, no file descriptor, no task.
"""

import argparse
import asyncio
import http.client
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import record
from benchmarks.chaos_clients import Clients
from benchmarks.faulty_server import TASKS
from benchmarks.servers import Server, started

COMMAND = f"{sys.executable} -m benchmarks.faulty_server --port {{port}}"
LOAD = 0.8  # of the rate at which a closed loop of STREAMS requests is answered
STREAMS = 32
PROBE_SECONDS, SLOW_SECONDS = 0.2, 0.5
STOP_EVERY, STOP_FOR = (5.0, 25.0), (0.3, 3.0)  # seconds between two SIGSTOPs, and until SIGCONT
SETTLE_SECONDS = 90.0  # until the server must have noticed that all clients are gone

LEFT = ("vllm:num_requests_running", "vllm:num_requests_waiting", "routelm:kv_blocks_used", "routelm:state_slots_used")
GROWN = ("process_open_fds", TASKS)


@dataclass
class Probes:
    """/health/live from a thread, as a kubelet asks: a new connection each time.

    A stopped process cannot answer, so the time of a probe counts from SIGCONT on. Of slow ones it is noted how long a
    thread of the server waited for a processor meanwhile: on a machine that others use, that is not the server's fault.
    """

    server: Server
    seconds: list[float] = field(default_factory=list)
    slow: list[dict[str, float]] = field(default_factory=list)  # those above SLOW_SECONDS, with what was the matter
    failures: list[str] = field(default_factory=list)
    continued: float = 0.0  # time.perf_counter() of the last SIGCONT
    _done: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._probe_again_and_again)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()

    def _probe_again_and_again(self) -> None:
        while not self._done.wait(PROBE_SECONDS):
            start, waits = time.perf_counter(), self.server.waits_for_processor()
            try:
                status = self._status()
            except OSError as error:
                self.failures.append(repr(error))
            else:
                self._note(start, waits)
                if status != 200:
                    self.failures.append(f"status {status}")

    def _note(self, start: float, waits: dict[int, float]) -> None:
        """A probe that began at `start` has its answer. `waits`: for processors, as they were then."""
        now = time.perf_counter()
        self.seconds.append(now - max(start, self.continued))
        if self.seconds[-1] > SLOW_SECONDS:
            waits_now = self.server.waits_for_processor()
            waited = max(seconds - waits.get(thread, 0.0) for thread, seconds in waits_now.items())
            figures = {
                "seconds": self.seconds[-1],
                "waited_for_processor": waited,
                "after_sigcont": now - self.continued,
            }
            self.slow.append({name: round(value, 2) for name, value in figures.items()})

    def _status(self) -> int:
        connection = http.client.HTTPConnection(urlsplit(self.server.url).netloc, timeout=30)
        try:
            connection.request("GET", "/health/live")
            return connection.getresponse().status
        finally:
            connection.close()


def metrics(server: Server, names: tuple[str, ...]) -> dict[str, float]:
    """Each the sum of its samples."""
    text = httpx.get(f"{server.url}/metrics", timeout=30, trust_env=False).raise_for_status().text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {name: sum(sample.value for sample in samples if sample.name == name) for name in names}


async def saturated_rate(clients: Clients, seconds: float) -> float:
    """Requests a second of a closed loop."""
    end, answered = time.perf_counter() + seconds, 0

    async def stream() -> None:
        nonlocal answered
        while time.perf_counter() < end:
            await clients.reads_all()
            answered += 1

    start = time.perf_counter()
    await asyncio.gather(*(stream() for _ in range(STREAMS)))
    return answered / (time.perf_counter() - start)


async def arrivals(clients: Clients, rate: float, seconds: float) -> None:
    """Clients that arrive at random, whatever became of those before; returns when all are gone."""
    end, tasks = time.perf_counter() + seconds, set[asyncio.Task[None]]()
    while time.perf_counter() < end:
        task = asyncio.create_task(clients.one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await asyncio.sleep(clients.draw.expovariate(rate))
    await asyncio.gather(*tasks)


async def stops(server: Server, probes: Probes, seconds: float) -> int:
    """SIGSTOP and SIGCONT; returns how often."""
    draw, end, count = random.Random(2), time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        await asyncio.sleep(draw.uniform(*STOP_EVERY))
        os.killpg(server.session, signal.SIGSTOP)
        try:
            await asyncio.sleep(draw.uniform(*STOP_FOR))
        finally:
            probes.continued = time.perf_counter()
            os.killpg(server.session, signal.SIGCONT)
        count += 1
    return count


def settled(server: Server, before: dict[str, float]) -> dict[str, float]:
    """What is left when nothing changes any more: of LEFT the values, of GROWN those above `before`."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        now = metrics(server, LEFT + GROWN)
        left = {name: value - before.get(name, 0.0) for name, value in now.items()}
        if not any(value > 0 for value in left.values()) or time.monotonic() > deadline:
            return left
        time.sleep(0.5)


def measure(minutes: float, *, seed: int = 1) -> dict[str, Any]:
    """Run it and return the figures."""
    seconds = 60 * minutes
    with started(COMMAND) as server:
        asyncio.run(saturated_rate(Clients(server.url, seed), 5))  # what is made at first use is made now
        rate = LOAD * asyncio.run(saturated_rate(Clients(server.url, seed), 10))
        before, memory = metrics(server, GROWN), server.memory()
        clients, probes = Clients(server.url, seed), Probes(server)

        async def chaos() -> int:
            _, count = await asyncio.gather(arrivals(clients, rate, seconds), stops(server, probes, seconds))
            return count

        with probes.running():
            stopped = asyncio.run(chaos())
            left = settled(server, before)
        counts = metrics(server, ("routelm:engine_step_failures_total", "vllm:request_success_total"))
        grown = server.memory() - memory
    return {
        "minutes": minutes,
        "requests_per_second": round(rate, 2),
        "clients": dict(sorted(clients.outcomes.items())),
        "stops": stopped,
        **{name.partition(":")[2]: int(value) for name, value in counts.items()},
        "health_probes": len(probes.seconds),
        "health_failures": probes.failures,
        "health_ms": {f"p{share}": round(1e3 * record.percentile(probes.seconds, share / 100)) for share in (50, 99)}
        | {"max": round(1e3 * max(probes.seconds))},
        "slow_health_probes": probes.slow,
        "left": {name: int(value) for name, value in left.items()},
        "memory_grown_mb": round(grown / 1e6, 1),
    }


def broken_promises(figures: dict[str, Any]) -> list[str]:
    """What must not be in the figures, in words."""
    found = [f"{name}: {count} left" for name, count in figures["left"].items() if count > 0]
    found += [f"/health/live: {failure}" for failure in figures["health_failures"]]
    for slow in figures["slow_health_probes"]:
        if slow["seconds"] - slow["waited_for_processor"] > 1:
            found.append(f"/health/live took {slow['seconds']} s")
    for outcome, count in figures["clients"].items():
        if outcome.endswith("terminal events") and not outcome.startswith("1 "):
            found.append(f"{count} streams had {outcome}")
        if outcome.startswith("status 5") and outcome not in ("status 500", "status 503"):
            found.append(f"{count} answers with {outcome}")
        if outcome.startswith("reads_all: "):
            found.append(f"{count} answers broke off: {outcome}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--name", default="chaos", help="of the result file")
    given = parser.parse_args()
    figures = measure(given.minutes)
    print(json.dumps(figures, indent=2), record.write(given.name, figures), sep="\n")
    if broken := broken_promises(figures):
        raise SystemExit("\n".join(broken))


if __name__ == "__main__":
    main()
