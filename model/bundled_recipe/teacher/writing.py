"""What the tuned teacher writes, and which labels it gives.

Shapes: B rows, T new tokens, V vocabulary, N labels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from model.bundled_recipe.teacher.network import Continuations, Llama, WholeRows

MIN_P = 0.02  # tokens with a smaller share of the likeliest one's probability are not drawn
ROWS_OF_TEXTS = 1024  # that are labelled at once
LOOK_EVERY = 16  # tokens: which rows have ended


@torch.no_grad()
def write(network: Llama, prompt: Sequence[int], rows: int, max_tokens: int, end_id: int) -> list[list[int]]:
    """Sample the ids of `rows` continuations of a prompt that end within `max_tokens`; the others are left out."""
    ids_1L = torch.tensor([prompt], device=_like(network).device)
    continuations = Continuations(network, rows, len(prompt) + max_tokens, _like(network))
    hidden_BD = continuations.begin(ids_1L)
    open_B = torch.arange(rows, device=ids_1L.device)
    written_BT = torch.full((rows, max_tokens), end_id, device=ids_1L.device)
    for step in range(max_tokens):
        next_B = _drawn(network.logits(hidden_BD))
        written_BT[open_B, step] = next_B
        if (step + 1) % LOOK_EVERY == 0:
            going_on_N = (written_BT[open_B, : step + 1] != end_id).all(-1).nonzero()[:, 0]
            if not len(going_on_N):
                break
            continuations.keep_rows(going_on_N)
            open_B, next_B = open_B[going_on_N], next_B[going_on_N]
        if step + 1 < max_tokens:
            hidden_BD = continuations.append(next_B)
    return [ids[: ids.index(end_id)] for ids in written_BT.tolist() if end_id in ids]


def _drawn(logits_BV: Tensor) -> Tensor:
    """A token of each row, at a temperature of one."""
    shares_BV = logits_BV.softmax(-1)
    shares_BV = shares_BV.where(shares_BV >= MIN_P * shares_BV.amax(-1, keepdim=True), 0.0)
    return (shares_BV / torch.empty_like(shares_BV).exponential_()).argmax(-1)  # the fastest of N exponential clocks


@torch.no_grad()
def label_shares(network: Llama, prompts: Sequence[Sequence[int]], first_ids: Sequence[int]) -> list[list[float]]:
    """The probability of each label after each prompt, by the first tokens of the labels: [B, N]."""
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    shares: list[list[float]] = [[]] * len(prompts)
    for start in range(0, len(order), ROWS_OF_TEXTS):
        places = order[start : start + ROWS_OF_TEXTS]
        longest = len(prompts[places[-1]])
        padded = [[*prompts[place], *[0] * (longest - len(prompts[place]))] for place in places]
        hidden_BLD = network(torch.tensor(padded, device=_like(network).device), WholeRows(network))
        last_BD = hidden_BLD[torch.arange(len(places)), [len(prompts[place]) - 1 for place in places]]
        for place, of_labels in zip(places, network.logits(last_BD)[:, first_ids].softmax(-1).tolist(), strict=True):
            shares[place] = of_labels
    return shares


def _like(network: Llama) -> Tensor:
    return next(network.parameters())
