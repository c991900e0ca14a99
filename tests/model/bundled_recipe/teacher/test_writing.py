"""What the teacher writes ends, and its labels do not depend on the texts beside."""

import pytest
import torch

from model.bundled_recipe.teacher.network import Llama, WholeRows
from model.bundled_recipe.teacher.writing import label_shares, write

PROMPT = [5, 6, 7]


def test_texts_end_before_the_end_token_and_the_others_are_left_out(network: Llama) -> None:
    torch.manual_seed(0)
    texts = write(network, PROMPT, rows=40, max_tokens=40, end_id=2)
    assert all(2 not in ids and len(ids) < 40 for ids in texts)
    likely = torch.zeros(7680)
    likely[[2, 9]] = 1e4  # a network that says nothing but these
    network.logits = lambda hidden: likely.expand(*hidden.shape[:-1], -1)  # type: ignore[method-assign]
    texts = write(network, PROMPT, rows=200, max_tokens=64, end_id=2)
    assert len(texts) == 200
    assert {token for ids in texts for token in ids} == {9}
    assert sum(map(len, texts)) / 200 == pytest.approx(1.0, abs=0.4)  # heads or tails until the first of them


def test_drawn_tokens_follow_the_probabilities_of_the_network(network: Llama) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        shares_V = network.logits(network(torch.tensor([PROMPT]), WholeRows(network)))[0, -1].softmax(-1)
    allowed = (shares_V >= 0.02 * shares_V.max()).nonzero()[:, 0].tolist()
    written = write(network, PROMPT, rows=300, max_tokens=1, end_id=allowed[0])
    assert written == [[]] * len(written)  # only those that ended at once are given back
    assert len(written) / 300 == pytest.approx(float(shares_V[allowed[0]] / shares_V[allowed].sum()), abs=0.1)


def test_label_shares_are_those_of_each_prompt_alone(network: Llama) -> None:
    prompts = [[1, 2, 3, 4, 5], [9], [7, 7, 8]]
    together = label_shares(network, prompts, [11, 12])
    alone = [label_shares(network, [prompt], [11, 12])[0] for prompt in prompts]
    torch.testing.assert_close(torch.tensor(together), torch.tensor(alone))
    assert all(sum(shares) == pytest.approx(1.0) for shares in together)
