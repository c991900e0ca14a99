"""What fewer experts per token do for the queue under a step of load: with and without ROUTELM_ADAPTIVE_EXPERTS.

    python -m benchmarks.adaptive                       # the bundled model, 1:2
    python -m benchmarks.adaptive --experts 1:3 --seconds 60 --factor 2

Requests arrive at random: at a third of what the server without the setting can do, then at `--factor` times that, then
at a third again. No request is refused, so the queue shows. Wait is the time from arrival to the first scheduling, from
the server's histogram (linear within a bucket, and these are wide); TTFT is what the client sees. The same prompts are
answered before the step and after it, once the number of experts is what it was: these answers and their
log-probabilities must equal those of the server without the setting. Written: results/adaptive.json, with the quality
that quality.json has of each number of experts, and docs/performance/adaptive.png. Linux only.
"""

import argparse
import asyncio
import json
import random
import shlex
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
from matplotlib.figure import Figure
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import record
from benchmarks.plots import DIRECTORY, stored
from benchmarks.servers import OURS, started
from benchmarks.serving import Load, Timing, ask, closed_loop
from model.checkpoints.hub import BUNDLED

QUIET = 1 / 3
SAMPLE_SECONDS = 0.5
PATIENT = "--max-queue 100000 --max-queue-tokens 1000000000 --max-queue-wait 86400 --max-connections 100000"
PHASES = ("quiet", "step", "quiet again")
ASKED, ANSWER_TOKENS = 8, 16  # prompts whose answers are compared, and the length of each answer
SETTLE_SECONDS = 60.0  # until the number of experts must have come back
Buckets = dict[float, float]  # by upper bound in seconds: how many waits were no longer


@dataclass(frozen=True, slots=True)
class Sample:
    """The server at one moment; `seconds` since the first request. `experts` is None where nothing adapts."""

    seconds: float
    waiting: float
    experts: float | None


@dataclass(slots=True)
class Run:
    """One server under the step of load."""

    samples: list[Sample] = field(default_factory=list)
    began: dict[str, float] = field(default_factory=dict)  # by phase, seconds since the first request
    waits: dict[str, float] = field(default_factory=dict)  # by phase, p95 of the queue in seconds
    ttft: dict[str, float] = field(default_factory=dict)  # by phase, p95 in seconds
    answered: dict[str, int] = field(default_factory=dict)
    generations: dict[str, int] = field(default_factory=dict)  # by experts per token

    def figures(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Scrape:
    """What /metrics says of queue and experts."""

    waiting: float
    experts: float | None
    waits: Buckets
    generations: dict[str, int]

    @classmethod
    async def of(cls, client: httpx.AsyncClient) -> "Scrape":
        text = (await client.get("/metrics")).text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        values = {sample.name: sample.value for sample in samples}
        return cls(
            values["vllm:num_requests_waiting"],
            values.get("routelm:experts_per_token"),
            {float(s.labels["le"]): s.value for s in samples if s.name == "vllm:request_queue_time_seconds_bucket"},
            {s.labels["experts"]: int(s.value) for s in samples if s.name == "routelm:generations_by_experts_total"},
        )


def quantile(before: Buckets, after: Buckets, share: float) -> float:
    """That share of the waits between two scrapes was no longer, linear within a bucket as Prometheus computes it."""
    counts = {bound: after[bound] - before.get(bound, 0.0) for bound in sorted(after)}
    wanted = share * max(counts.values())
    low, below = 0.0, 0.0
    for bound, count in counts.items():
        if count >= wanted:
            inside = count - below
            return low if bound == float("inf") or not inside else low + (bound - low) * (wanted - below) / inside
        low, below = bound, count
    return low


async def capacity(load: Load, streams: int) -> float:
    """Requests a second with all places taken."""
    await closed_loop(load, streams, streams)
    began = time.perf_counter()
    await closed_loop(load, streams, 3 * streams)
    return 3 * streams / (time.perf_counter() - began)


async def step(load: Load, rates: Mapping[str, float], seconds: float) -> Run:
    """The phases one after another; the requests of a phase are all answered before its figures are taken."""
    run, draw = Run(), random.Random(1)
    async with httpx.AsyncClient(base_url=load.url, timeout=60) as client:
        began = time.perf_counter()
        watcher = asyncio.create_task(_watch(client, run, began))
        for phase, rate in rates.items():
            before = await Scrape.of(client)
            run.began[phase] = round(time.perf_counter() - began, 2)
            timings = await _arrivals(load, draw, rate, seconds)
            after = await Scrape.of(client)
            run.waits[phase] = quantile(before.waits, after.waits, 0.95)
            run.ttft[phase] = record.percentile(_ttft(timings), 0.95)
            run.answered[phase] = sum(timing.status == 200 for timing in timings)
        run.generations = after.generations
        watcher.cancel()
        with suppress(asyncio.CancelledError):
            await watcher
    return run


async def _arrivals(load: Load, draw: random.Random, rate: float, seconds: float) -> list[Timing]:
    """Requests that arrive for so long, and their ends."""
    tasks, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        tasks.append(asyncio.create_task(ask(load, draw)))
        await asyncio.sleep(draw.expovariate(rate))
    return list(await asyncio.gather(*tasks))


async def _watch(client: httpx.AsyncClient, run: Run, began: float) -> None:
    while True:
        seen = await Scrape.of(client)
        run.samples.append(Sample(round(time.perf_counter() - began, 2), seen.waiting, seen.experts))
        await asyncio.sleep(SAMPLE_SECONDS)


async def answers(load: Load, **fields: Any) -> list[Any]:
    """What a server answers to some prompts, one after another: the tokens and their log-probabilities."""
    draw, found = random.Random(2), []
    async with httpx.AsyncClient(base_url=load.url, timeout=60) as client:
        for _ in range(ASKED):
            prompt = [draw.randrange(32, load.vocabulary) for _ in range(load.prompt_tokens)]
            body = {"model": load.model, "prompt": prompt, "max_tokens": ANSWER_TOKENS, "temperature": 0, "logprobs": 1}
            answer = await client.post("/v1/completions", json=body | fields)
            found.append(answer.raise_for_status().json()["choices"][0]["logprobs"])
    return found


async def settled(load: Load, most: int) -> None:
    """Returns when new requests get `most` experts per token again, or where their number never changes."""
    async with httpx.AsyncClient(base_url=load.url, timeout=60) as client:
        deadline = time.perf_counter() + SETTLE_SECONDS
        while (await Scrape.of(client)).experts not in (None, most):
            if time.perf_counter() > deadline:
                raise RuntimeError(f"{SETTLE_SECONDS:g} s without load, and new requests get fewer than {most} experts")
            await asyncio.sleep(SAMPLE_SECONDS)


def _ttft(timings: Iterable[Timing]) -> list[float]:
    return [timing.events[0] - timing.start for timing in timings if timing.events]


def quality(model: Path, experts: str) -> list[dict[str, Any]]:
    """The rows of quality.json for the numbers of experts of a range; none where it has none."""
    path, (fewest, most) = model / "quality.json", map(int, experts.split(":"))
    rows = json.loads(path.read_text(encoding="utf-8")).get("experts", []) if path.is_file() else []
    return [row for row in rows if fewest <= row["experts"] <= most]


async def under_load(
    load: Load, rates: Mapping[str, float], seconds: float, fewest: int, most: int
) -> tuple[Run, dict[str, list[Any]]]:
    """The step of load, and the answers before it, after it, and with the fewest experts."""
    before = await answers(load)
    run = await step(load, rates, seconds)
    await settled(load, most)
    after, few = await answers(load), await answers(load, experts_per_token=fewest)
    return run, {"before": before, "after": after, "fewest": few}


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """The server without the setting and with it, under the same rates."""
    fewest, most = map(int, given.experts.split(":"))
    shares = QUIET, given.factor, QUIET  # of what the server can do
    server = f"{OURS} --model {shlex.quote(str(given.model))} --max-num-seqs {given.streams} {PATIENT}"
    server += f" --experts-per-token {most}"
    runs: dict[str, Any] = {}
    rates: dict[str, float] = {}
    told: dict[str, dict[str, list[Any]]] = {}
    for name, options in (("fixed", ""), ("adaptive", f" --adaptive-experts {given.experts}")):
        with started(server + options) as running:
            load = Load(running.url, running.model, given.prompt_tokens, given.output_tokens, 0, given.vocabulary)
            possible = asyncio.run(capacity(load, given.streams))
            rates = rates or {phase: share * possible for phase, share in zip(PHASES, shares, strict=True)}
            run, told[name] = asyncio.run(under_load(load, rates, given.seconds, fewest, most))
            runs[name] = run.figures()
        print(name, json.dumps({key: runs[name][key] for key in ("waits", "ttft", "answered")}))
    settings = {"experts": given.experts, "streams": given.streams, "seconds": given.seconds, "factor": given.factor}
    found = {"requests_per_second": rates, "runs": runs, "same_bits": same_bits(told["fixed"], told["adaptive"])}
    return settings | found | {"quality": quality(given.model, given.experts)}


def same_bits(fixed: Mapping[str, list[Any]], adaptive: Mapping[str, list[Any]]) -> dict[str, bool]:
    """Whether the answers of the server that adapts equal those of the other one, by when they were asked for.

    "fewest" is the control: both are asked for the fewest experts, and neither may answer as before.
    """
    same = {when: adaptive[when] == fixed[when] for when in ("before", "after", "fewest")}
    return same | {"fewest equals before": adaptive["fewest"] == adaptive["before"]}


def draw_plot(path: Path, figures: Mapping[str, Any]) -> None:
    """The queues over time, and below them the experts per token of the server that adapts. Grey: the step."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for name, run in figures["runs"].items():
        times = [sample["seconds"] for sample in run["samples"]]
        label = f"{name}: the step's p95 of the wait {run['waits']['step']:.1f} s, of TTFT {run['ttft']['step']:.1f} s"
        above.plot(times, [sample["waiting"] for sample in run["samples"]], label=label)
        if name == "adaptive":
            below.step(times, [sample["experts"] for sample in run["samples"]], where="post", color="C1")
    fewest, most = map(int, figures["experts"].split(":"))
    above.set_ylabel("waiting requests")
    above.legend(frameon=False, fontsize=8)
    below.set_ylabel("experts\nper token")
    below.set_yticks(range(fewest, most + 1))
    below.set_xlabel("seconds")
    began = figures["runs"]["adaptive"]["began"]["step"]
    for axes in (above, below):
        axes.axvspan(began, began + figures["seconds"], color="0.92", zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=BUNDLED)
    parser.add_argument("--experts", default="1:2", help="of the server that adapts: fewest:most")
    parser.add_argument("--streams", type=int, default=16, help="requests in one batch")
    parser.add_argument("--factor", type=float, default=3.0, help="arrivals of the step, of what the server can do")
    parser.add_argument("--seconds", type=float, default=30.0, help="of arrivals in each phase")
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--vocabulary", type=int, default=7680, help="ids are drawn from so many")
    given = parser.parse_args()
    print(record.write("adaptive", measure(given)))
    draw_plot(DIRECTORY / "adaptive.png", stored("adaptive"))


if __name__ == "__main__":
    main()
