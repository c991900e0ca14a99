"""Adapters that PEFT made and saved: our logits equal those of PEFT's own forward pass."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from model.network import CausalLM
from tests.model.batches import whole_batch
from tests.model.families.checkpoints import CASES, Pair, write_checkpoint
from tests.model.loading.lora.adapters import with_adapters

peft = pytest.importorskip("peft")

pytestmark = [
    # patterns of parameters are applied, but PEFT looks among modules for what they match
    pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

LENGTH = 20
# names or storage of their own; the other cases are slow tests
FAST = {
    "llama", "deepseek_v3", "gpt_oss", "granitemoehybrid", "kimi_linear", "lfm2_moe", "mixtral", "nemotron_h_moe",
    "phimoe", "qwen2_moe", "qwen3_moe", "qwen3_next",
}  # fmt: skip
STACKED = {"gate_up_proj", "up_proj", "down_proj"}  # parameters that hold the matrices of all experts
# by model_type: what PEFT refuses or cannot compute, or what transformers multiplies without asking PEFT
EXCLUDED = {"jamba": ["dt_proj"], "nemotron_h": ["out_proj"], "phimoe": ["router"]}
REFUSED = "kv_b_proj"  # by us


def adapted(pair: Pair, directory: Path, **settings: Any) -> nn.Module:
    """PEFT's model with an adapter of its linear layers and experts, which is saved to `directory`."""
    torch.manual_seed(1)
    parameters = {name.rpartition(".")[2] for name, _ in pair.theirs.named_parameters() if ".experts." in name}
    excluded = EXCLUDED.get(pair.theirs.config.model_type, [])
    if any(name.endswith(REFUSED) for name, _ in pair.theirs.named_modules()):
        excluded = [*excluded, REFUSED]
    config = peft.LoraConfig(
        **{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "init_lora_weights": False}
        | {"target_parameters": sorted(parameters & STACKED), "exclude_modules": excluded or None}
        | settings
    )
    model: nn.Module = peft.get_peft_model(pair.theirs, config).eval()
    model.save_pretrained(directory)  # type: ignore[operator]
    return model


@torch.inference_mode()
def logits(network: CausalLM, ids_L: Tensor, adapter: int) -> Tensor:
    batch = replace(whole_batch(network, ids_L), adapters_T=torch.full((LENGTH,), adapter))
    return network.logits(network(batch)[0])


def compare(pair: Pair, directory: Path, **settings: Any) -> set[str]:
    """Compare the logits, and return the names of the adapter's tensors."""
    theirs = adapted(pair, directory, **settings)
    network = with_adapters(pair.directory, [directory])
    ids_L = torch.randint(0, network.config.vocab_size, (LENGTH,), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = theirs(ids_L[None], use_cache=False).logits[0]
    without, found = logits(network, ids_L, -1), logits(network, ids_L, 0)
    assert (found - expected).abs().max() < 1e-3 * (without - expected).abs().max(), "rounding of float32"
    return set(load_file(directory / "adapter_model.safetensors"))


@pytest.mark.parametrize(
    "case", [case if case in FAST else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
def test_logits_equal_those_of_peft(case: str, tmp_path: Path) -> None:
    assert compare(write_checkpoint(case, tmp_path / "base"), tmp_path / "adapter")


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "v_proj"], "target_parameters": None},
        {"target_modules": [], "target_parameters": ["mlp.experts.down_proj"]},
        {"target_modules": [], "target_parameters": ["0.mlp.experts.gate_up_proj", "1.mlp.experts.down_proj"]},
        {"use_rslora": True, "rank_pattern": {"q_proj": 2, "experts.gate_up_proj": 7}},
        {"alpha_pattern": {"o_proj": 3, "experts.down_proj": 5}, "rank_pattern": {"down_proj": 3}},
    ],
)
def test_settings_mean_what_they_mean_to_peft(settings: dict[str, Any], tmp_path: Path) -> None:
    compare(write_checkpoint("gpt_oss", tmp_path / "base"), tmp_path / "adapter", **settings)


def test_a_router_that_is_adapted_as_a_parameter(tmp_path: Path) -> None:
    settings = {"target_modules": [], "target_parameters": ["mlp.router.weight"], "alpha_pattern": {"weight": 3}}
    names = compare(write_checkpoint("gpt_oss", tmp_path / "base"), tmp_path / "adapter", **settings)
    assert names
    assert all("mlp.router" in name for name in names)
