"""Tunes the teacher on pairs of a prompt and an answer, packed into rows of one length.

Shapes: B rows, L positions.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from random import Random

import torch
from torch import Tensor
from torch.nn import functional

from model.bundled_recipe.teacher.network import Llama, WholeRows

Pair = tuple[list[int], list[int]]  # ids of a prompt and of its answer, which ends with the end token

EPOCHS, ROWS, ROW_TOKENS = 4, 48, 512
LEARNING_RATE, WARMUP_STEPS, LAST_SHARE, WEIGHT_DECAY = 2.5e-4, 10, 0.05, 0.05
PROMPT_WEIGHT, LABEL_WEIGHT, LABEL_TOKENS = 0.1, 4.0, 4  # of a token; an answer of so many tokens is a label


def tune(
    network: Llama,
    pairs: Sequence[Pair],
    end_id: int,
    log: Callable[[str], None],
    *,
    rows: int = ROWS,
    row_tokens: int = ROW_TOKENS,
) -> None:
    """EPOCHS over the pairs with AdamW; the learning rate falls as a cosine. ValueError for less than one batch."""
    matrices = [p for p in network.parameters() if p.dim() == 2]
    vectors = [p for p in network.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98))
    device = matrices[0].device
    epochs = [list(_batches(pairs, end_id, rows, row_tokens, seed)) for seed in range(EPOCHS)]
    total = sum(map(len, epochs))
    if not total:
        raise ValueError(f"the texts have fewer than the {rows * row_tokens:,} tokens of one step: give more of them")
    for step, batch in enumerate(batch for epoch in epochs for batch in epoch):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * _rate(step, total)
        loss = _loss(network, *(tensor.to(device) for tensor in batch))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 20 == 0 or step + 1 == total:
            log(f"step {step + 1} of {total}: {float(loss.detach()):.3f} nats a token")


def _loss(network: Llama, ids_BL: Tensor, targets_BL: Tensor, weights_BL: Tensor) -> Tensor:
    with torch.autocast(ids_BL.device.type, torch.bfloat16):
        hidden = network(ids_BL, WholeRows(network))
        nats = functional.cross_entropy(network.logits(hidden).flatten(0, 1), targets_BL.flatten(), reduction="none")
    return (nats * weights_BL.flatten()).sum() / weights_BL.sum()


def _rate(step: int, total: int) -> float:
    """Share of the learning rate."""
    cosine = 0.5 + 0.5 * math.cos(math.pi * step / total)
    return min(1.0, (step + 1) / WARMUP_STEPS) * (LAST_SHARE + (1 - LAST_SHARE) * cosine)


def _batches(
    pairs: Sequence[Pair], end_id: int, rows: int, row_tokens: int, seed: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield ids, targets and the weights of these [B, L]. Texts follow each other; what is left at the end is dropped.

    A text sees the one before it in its row, as in most training of language models.
    """
    shuffled = list(pairs)
    Random(seed).shuffle(shuffled)
    ids: list[int] = []
    weights: list[float] = []
    for prompt, answer in shuffled:
        ids += [end_id, *prompt, *answer]
        weight = LABEL_WEIGHT if len(answer) <= LABEL_TOKENS else 1.0
        weights += [0.0, *[PROMPT_WEIGHT] * len(prompt), *[weight] * len(answer)]
    size = rows * row_tokens
    for start in range(0, len(ids) - size, size):
        taken, of_taken = (torch.tensor(values[start : start + size + 1]) for values in (ids, weights))
        yield tuple(x.view(rows, row_tokens) for x in (taken[:-1], taken[1:], of_taken[1:]))  # type: ignore[misc]
