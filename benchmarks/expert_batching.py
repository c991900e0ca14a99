"""What decode steps could gain if sequences were put together by the experts that their next tokens go to.

    python -m benchmarks.expert_batching          # the bundled model
    python -m benchmarks.expert_batching --model runs/smollm2-moe --name expert-batching-smollm2

A step reads the weights of every expert that any of its tokens goes to. All running sequences are in a decode step, so
there is something to choose only where more sequences wait than may run. Here W sequences wait, of which B run at a
time, and each is in one of the W / B steps of a round, so that none waits for longer than it would. Who runs together:

- first come: in the order of arrival, which tells nothing of experts
- same kind: sequences of one task and language, as far as their number goes
- same experts: those whose tokens use alike experts on average, which is known when their answers are complete
- next token: by the experts of the next tokens, anew for each round, which are known when they are computed
- all in one step: what the engine does if it may, divided by W / B

So "same experts" and "next token" are bounds that no scheduler reaches. Routings are those of the network on texts;
the time of the experts is that of the compiled ones on these routings, with the groupings in turn; a step is one of the
engine with B sequences. Both are processor time of one thread. What a grouping saves is taken off the step, and nothing
is added for finding the groups.
"""

import argparse
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import record
from benchmarks.breakdown import decode_steps
from model.evaluation.routing.measures import used_experts
from model.evaluation.routing.texts import LabelledText, read_texts
from model.evaluation.tables import table
from model.generate import whole_sequence
from model.layers.feed_forward import MoE
from model.layers.router import Routing
from model.loading.load import load_network
from model.network import CausalLM
from model.text.tokenizer import Tokenizer
from server.engine.config import EngineConfig
from server.engine.engine import Engine

TEXTS = Path(__file__).parents[1] / "docs" / "routing-report-smollm2" / "texts.jsonl"
FIRST, LENGTH, WINDOWS = 8, 24, 3  # of a text: where its first window begins; tokens of a window; most windows
PAIRS = ((32, 8), (64, 8), (64, 32), (128, 32))  # sequences that wait, and those of a step
DRAWS, ROUNDS = 4, 3  # sets of sequences, and rounds of each
WAYS = ("first come", "same kind", "same experts", "next token", "all in one step")
WARM = 2  # rounds that are computed and not timed
EXCHANGE_GAIN = 1e-6  # experts: a smaller gain is rounding

Presence = NDArray[np.float64]  # [W, X]: whether, or how likely, a sequence uses each of all layers' X experts
Groups = NDArray[np.int64]  # [G, B]: which of W sequences run together


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive tokens of a text, in place of an answer that a sequence generates."""

    kind: str
    routings: tuple[Routing, ...]  # by MoE layer
    used_NX: NDArray[np.bool_]


@torch.inference_mode()
def windows_of(network: CausalLM, texts: Iterable[LabelledText]) -> Iterator[Window]:
    """The routings of the texts, without those of their first tokens."""
    experts = list(network.num_experts.values())
    for text in texts:
        _, routings = network(whole_sequence(network, text.token_ids))
        found = [routing for routing in routings if routing is not None]
        used_TX = np.concatenate([used_experts(*pair) for pair in zip(found, experts, strict=True)], axis=1)
        starts = range(FIRST, len(used_TX) - LENGTH + 1, LENGTH)[:WINDOWS]
        for start in starts:
            tokens = torch.arange(start, start + LENGTH)
            own = tuple(routing.of_tokens(tokens) for routing in found)
            yield Window(f"{text.task} {text.language}", own, used_TX[start : start + LENGTH])


def distinct_experts(presence_WX: Presence, groups_GB: Groups) -> Presence:
    """How many experts the steps of a round touch, of each of all layers' experts: [X]."""
    touched: Presence = (1 - np.prod(1 - presence_WX[groups_GB], axis=1)).sum(0)
    return touched


def exchanged(presence_WX: Presence, groups_GB: Groups) -> Groups:
    """Groups that touch fewer experts: sequences change places as long as any two of them gain by it."""
    absent_WX = np.log(1 - presence_WX.clip(max=1 - 1e-9))  # sums of logarithms are products of what is absent
    order_W, size = groups_GB.flatten(), groups_GB.shape[1]
    group_W = np.arange(len(order_W)) // size
    has_changed = True
    while has_changed:
        has_changed = False
        for place, group in enumerate(group_W):
            sums_GX = absent_WX[order_W].reshape(len(groups_GB), size, -1).sum(1)
            moved_WX = absent_WX[order_W] - absent_WX[order_W[place]]
            after_W = np.exp(sums_GX[group] + moved_WX).sum(1) + np.exp(sums_GX[group_W] - moved_WX).sum(1)
            untouched_G = np.exp(sums_GX).sum(1)
            gain_W = after_W - untouched_G[group] - untouched_G[group_W]
            gain_W[group_W == group] = 0
            other = int(gain_W.argmax())
            if gain_W[other] > EXCHANGE_GAIN:
                order_W[[place, other]] = order_W[[other, place]]
                has_changed = True
    return order_W.reshape(groups_GB.shape)


def best_groups(presence_WX: Presence, *starts: Groups) -> Groups:
    """The groups that touch the fewest experts of those that exchanges from several starts lead to."""
    found = [exchanged(presence_WX, start) for start in starts]
    return min(found, key=lambda groups: float(distinct_experts(presence_WX, groups).sum()))


def groupings(windows: Sequence[Window], token: int, size: int) -> dict[str, Groups]:
    """Who runs together when each sequence computes that token of its window."""
    arrived = np.arange(len(windows)).reshape(-1, size)
    alike = np.argsort([window.kind for window in windows], kind="stable").reshape(-1, size)
    mean_WX = np.stack([window.used_NX.mean(0) for window in windows])
    now_WX = np.stack([window.used_NX[token] for window in windows]).astype(np.float64)
    same = best_groups(mean_WX, alike, arrived)
    best = best_groups(now_WX, same, alike, arrived)
    return {"first come": arrived, "same kind": alike, "same experts": same, "next token": best}


class ExpertLayers:
    """The MoE layers of a network, with inputs that do not matter."""

    def __init__(self, network: CausalLM, most_tokens: int) -> None:
        self._layers = [block.feed_forward for block in network.blocks if isinstance(block.feed_forward, MoE)]
        self._x_TD = torch.randn(most_tokens, network.config.hidden_size).to(network.dtype)
        self._gate_T = torch.randn(most_tokens)

    @property
    def bytes_X(self) -> Presence:
        """The size of each expert."""
        sizes = []
        for layer in self._layers:
            weights = layer.experts.fused_weights(self._x_TD.dtype)
            assert weights is not None, "this benchmark needs compiled kernels"
            experts = layer.config.num_experts
            sizes += [(weights.gate_up.nbytes + weights.down.nbytes) / experts] * experts
        return np.array(sizes)

    @torch.inference_mode()
    def seconds(self, steps: Sequence[Sequence[Routing]]) -> float:
        """Of the processor, to compute all layers for each step of a round."""
        began = time.process_time()
        for routings in steps:
            for layer, routing in zip(self._layers, routings, strict=True):
                tokens = len(routing.experts_TK)
                layer.outputs(self._x_TD[:tokens], routing, self._gate_T[:tokens] if layer.shared_is_gated else None)
        return time.process_time() - began


def steps_of(windows: Sequence[Window], token: int, groups: Groups) -> list[list[Routing]]:
    """The routings of each group's step, by layer."""
    layers = range(len(windows[0].routings))
    return [[_joined([windows[row].routings[layer] for row in group], token) for layer in layers] for group in groups]


def _joined(routings: Sequence[Routing], token: int) -> Routing:
    of_token = ((r.weights_TK[token], r.experts_TK[token], r.router_logits_TE[token]) for r in routings)
    weights_TK, experts_TK, router_logits_TE = (torch.stack(parts) for parts in zip(*of_token, strict=True))
    return Routing(weights_TK, experts_TK, router_logits_TE)


def measure(layers: ExpertLayers, windows: Sequence[Window], waiting: int, size: int) -> dict[str, Any]:
    """Bytes of experts and milliseconds of a step, for each grouping; medians over the rounds."""
    draw, bytes_X = random.Random(waiting), layers.bytes_X
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    for number in range(DRAWS):
        drawn = draw.sample(windows, waiting)
        for token in (LENGTH // ROUNDS * turn for turn in range(ROUNDS)):
            ways = groupings(drawn, token, size) | {"all in one step": np.arange(waiting)[None]}
            now_WX = np.stack([window.used_NX[token] for window in drawn]).astype(np.float64)
            rounds = {name: steps_of(drawn, token, groups) for name, groups in ways.items()}
            if not number:
                for _ in range(WARM):
                    layers.seconds(rounds["first come"])
            for name in draw.sample(WAYS, len(WAYS)):
                read = float(distinct_experts(now_WX, ways[name]) @ bytes_X)
                found[name].append((read, layers.seconds(rounds[name])))
    steps = waiting // size
    return {
        name: {
            "MiB": round(median(read for read, _ in values) / steps / 2**20, 3),
            "ms": round(median(seconds for _, seconds in values) / steps * 1e3, 4),
        }
        for name, values in found.items()
    }


def with_gains(found: Mapping[str, Any], step_ms: float, together_ms: float, steps: int) -> dict[str, Any]:
    """How many per cent more tokens a second each grouping gives, beside first come.

    `step_ms` is a whole step as sequences come, `together_ms` one of all that wait.
    """
    first = found["first come"]
    rows: dict[str, Any] = {}
    for name, row in found.items():
        whole = together_ms / steps if name == "all in one step" else step_ms - first["ms"] + row["ms"]
        saved = 100 * (1 - row["MiB"] / first["MiB"])
        rows[name] = row | {"bytes saved, %": round(saved, 1), "gain, %": round(100 * (step_ms / whole - 1), 1)}
    return rows


def rows_of(figures: Mapping[str, Any]) -> str:
    """A line per grouping, as Markdown."""
    heads = ["of those that wait, in a step", "who runs together", "MiB of experts", "ms of experts", "ms of a step"]
    lines = [
        [pair, name, f"{row['MiB']:.2f}", f"{row['ms']:.2f}", f"{of['step, ms']:.2f}", *_percent(row)]
        for pair, of in figures.items()
        for name, row in of["groupings"].items()
    ]
    return table([*heads, "bytes saved, %", "more tokens/s, %"], lines)


def _percent(row: Mapping[str, float]) -> list[str]:
    return [f"{row[key]:+.1f}" for key in ("bytes saved, %", "gain, %")]


def figures_of(network: CausalLM, windows: Sequence[Window]) -> dict[str, Any]:
    """For each pair, by its name, the time of a step and what the groupings make of it."""
    most = max(waiting for waiting, _ in PAIRS)
    engine = Engine(network, EngineConfig(max_model_len=512, max_num_seqs=most, cache_bytes=1 << 30))
    counts = sorted({number for pair in PAIRS for number in pair})
    step_ms = {
        count: 1e3 * median(sum(parts.values()) for parts in decode_steps(engine, count, time.process_time)[0])
        for count in counts
    }
    layers, figures = ExpertLayers(network, most), {}
    for waiting, size in PAIRS:
        found = measure(layers, windows, waiting, size)
        rows = with_gains(found, step_ms[size], step_ms[waiting], waiting // size)
        figures[f"{size} of {waiting}"] = {"step, ms": round(step_ms[size], 3), "groupings": rows}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("model/bundled"))
    parser.add_argument("--data", type=Path, default=TEXTS, help="JSON Lines, as `routelm routing` reads them")
    parser.add_argument("--name", default="expert-batching", help="of the result file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    network = load_network(given.model)
    texts = read_texts(given.data, Tokenizer.load(given.model), 10**6, FIRST + WINDOWS * LENGTH)
    figures = figures_of(network, list(windows_of(network, texts)))
    print(rows_of(figures), record.write(given.name, figures), sep="\n\n")


if __name__ == "__main__":
    main()
