"""Training batches: examples placed in rows, with the weight of each token in the loss.

Shape letters: B rows, L positions, N tokens of some examples one after another, I examples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.training.data.examples import ANSWER, PROMPT
from model.training.data.mixture import value_of
from model.training.data.prepare import PreparedSource
from model.training.data.rows import task_of


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """The examples of one micro-batch. `targets_BL` are the next tokens; those with a weight of 0 are ignored."""

    token_ids_BL: Tensor  # int64
    targets_BL: Tensor  # int64
    weights_BL: Tensor  # float32, see LossWeights; 0 on padding
    noise_BL: Tensor  # float32, see Noise: probability that the token is replaced
    real_BL: Tensor  # bool: false on padding
    sources: tuple[str, ...]  # of each example, such as "translate/tatoeba-en-zh"
    positions_BL: Tensor | None = None  # int64, from 0 in each example; None: every row is one example


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weight of a token in the loss: 1 in answers and plain text, `prompt` in prompts, 0 in system messages.

    The answer of an analysis is a label of two or three tokens after a long prompt: its tokens weigh `label` together.
    System messages hold label sets in random order, which cannot be predicted, so they have no weight.
    """

    prompt: float = 0.3
    label: float = 8.0


@dataclass(frozen=True, slots=True)
class Noise:
    """Probability that an input token is replaced, by source: (pattern, probability) pairs, the first match counts.

    Small sources are repeated many times, and the network would memorize them. Replacing random tokens
    (arXiv 1703.02573) makes it use all of the context. Only user messages are changed, and in plain text every token;
    the targets stay as they are.
    """

    chances: tuple[tuple[str, float], ...] = ()

    def of(self, source: str, kinds_N: NDArray[np.uint8], sizes_I: NDArray[np.int64]) -> NDArray[np.float32]:
        """The probability of each token of examples with these sizes."""
        chance = np.float32(value_of(source, self.chances, default=0.0))
        if chance == 0:
            return np.zeros(len(kinds_N), np.float32)
        disturbed_I = np.where(_count(kinds_N == PROMPT, sizes_I) > 0, PROMPT, ANSWER)
        return (kinds_N == np.repeat(disturbed_I, sizes_I)) * chance


ANSWERS_ONLY = LossWeights(prompt=0.0, label=0.0)


class Place(NamedTuple):
    """An example of a source, and where it begins in a batch."""

    source: str
    example: int  # its index in the source
    row: int
    start: int = 0


def collate(
    places: Sequence[Place],
    sources: Mapping[str, PreparedSource],
    shape: tuple[int, int],
    weights: LossWeights,
    noise: Noise,
    *,
    packed: bool = False,
) -> TrainingBatch:
    """A batch of `shape` with these examples in it. Rows that hold several have to be `packed`."""
    ids_BL, targets_BL, positions_BL = (np.zeros(shape, np.int64) for _ in range(3))
    weights_BL, noise_BL = (np.zeros(shape, np.float32) for _ in range(2))
    real_BL = np.zeros(shape, np.bool_)
    for name, of_source in _by_source(places).items():
        index_I, row_I, start_I = of_source.T
        tokens_N, kinds_N, sizes_I = sources[name].examples(index_I)
        position_N = np.arange(len(tokens_N)) - np.repeat(np.cumsum(sizes_I) - sizes_I, sizes_I)
        place_N = np.repeat(row_I * shape[1] + start_I, sizes_I) + position_N
        is_input_N, is_target_N = position_N < np.repeat(sizes_I - 1, sizes_I), position_N > 0
        inputs, targets = place_N[is_input_N], place_N[is_target_N] - 1
        ids_BL.flat[inputs] = tokens_N[is_input_N]
        positions_BL.flat[inputs] = position_N[is_input_N]
        real_BL.flat[inputs] = True
        noise_BL.flat[inputs] = noise.of(name, kinds_N, sizes_I)[is_input_N]
        targets_BL.flat[targets] = tokens_N[is_target_N]
        weights_BL.flat[targets] = _token_weights(name, kinds_N, sizes_I, weights)[is_target_N]
    return TrainingBatch(
        token_ids_BL=torch.from_numpy(ids_BL),
        targets_BL=torch.from_numpy(targets_BL),
        weights_BL=torch.from_numpy(weights_BL),
        noise_BL=torch.from_numpy(noise_BL),
        real_BL=torch.from_numpy(real_BL),
        sources=tuple(place.source for place in places),
        positions_BL=torch.from_numpy(positions_BL) if packed else None,
    )


def _by_source(places: Sequence[Place]) -> dict[str, NDArray[np.int64]]:
    """Index, row and start of each example, by source."""
    found: dict[str, list[list[int]]] = {}
    for source, *where in places:
        found.setdefault(source, []).append(where)
    return {source: np.array(rows) for source, rows in found.items()}


def _token_weights(
    source: str, kinds_N: NDArray[np.uint8], sizes_I: NDArray[np.int64], weights: LossWeights
) -> NDArray[np.float32]:
    of_kind = np.zeros(3, np.float32)
    of_kind[[PROMPT, ANSWER]] = weights.prompt, 1.0
    weight_N: NDArray[np.float32] = of_kind[kinds_N]
    if task_of(source) == "analyze":
        of_label_I = np.maximum(1.0, weights.label / np.maximum(_count(kinds_N == ANSWER, sizes_I), 1))
        weight_N = np.where(kinds_N == ANSWER, np.repeat(of_label_I, sizes_I), weight_N).astype(np.float32)
    return weight_N


def _count(found_N: NDArray[np.bool_], sizes_I: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many tokens of each example are true."""
    counts: NDArray[np.int64] = np.add.reduceat(found_N.astype(np.int64), np.cumsum(sizes_I) - sizes_I)
    return counts
