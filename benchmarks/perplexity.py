"""What serving a GGUF file as it is stored costs in perplexity, beside its dequantized weights in float32.

python -m benchmarks.perplexity models/SmolLM2-135M-Instruct.Q4_1.gguf --text docs/architecture.md --tokens 2048

The standard error is that of the mean difference of losses over the tokens of the text: a difference that is not larger
than it says nothing.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import record
from model.batch import PaddedBatch
from model.checkpoints.hub import find_checkpoint
from model.loading.load import load_network
from model.network import CausalLM
from model.quantization import plain_scheme
from model.text.tokenizer import Tokenizer

DTYPES = (torch.float32, torch.bfloat16)


def measured(model: str, text: str, tokens: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Perplexities of one file: dequantized, then as it is stored in every type of hidden states."""
    directory = find_checkpoint(model)
    ids_L = torch.tensor(Tokenizer.load(directory).encode(text)[:tokens])
    reference_L = losses(load_network(directory, torch.float32, scheme=plain_scheme(torch.float32)), ids_L)
    yield "dequantized, float32", {"perplexity": round(math.exp(reference_L.mean()), 4), "tokens": len(ids_L)}
    for dtype in DTYPES:
        losses_L = losses(load_network(directory, dtype), ids_L)
        difference_L = losses_L - reference_L
        yield (
            f"as stored, {str(dtype).removeprefix('torch.')}",
            {
                "perplexity": round(math.exp(losses_L.mean()), 4),
                "difference, %": round(100 * math.expm1(difference_L.mean()), 4),
                "standard error, %": round(100 * float(difference_L.std()) / math.sqrt(len(difference_L)), 4),
            },
        )


@torch.inference_mode()
def losses(network: CausalLM, ids_L: Tensor) -> Tensor:
    """The negative log-likelihood of every token but the first: [L - 1], float64."""
    logits_LV = network.logits(network(PaddedBatch(ids_L[None]))[0])
    return torch.nn.functional.cross_entropy(logits_LV[:-1].float(), ids_L[1:], reduction="none").double()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="GGUF files")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=2048)
    arguments = parser.parse_args()
    text, figures = arguments.text.read_text(encoding="utf-8"), {}
    for model in arguments.models:
        for name, found in measured(model, text, arguments.tokens):
            figures[f"{Path(model).name}, {name}"] = found
            print(f"{Path(model).name}, {name}: {found}", flush=True)
    print(record.write("perplexity", figures))


if __name__ == "__main__":
    main()
