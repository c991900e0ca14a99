"""What HTTP adds to the engine: the engine in this process, and a server around one, in turn.

    python -m benchmarks.overhead --model model/bundled --streams 1 32
    python -m benchmarks.overhead --streams 1 32 --routing    # and with return_routing, in turn

Closed loops of prompts of 128 tokens and greedy answers of 64. The last line is the processor's time of the thread that
turns tokens into text and events, for each token. What the engine itself adds to its kernels: `benchmarks.breakdown`.
Linux only.
"""

import argparse
import asyncio
import shlex
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from benchmarks import record
from benchmarks.engine import build, output_rate
from benchmarks.servers import OURS, started
from benchmarks.serving import Load, closed_loop, summary
from model.evaluation.tables import table
from server.engine.types import ReturnedRouting, RoutingParams

PROMPT, OUTPUT = 128, 64
HTTP_TIME = "HTTP's thread, microseconds a token"


def measure(
    model: Path, streams: list[int], runs: int, threads: int, *, routing: bool = False
) -> dict[str, dict[str, float]]:
    """Median tokens per second by what was measured and number of streams; with `routing` also of requests with it."""
    torch.set_num_threads(threads)
    engine = build(model)
    vocabulary = engine.runner.network.config.vocab_size
    returned = RoutingParams(returned=ReturnedRouting(tuple(engine.runner.network.num_experts)))
    rates: dict[str, dict[int, list[float]]] = {}

    def note(what: str, count: int, rate: float) -> None:
        rates.setdefault(what, {}).setdefault(count, []).append(rate)

    with started(f"{OURS} --model {shlex.quote(str(model))} --threads {threads}") as server:
        load = Load(server.url, server.model, PROMPT, OUTPUT, 0, vocabulary)
        asyncio.run(closed_loop(load, 2, 4))
        output_rate(engine, 4, rounds=1)
        for _ in range(runs):
            for count in streams:
                note("engine", count, output_rate(engine, count, prompt=PROMPT, output=OUTPUT, rounds=4))
                before = server.main_thread_seconds()
                figures = summary(asyncio.run(closed_loop(load, count, 4 * count)))
                note("HTTP, streaming", count, figures["output_tokens_per_second"])
                note(HTTP_TIME, count, 1e6 * (server.main_thread_seconds() - before) / (4 * count * OUTPUT))
                if routing:
                    rate = output_rate(engine, count, prompt=PROMPT, output=OUTPUT, rounds=4, routing=returned)
                    note("engine, return_routing", count, rate)
                    asking = replace(load, fields={"return_routing": True})
                    figures = summary(asyncio.run(closed_loop(asking, count, 4 * count)))
                    note("HTTP, streaming, return_routing", count, figures["output_tokens_per_second"])
    return {what: {str(c): round(median(values)) for c, values in by.items()} for what, by in rates.items()}


def rows_of(figures: dict[str, dict[str, float]]) -> str:
    """The figures as Markdown."""
    first = next(iter(figures.values()))
    heads = ["output tokens/s", *(f"{count} streams" for count in first)]
    return table(heads, [[what, *(f"{value:,.0f}" for value in of.values())] for what, of in figures.items()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("model/bundled"))
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--routing", action="store_true", help="also with return_routing")
    parser.add_argument("--name", default="overhead", help="of the result file")
    arguments = parser.parse_args()
    figures = measure(arguments.model, arguments.streams, arguments.runs, arguments.threads, routing=arguments.routing)
    print(rows_of(figures), record.write(arguments.name, figures), sep="\n\n")


if __name__ == "__main__":
    main()
