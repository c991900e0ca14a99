"""What texts lose without an expert: the change of their tokens' log-probabilities, for every expert of a model.

    python -m benchmarks.masked_experts          # the bundled model

A routing report says where tokens go; this says what it costs when they may not. Each expert is masked alone, so that
the router sends its tokens to the next best ones, and the texts are scored again. Written: results/masked-experts.json,
by language the bits that a token loses on average, and docs/routing-report/masked.png.

Shapes: T tokens, A languages, L MoE layers, E experts.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import record
from benchmarks.expert_batching import TEXTS
from model.evaluation.routing.measures import study
from model.evaluation.routing.texts import LabelledText, read_texts
from model.evaluation.tables import table
from model.generate import whole_sequence
from model.loading.load import load_network
from model.network import CausalLM
from model.text.tokenizer import Tokenizer

PICTURE = Path(__file__).parents[1] / "docs" / "routing-report" / "masked.png"
MAX_LENGTH = 48  # tokens of a text
STRONGEST = 3  # experts named for each language

Numbers = NDArray[np.float64]


@torch.inference_mode()
def bits_of(network: CausalLM, token_ids: Sequence[int], masks: Mapping[int, Tensor]) -> float:
    """The sum of -log2 of the probabilities of all tokens but the first."""
    hidden_TD, _ = network(replace(whole_sequence(network, token_ids), masks=masks))
    logprobs_TV = network.logits(hidden_TD[:-1]).log_softmax(-1)
    return -float(logprobs_TV.gather(1, torch.tensor(token_ids[1:])[:, None]).sum()) / math.log(2)


def lost_bits(network: CausalLM, texts: Sequence[LabelledText], languages: Sequence[str]) -> Numbers:
    """What a token loses on average without each expert: [A, L, E]; more experts in a layer than it has are zero."""
    num_experts = network.num_experts
    lost_ALE = np.zeros((len(languages), len(num_experts), max(num_experts.values())))
    tokens_A = np.zeros(len(languages))
    for text in texts:
        row, ids = languages.index(text.language), text.token_ids
        tokens_A[row] += len(ids) - 1
        whole = bits_of(network, ids, {})
        for place, (layer, experts) in enumerate(num_experts.items()):
            for expert in range(experts):
                masked_TE = torch.zeros(len(ids), experts, dtype=torch.bool)
                masked_TE[:, expert] = True
                lost_ALE[row, place, expert] += bits_of(network, ids, {layer: masked_TE}) - whole
    lost: Numbers = lost_ALE / tokens_A[:, None, None]
    return lost


def rank_correlation(first: Numbers, second: Numbers) -> float:
    """Spearman's: of the places that the values have in their order."""
    ranks = np.stack([values.flatten().argsort().argsort() for values in (first, second)]).astype(np.float64)
    ranks -= ranks.mean(1, keepdims=True)
    return float(ranks.prod(0).sum() / np.sqrt((ranks**2).sum(1).prod()))


def figures_of(network: CausalLM, texts: Sequence[LabelledText]) -> dict[str, Any]:
    found = study(network, texts)
    languages, layers = found.labels["language"], [layer.layer for layer in found.layers]
    shares_ALE = np.stack([layer.shares("language") * layer.used_TE.shape[1] for layer in found.layers], axis=1)
    lost_ALE = lost_bits(network, texts, languages)
    return {
        language: {
            "lost": [[round(float(bits), 4) for bits in row] for row in lost_LE],
            "strongest": _strongest(layers, lost_LE, shares_LE),
            "mean": round(float(lost_LE.mean()), 4),
            "correlation with use": round(rank_correlation(lost_LE, shares_LE), 2),
        }
        for language, lost_LE, shares_LE in zip(languages, lost_ALE, shares_ALE, strict=True)
    }


def _strongest(layers: Sequence[int], lost_LE: Numbers, shares_LE: Numbers) -> list[dict[str, float]]:
    """The experts whose absence costs the most."""
    places = [divmod(place, lost_LE.shape[1]) for place in (-lost_LE).flatten().argsort()[:STRONGEST].tolist()]
    return [
        {
            "layer": layers[row],
            "expert": expert,
            "bits": round(float(lost_LE[row, expert]), 3),
            "share": round(float(shares_LE[row, expert]), 1),
        }
        for row, expert in places
    ]


def rows_of(figures: Mapping[str, Any]) -> str:
    """A line per language, as Markdown."""
    heads = ["language", "missed most (bits a token, times an even share)", "mean of all", "correlation with use"]
    lines = [
        [
            language,
            ", ".join(
                f"layer {of['layer']} expert {of['expert']} ({of['bits']:.2f}, {of['share']:.1f})"
                for of in row["strongest"]
            ),
            f"{row['mean']:.3f}",
            f"{row['correlation with use']:.2f}",
        ]
        for language, row in figures.items()
    ]
    return table(heads, lines)


def draw(path: Path, figures: Mapping[str, Any], layers: Sequence[int]) -> None:
    """For each layer: languages down, experts across; the colour is the bits that a token loses."""
    names, lost_ALE = list(figures), np.array([row["lost"] for row in figures.values()])
    rows = -(-len(layers) // 2)
    figure = Figure(figsize=(7.3, (0.9 + 0.22 * len(names)) * rows), layout="constrained")
    grid = figure.subplots(rows, 2, squeeze=False)
    for axes in grid.flat[len(layers) :]:
        axes.set_axis_off()
    for axes, layer, lost_AE in zip(grid.flat, layers, lost_ALE.transpose(1, 0, 2), strict=False):
        image = axes.imshow(lost_AE, aspect="auto", vmin=0, vmax=lost_ALE.max())
        axes.set_title(f"layer {layer}", fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=7)
        axes.tick_params(axis="x", labelsize=7)
    figure.colorbar(image, ax=grid, label="bits lost per token without the expert", fraction=0.03)
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("model/bundled"))
    parser.add_argument("--data", type=Path, default=TEXTS, help="JSON Lines, as `routelm routing` reads them")
    given = parser.parse_args()
    network = load_network(given.model)
    figures = figures_of(network, list(read_texts(given.data, Tokenizer.load(given.model), 10**6, MAX_LENGTH)))
    draw(PICTURE, figures, list(network.num_experts))
    print(rows_of(figures), record.write("masked-experts", figures), sep="\n\n")


if __name__ == "__main__":
    main()
