"""The teacher's network against transformers, and its cache against whole rows."""

import torch
from transformers import LlamaForCausalLM

from model.bundled_recipe.teacher.network import Continuations, Llama, WholeRows


@torch.no_grad()
def test_it_computes_what_transformers_computes(network: Llama, oracle: LlamaForCausalLM) -> None:
    ids_BL = torch.randint(7680, (3, 11))
    found_BLV, expected_BLV = network.logits(network(ids_BL, WholeRows(network))), oracle(ids_BL).logits
    # Of logits up to 8, those of transformers are 1.6e-5 from its own in float64.
    torch.testing.assert_close(found_BLV, expected_BLV, rtol=0, atol=5e-5)


@torch.no_grad()
def test_rows_that_go_on_token_by_token_have_the_states_of_whole_rows(network: Llama) -> None:
    prompt_1L, more_BT = torch.randint(7680, (1, 5)), torch.randint(7680, (4, 3))
    rows_BL = torch.cat([prompt_1L.expand(4, -1), more_BT], 1)
    whole_BLD = network(rows_BL, WholeRows(network))
    continuations = Continuations(network, 4, 8, whole_BLD)
    torch.testing.assert_close(continuations.begin(prompt_1L), whole_BLD[:, 4])
    torch.testing.assert_close(continuations.append(more_BT[:, 0]), whole_BLD[:, 5])
    kept_N = torch.tensor([3, 1])
    continuations.keep_rows(kept_N)
    torch.testing.assert_close(continuations.append(more_BT[kept_N, 1]), whole_BLD[kept_N, 6])
    assert not torch.allclose(continuations.append(more_BT[[0, 2], 2]), whole_BLD[[0, 2], 7])  # those were forgotten
