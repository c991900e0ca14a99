"""Training speed: the delta rule forward and backward, and whole steps of the bundled recipe on made-up text.

python -m benchmarks.training
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import median
from unittest import mock

import tokenizers
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import record
from model import batch
from model.bundled_recipe.recipes import bundled
from model.checkpoints.hub import BUNDLED
from model.kernels import reference
from model.kernels.cpu import autograd
from model.layers import feed_forward
from model.training.data.batches import BatchStream
from model.training.data.prepare import prepare
from model.training.data.sample_data import write_sample_data
from model.training.loop import losses
from model.training.loop.trainer import Trainer
from model.training.recipe import Phase


def delta_rule_ms(function: Callable[..., torch.Tensor], *, rows: int = 16, length: int = 256, heads: int = 4) -> float:
    """Milliseconds forward and backward for rows * length tokens, width 64, bfloat16, one thread; median of 5."""
    torch.set_num_threads(1)
    wide = [torch.randn(rows, length, heads, 64).bfloat16().requires_grad_() for _ in range(3)]
    gates = [(-torch.rand(rows, length, heads)).requires_grad_(), torch.rand(rows, length, heads).requires_grad_()]
    times = []
    for _ in range(5):
        start = time.perf_counter()
        out = function(*wide, *gates)
        out.backward(torch.ones_like(out))
        times.append(1e3 * (time.perf_counter() - start))
    return median(times)


def step_rates(prepared: Path, steps: int) -> dict[str, float]:
    """Tokens per second of the bundled recipe with and without what makes it fast, in turns; medians over steps."""
    torch.set_num_threads(2)
    variants: dict[str, tuple[int, AbstractContextManager[object]]] = {
        "2 workers": (2, nullcontext()),
        "1 worker of two threads": (1, nullcontext()),
        "2 workers, experts' rows not in blocks": (2, mock.patch.object(feed_forward, "BLOCK", 1)),
        "2 workers, fused attention": (2, mock.patch.object(batch, "_explicit_attention", fused_attention)),
        "2 workers, twelve lengths of rows": (2, mock.patch.object(Trainer, "_stream", coarse_stream)),
        "2 workers, prompt tokens weighted, not sampled": (2, mock.patch.object(losses, "sample_weights", weighted)),
    }
    with tempfile.TemporaryDirectory() as directory:
        trainers = {}
        for name, (workers, variant) in variants.items():
            with variant:
                trainers[name] = Trainer(bundled(), prepared, Path(directory) / name, workers=workers)
        rates: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(steps + 1):
            for name, (_, variant) in variants.items():
                with variant:
                    rates[name].append(trainers[name].train_step().tokens_per_second)
    return {name: median(of_steps[1:]) for name, of_steps in rates.items()}


def fused_attention(
    q_BHLK: Tensor, k_BGLK: Tensor, v_BGLV: Tensor, visible_LL: Tensor, scale: float, sinks_H: None
) -> Tensor:
    return functional.scaled_dot_product_attention(q_BHLK, k_BGLK, v_BGLV, is_causal=True, scale=scale, enable_gqa=True)


def weighted(weights_T: Tensor, generator: torch.Generator) -> Tensor:
    return weights_T


def coarse_stream(trainer: Trainer, phase: Phase, seed: int) -> BatchStream:
    lengths = (32, 48, 64, 80, 96, 128, 160, 208, 272, 352, 448, 512)
    return BatchStream(trainer.prepared_dir, phase.mixture, seed=seed, weights=phase.weights, bucket_lengths=lengths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--data", type=Path, help="what routelm prepare made (default: made-up text)")
    given = parser.parse_args()
    figures: dict[str, float] = {
        "delta rule, recurrence, ms": round(delta_rule_ms(autograd.delta_rule_train), 1),
        "delta rule, chunked definition, ms": round(delta_rule_ms(reference.delta_rule_train), 1),
    }
    with tempfile.TemporaryDirectory() as directory:
        data, prepared = write_sample_data(Path(directory) / "data", lines=20_000), Path(directory) / "prepared"
        tokenizer = tokenizers.Tokenizer.from_file(str(BUNDLED / "tokenizer.json"))
        prepare(data, tokenizer, prepared)
        for name, rate in step_rates(given.data or prepared, given.steps).items():
            figures[f"bundled recipe, {name}, tokens/s"] = round(rate)
    for name, value in figures.items():
        print(f"{name}: {value}")
    print(record.write("training", figures))


if __name__ == "__main__":
    main()
