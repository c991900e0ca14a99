"""The engine without HTTP: N streams, closed loop, random prompts, greedy answers of fixed length.

python -m benchmarks.engine --model model/bundled --streams 1 8 32
"""

import argparse
import random
import time
from pathlib import Path

from benchmarks import record
from model.loading.load import load_network
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.types import DEFAULT_ROUTING, GenerateRequest, RoutingParams, SamplingParams


def build(model: Path, max_num_seqs: int = 64) -> Engine:
    network = load_network(model)
    return Engine(network, EngineConfig(max_model_len=1024, max_num_seqs=max_num_seqs))


def output_rate(
    engine: Engine,
    streams: int,
    *,
    prompt: int = 128,
    output: int = 64,
    rounds: int = 2,
    routing: RoutingParams = DEFAULT_ROUTING,
) -> float:
    """Output tokens per second with always `streams` requests under way, `rounds` requests per stream."""
    vocabulary = engine.runner.network.config.vocab_size
    draw = random.Random(time.perf_counter_ns())
    left, done, tokens = streams * rounds, 0, 0

    def submit(number: int) -> None:
        ids = tuple(draw.randrange(32, vocabulary) for _ in range(prompt))
        sampling = SamplingParams(max_tokens=output, temperature=0.0, ignore_eos=True)
        engine.submit(GenerateRequest(f"{draw.random()}-{number}", ids, sampling, routing=routing))

    start = time.perf_counter()
    for number in range(streams):
        submit(number)
    while done < left:
        for result in engine.step():
            tokens += len(result.token_ids)
            if result.finish_reason is not None:
                done += 1
                if done + streams <= left:
                    submit(done + streams)
    return tokens / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("model/bundled"))
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    engine = build(arguments.model)
    output_rate(engine, 4, rounds=1)
    figures = {}
    for streams in arguments.streams:
        rates = sorted(output_rate(engine, streams) for _ in range(arguments.runs))
        figures[streams] = rates
        print(f"{streams:4d} streams: {rates[len(rates) // 2]:8.0f} output tokens/s (median of {arguments.runs})")
    print(record.write("engine", figures))


if __name__ == "__main__":
    main()
