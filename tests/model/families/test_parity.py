"""Every family against transformers: the same checkpoint gives the same logits, choices and tokens."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3NextConfig

from model.batch import RectangularBatch
from model.checkpoint import load_weights, read_config
from model.families import family_of
from model.network import CausalLM, pack_matrices
from tests.model.batches import whole_batch

TINY = {
    "qwen3_next": Qwen3NextConfig(
        vocab_size=160, hidden_size=64, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, linear_num_key_heads=2, linear_num_value_heads=4,
        linear_key_head_dim=32, linear_value_head_dim=32, num_experts=8, num_experts_per_tok=2,
        moe_intermediate_size=32, shared_expert_intermediate_size=32, full_attention_interval=4,
        max_position_embeddings=256,
    ),
}  # fmt: skip


@pytest.fixture(params=sorted(TINY))
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[torch.nn.Module, CausalLM]:
    """A random checkpoint saved by transformers, and the same directory loaded by us."""
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(TINY[request.param]).float().eval()
    for name, parameter in theirs.named_parameters():  # norms and decays that matter, not their initial constants
        if "norm" in name or name.endswith(("A_log", "dt_bias")):
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    theirs.save_pretrained(tmp_path)
    family = family_of(read_config(tmp_path))
    ours = CausalLM(family.config_from_hf(read_config(tmp_path)))
    load_weights(ours, family.rules(ours.config), tmp_path)
    return theirs, ours


@torch.no_grad()
def test_logits_equal_transformers(pair: tuple[torch.nn.Module, CausalLM]) -> None:
    theirs, ours = pair
    ids_BL = torch.randint(0, ours.config.vocab_size, (2, 45))
    expected = theirs(ids_BL).logits.flatten(0, 1)
    rectangular = ours.logits(ours(RectangularBatch(ids_BL))[0])
    torch.testing.assert_close(rectangular, expected, atol=1e-4, rtol=0)
    served = pack_matrices(ours)
    for row, ids_L in enumerate(ids_BL):
        logits = served.logits(served(whole_batch(served, ids_L))[0])
        torch.testing.assert_close(logits, expected.unflatten(0, ids_BL.shape)[row], atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_changed_weight_is_noticed(pair: tuple[torch.nn.Module, CausalLM]) -> None:
    theirs, ours = pair
    ids_BL = torch.randint(0, ours.config.vocab_size, (1, 20))
    ours.blocks[0].mixer.in_proj.weight.mul_(1.5)  # type: ignore[union-attr]
    logits = ours.logits(ours(RectangularBatch(ids_BL))[0])
    assert (logits - theirs(ids_BL).logits.flatten(0, 1)).abs().max() > 1e-4
