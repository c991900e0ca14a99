"""OpenAI-compatible servers side by side on the same checkpoint: they take turns within one run, so that ratios hold.

    python -m benchmarks.compare --server "routelm=routelm serve --model DIRECTORY --port {port}" \\
        --server "other=$OTHER --port {port}" --streams 1 8 32 --name compare-other

A server is a shell command; it is started for its turn and stopped after it, and the order turns round from run to run.
Per turn: a long prompt five times, then closed loops of distinct prompts with greedy answers of fixed length. A turn
counts only if every request was answered in full. Ratios are of the first server to each other one, within a run.
"""

import argparse
import asyncio
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from benchmarks import record
from benchmarks.servers import started, weighed
from benchmarks.serving import Load, Timing, closed_loop, summary
from model.evaluation.tables import table as markdown_table

LONG_PROMPTS = 5
Turn = dict[str, float]  # what was measured, with its unit, and the value
Turns = dict[str, list[Turn]]  # by server, in the order of the runs


@dataclass(frozen=True, slots=True)
class Plan:
    """What every server is asked."""

    streams: list[int]
    prompt_tokens: int
    output_tokens: int
    long_prompt: int
    vocabulary: int

    def load(self, url: str, model: str) -> Load:
        return Load(url, model, self.prompt_tokens, self.output_tokens, 0, self.vocabulary)


def measure(servers: dict[str, str], plan: Plan, runs: int) -> Turns:
    """`runs` turns of each server, given as commands by name."""
    turns: Turns = {name: [] for name in servers}
    for run in range(runs):
        for name in list(servers)[:: -1 if run % 2 else 1]:
            turns[name].append(take_turn(servers[name], plan))
            print(f"run {run + 1}, {name}: {turns[name][-1]}", flush=True)
    return turns


def take_turn(command: str, plan: Plan) -> Turn:
    """One server from its start to its end. Memory is the most that was seen under load."""
    with started(command) as server, weighed(server) as samples:
        load = plan.load(server.url, server.model)
        full(load, 2, 4)  # warms up
        found = {"ready, s": server.ready_seconds, **long_prompts(replace(load, prompt_tokens=plan.long_prompt))}
        for streams in plan.streams:
            found |= at(load, streams)
    return {what: round(value, 3) for what, value in found.items()} | {
        "memory, MB": round(max(size for _, size in samples) / 1e6)
    }


def long_prompts(load: Load) -> Turn:
    """Prompt tokens a second: one prompt at a time, until its first token is there."""
    timings = full(replace(load, output_tokens=1), 1, 1 + LONG_PROMPTS)[1:]
    seconds = median(timing.events[0] - timing.start for timing in timings)
    return {f"prompt of {load.prompt_tokens}, tokens/s": load.prompt_tokens / seconds}


def at(load: Load, streams: int) -> Turn:
    """Throughput and latencies with always `streams` requests under way."""
    figures = summary(full(load, streams, streams * (4 if streams <= 8 else 2)))
    names = {"TTFT": "ttft_ms", "ITL": "itl_ms", "time per token": "tpot_ms"}
    times = {f"{name} {p}": figures[key][p] for name, key in names.items() for p in ("p50", "p99")}
    found = {f"{streams} streams, output tokens/s": figures["output_tokens_per_second"]}
    return found | {f"{streams} streams, {what}, ms": value for what, value in times.items()}


def full(load: Load, streams: int, requests: int) -> list[Timing]:
    """A closed loop whose requests were all answered in full: anything else is no comparison."""
    timings = asyncio.run(closed_loop(load, streams, requests))
    short = [timing for timing in timings if timing.status != 200 or timing.tokens != load.output_tokens]
    if short:
        example = f"the first with status {short[0].status} and {short[0].tokens} of {load.output_tokens} tokens"
        raise RuntimeError(f"{len(short)} of {requests} requests to {load.model} were not answered in full, {example}")
    return timings


def medians(turns: Turns) -> dict[str, Turn]:
    """By server."""
    return {name: {what: median(turn[what] for turn in of) for what in of[0]} for name, of in turns.items()}


def ratios(turns: Turns) -> dict[str, dict[str, list[float]]]:
    """By each server after the first: the first one's value over its own, per run, in ascending order."""
    (_, ours), *others = turns.items()
    return {
        name: {what: sorted(round(a[what] / b[what], 3) for a, b in zip(ours, theirs, strict=True)) for what in ours[0]}
        for name, theirs in others
    }


def table(turns: Turns) -> str:
    """Medians, then the median ratios with the lowest and the highest, as Markdown."""
    middle, relative = medians(turns), ratios(turns)
    first = next(iter(turns))
    heads = ["what", *turns, *(f"{first} / {other}" for other in relative)]
    lines = []
    for what in middle[first]:
        cells = [digits(middle[name][what]) for name in turns]
        cells += [f"{median(r[what]):.2f} ({r[what][0]:.2f} to {r[what][-1]:.2f})" for r in relative.values()]
        lines.append([what, *cells])
    return markdown_table(heads, lines)


def digits(value: float) -> str:
    """Three digits, or all of a large number."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def named(text: str) -> tuple[str, str]:
    """`name=command`."""
    name, equals, command = text.partition("=")
    if not name or not equals or "{port}" not in command:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=COMMAND with {{port}} where the port goes")
    return name, command


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", type=named, action="append", required=True, metavar="NAME=COMMAND")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--long-prompt", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=7680, help="prompts are token ids below")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--name", default="compare", help="of the result file")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    plan = Plan(given.streams, given.prompt_tokens, given.output_tokens, given.long_prompt, given.vocabulary)
    servers = dict(given.server)
    turns = measure(servers, plan, given.runs)
    figures: dict[str, Any] = {"servers": servers, "plan": asdict(plan), "turns": turns, "medians": medians(turns)}
    print(record.write(given.name, figures | {"ratios": ratios(turns)}), table(turns), sep="\n\n")


if __name__ == "__main__":
    main()
