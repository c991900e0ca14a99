"""Tuning makes the answers likelier, and weighs labels more than texts and prompts."""

import pytest
import torch

from model.bundled_recipe.teacher.network import Llama, WholeRows
from model.bundled_recipe.teacher.tuning import tune

PAIRS = [([5, 6, 7], [8, 9, 2]), ([15, 16], [17, 18, 19, 20, 21, 2])]


@torch.no_grad()
def nats(network: Llama, prompt: list[int], answer: list[int]) -> float:
    """Of an answer."""
    logits_LV = network.logits(network(torch.tensor([[2, *prompt, *answer]]), WholeRows(network)))[0]
    chosen_L = logits_LV.log_softmax(-1)[len(prompt) : -1].gather(1, torch.tensor(answer)[:, None])
    return -float(chosen_L.sum())


def test_answers_become_likelier(network: Llama) -> None:
    before = [nats(network, *pair) for pair in PAIRS]
    lines: list[str] = []
    tune(network, PAIRS * 60, 2, lines.append, rows=2, row_tokens=16)
    assert all(nats(network, *pair) < 0.7 * old for pair, old in zip(PAIRS, before, strict=True))
    assert lines[-1].startswith("step ")


def test_too_few_texts_are_refused(network: Llama) -> None:
    with pytest.raises(ValueError, match="fewer than the 24,576 tokens of one step"):
        tune(network, PAIRS, 2, print)
