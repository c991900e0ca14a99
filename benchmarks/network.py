"""The network alone: decode steps of N sequences on a full cache, no scheduling, no sampling, no HTTP.

python -m benchmarks.network --model model/bundled --streams 1 8 32
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import record
from model.batch import ForwardBatch
from model.cache import CacheStorage
from model.loading import load_network
from model.network import CausalLM

BLOCK_SIZE = 16


class Steps:
    """Steps of `streams` sequences of equal length, over a cache with room for `length` tokens of each."""

    def __init__(self, network: CausalLM, streams: int, length: int) -> None:
        blocks = -(-length // BLOCK_SIZE)
        self.network, self.streams = network, streams
        self.cache = CacheStorage(
            network.cache_specs(),
            num_blocks=streams * blocks,
            block_size=BLOCK_SIZE,
            num_rows=streams,
            dtype=network.dtype,
        )
        self.table_SB = torch.arange(streams * blocks, dtype=torch.int32).view(streams, blocks)

    def run(self, ids_T: Tensor, first: int, count: int) -> Tensor:
        """The next `count` tokens of every stream, from position `first`; returns each stream's greedy next token."""
        batch = ForwardBatch(
            token_ids_T=ids_T,
            positions_T=torch.arange(first, first + count).repeat(self.streams),
            query_starts_S1=torch.arange(self.streams + 1, dtype=torch.int32) * count,
            block_table_SB=self.table_SB,
            state_rows_S=torch.arange(self.streams, dtype=torch.int32),
            cache=self.cache,
        )
        hidden_TD, _ = self.network(batch)
        return self.network.logits(hidden_TD[count - 1 :: count]).argmax(-1)


@torch.inference_mode()
def decode_rate(network: CausalLM, streams: int, *, context: int = 128, tokens: int = 64) -> float:
    """Tokens per second of decode steps after `context` tokens, each stream going on with its greedy token."""
    steps = Steps(network, streams, context + tokens)
    next_T = steps.run(torch.randint(0, network.config.vocab_size, (streams * context,)), 0, context)
    start = time.perf_counter()
    for position in range(context, context + tokens):
        next_T = steps.run(next_T, position, 1)
    return streams * tokens / (time.perf_counter() - start)


@torch.inference_mode()
def prompt_seconds(network: CausalLM, length: int, repeats: int = 5) -> float:
    """Seconds for one prompt of `length` tokens by itself, the best of `repeats`."""
    times = []
    for _ in range(repeats):
        steps, ids_T = Steps(network, 1, length), torch.randint(0, network.config.vocab_size, (length,))
        start = time.perf_counter()
        steps.run(ids_T, 0, length)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("model/bundled"))
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    network = load_network(arguments.model)
    figures: dict[str, list[float]] = {}
    for _ in range(arguments.runs):
        for threads in arguments.threads:
            torch.set_num_threads(threads)
            for streams in arguments.streams:
                key = f"{streams} streams, {threads} threads"
                figures.setdefault(key, []).append(round(decode_rate(network, streams)))
    for key, rates in figures.items():
        print(f"{key}: {sorted(rates)[len(rates) // 2]} tokens/s (median of {arguments.runs})")
    print(record.write("network", figures))


if __name__ == "__main__":
    main()
