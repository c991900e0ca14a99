"""Training speed: the delta rule forward and backward, and whole steps of the bundled recipe on made-up text.

python -m benchmarks.training
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import tokenizers
import torch

from benchmarks import record
from model.kernels import cpu_autograd, reference
from model.training.prepare import prepare
from model.training.recipes import bundled
from model.training.sample_data import write_sample_data
from model.training.trainer import Trainer

BUNDLED = Path("model/bundled")


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


def step_rate(prepared: Path, workers: int, steps: int) -> float:
    """Tokens per second of the bundled recipe, median over steps after the first."""
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as run_dir:
        trainer = Trainer(bundled(), prepared, Path(run_dir), workers=workers)
        return median([trainer.train_step().tokens_per_second for _ in range(steps)][1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4)
    steps = parser.parse_args().steps
    figures: dict[str, float] = {
        "delta rule, recurrence, ms": round(delta_rule_ms(cpu_autograd.delta_rule_train), 1),
        "delta rule, chunked definition, ms": round(delta_rule_ms(reference.delta_rule_train), 1),
    }
    with tempfile.TemporaryDirectory() as directory:
        data, prepared = write_sample_data(Path(directory) / "data", lines=20_000), Path(directory) / "prepared"
        tokenizer = tokenizers.Tokenizer.from_file(str(BUNDLED / "tokenizer.json"))
        prepare(data, tokenizer, prepared)
        for workers in (1, 2):
            figures[f"bundled recipe, {workers} workers, tokens/s"] = round(step_rate(prepared, workers, steps))
    for name, value in figures.items():
        print(f"{name}: {value}")
    print(record.write("training", figures))


if __name__ == "__main__":
    main()
