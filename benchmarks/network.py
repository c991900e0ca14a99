"""The network alone: decode steps of N sequences on a full cache, no scheduling, no sampling, no HTTP.

python -m benchmarks.network --model model/bundled --streams 1 8 32
"""

import argparse
import time
from pathlib import Path

import torch

from benchmarks import record
from model.batch import ForwardBatch
from model.cache import CacheStorage
from model.loading import load_network
from model.network import CausalLM

BLOCK_SIZE = 16


@torch.inference_mode()
def decode_rate(network: CausalLM, streams: int, *, context: int = 128, steps: int = 64) -> float:
    """Tokens per second of `steps` decode steps after `context` tokens, each stream at its own greedy token."""
    per_sequence = -(-(context + steps) // BLOCK_SIZE)
    cache = CacheStorage(
        network.cache_specs(),
        num_blocks=streams * per_sequence,
        block_size=BLOCK_SIZE,
        num_rows=streams,
        dtype=network.dtype,
    )
    table_SB = torch.arange(streams * per_sequence, dtype=torch.int32).view(streams, per_sequence)
    rows_S = torch.arange(streams, dtype=torch.int32)

    def step(ids_T: torch.Tensor, first: int, count: int) -> torch.Tensor:
        batch = ForwardBatch(
            token_ids_T=ids_T,
            positions_T=torch.arange(first, first + count).repeat(streams),
            query_starts_S1=torch.arange(streams + 1, dtype=torch.int32) * count,
            block_table_SB=table_SB,
            state_rows_S=rows_S,
            cache=cache,
        )
        return network.logits(network(batch)[0][count - 1 :: count]).argmax(-1)

    next_T = step(torch.randint(0, network.config.vocab_size, (streams * context,)), 0, context)
    for position in range(context, context + 4):
        next_T = step(next_T, position, 1)
    start = time.perf_counter()
    for position in range(context + 4, context + steps):
        next_T = step(next_T, position, 1)
    return streams * (steps - 4) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("model/bundled"))
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    network = load_network(arguments.model)
    figures = {}
    for streams in arguments.streams:
        rates = sorted(decode_rate(network, streams) for _ in range(arguments.runs))
        figures[streams] = rates
        print(f"{streams:4d} streams: {rates[len(rates) // 2]:8.0f} tokens/s (median of {arguments.runs})")
    print(record.write("network", figures))


if __name__ == "__main__":
    main()
