"""What a config.json may say, family by family: little, in old keys, too much, and that what it says is done."""

import json
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from model.batch import PaddedBatch
from model.checkpoints.safetensors_files import CheckpointError, read_config
from model.config import SwiGLU
from model.families import family_of
from model.network import CausalLM
from tests.model.families.checkpoints import CASES, TINY, write_checkpoint
from tests.model.loading.plain_loading import load_weights


def short_config(case: str) -> dict[str, Any]:
    """The case as it stands: with what differs from the family's defaults, and not much else."""
    config: dict[str, Any] = json.loads((TINY / f"{case}.json").read_text())
    return config


def whole_config(case: str) -> dict[str, Any]:
    """The same, as transformers writes it."""
    config = short_config(case)
    model_type = config.pop("model_type")
    written: dict[str, Any] = json.loads(AutoConfig.for_model(model_type, **config).to_json_string())
    return written


@pytest.mark.parametrize("case", CASES)
def test_what_is_left_out_is_as_transformers_would_have_it(case: str) -> None:
    short, whole = short_config(case), whole_config(case)
    assert len(short) < len(whole)
    assert family_of(short).config_from_hf(short) == family_of(whole).config_from_hf(whole)


def in_old_keys(hf: dict[str, Any]) -> dict[str, Any]:
    """Rotary settings as they were written before `rope_parameters`."""
    old = dict(hf)
    rope = dict(old.pop("rope_parameters"))
    old["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        old["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    kind = rope.pop("rope_type")
    old["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    return old


@pytest.mark.parametrize("case", CASES)
def test_old_keys_for_rotary_positions_mean_the_same(case: str) -> None:
    hf = whole_config(case)
    if "rope_theta" not in hf.get("rope_parameters", {}):
        pytest.skip("this family never had old keys for them")
    assert family_of(hf).config_from_hf(in_old_keys(hf)) == family_of(hf).config_from_hf(hf)


def test_two_kinds_of_rotary_positions_in_old_keys() -> None:
    """Of Gemma 3: a base for layers with windows, which are not scaled, and one for the others, which are."""
    hf = short_config("gemma3_text")
    scaling = {"rope_type": "linear", "factor": 8.0}
    full, sliding = scaling | {"rope_theta": 9e5}, {"rope_type": "default", "rope_theta": 2e4}
    new = hf | {"rope_parameters": {"full_attention": full, "sliding_attention": sliding}}
    old = hf | {"rope_theta": 9e5, "rope_local_base_freq": 2e4, "rope_scaling": scaling}
    config_from_hf = family_of(hf).config_from_hf
    assert config_from_hf(old) == config_from_hf(new) != config_from_hf(hf)


SILU_ONLY = [
    "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe", "olmo2", "olmo3",
    "smollm3", "phi3", "glm4",
]  # fmt: skip
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    *(
        (case, {"hidden_act": "gelu"}, f"hidden_act is 'gelu': only 'silu' is supported for {case}")
        for case in SILU_ONLY
    ),
    ("llama", {"mlp_bias": True}, "mlp_bias is True: only False"),
    ("mistral", {"attention_bias": True}, "attention_bias is True: only False"),
    ("mixtral", {"attention_bias": True}, "attention_bias is True: only False"),
    ("olmoe", {"clip_qkv": 8.0}, "clip_qkv is 8.0: only None"),
    ("gemma3_text", {"hidden_activation": "gelu"}, "hidden_activation is 'gelu': only 'gelu_pytorch_tanh'"),
    ("gemma3_text", {"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0: only None"),
    ("llama", {"rope_parameters": {"rope_type": "unheard-of", "factor": 2.0}}, "rope type 'unheard-of' is not known"),
    ("qwen2", {"rope_scaling": {"type": "mrope"}}, "rope type 'mrope' is not known"),
    ("qwen3", {"layer_types": ["chunked_attention"]}, "layer_types names 'chunked_attention'"),
    ("qwen3", {"layer_types": ["sliding_attention"]}, r"'sliding_attention': .* only full_attention can be"),
]


@pytest.mark.parametrize(("case", "changes", "message"), REFUSED, ids=str)
def test_what_we_do_not_have_is_refused_by_its_name(case: str, changes: dict[str, Any], message: str) -> None:
    hf = short_config(case)
    family_of(hf).config_from_hf(hf)  # negative control
    with pytest.raises(CheckpointError, match=message):
        family_of(hf).config_from_hf(hf | changes)


def everywhere(config: Any, name: str, value: object) -> Any:
    """The config with that value in every field of that name."""
    if isinstance(config, tuple):
        return tuple(everywhere(part, name, value) for part in config)
    if not is_dataclass(config) or isinstance(config, type):
        return config
    parts = {field.name: getattr(config, field.name) for field in fields(config)}
    return replace(
        config, **{key: value if key == name else everywhere(part, name, value) for key, part in parts.items()}
    )


FORGOTTEN = [
    ("llama_scaled", "scaling", None),
    ("mistral_window", "window", None),
    ("mixtral_window", "scaling", None),
    ("qwen2", "scaling", None),
    ("qwen2_window", "window", None),
    ("qwen3_window", "window", 10),  # in every layer
    ("qwen2_moe", "renormalize", True),
    ("qwen2_moe_sparse", "renormalize", False),
    ("qwen2_moe_sparse", "window", 10),
    ("qwen3_moe_renormalized", "renormalize", False),
    ("qwen3_moe_renormalized", "attention_factor", 1.0),
    ("olmo3", "window", None),
    ("olmo3", "scaling", None),
    ("smollm3", "rotary", None),
    ("smollm3_window", "window", None),
    ("phi3", "window", None),
    ("phi3_longrope", "scaling", None),
    ("glm4", "eps", 1e-2),
    ("gemma3_text", "window", None),
    ("gemma3_text", "theta", 1e6),
    ("gemma3_text", "activation", SwiGLU()),
    ("gemma3_text", "scale", None),
    ("granitemoe", "embedding_scale", 1.0),
    ("granitemoe", "residual_scale", 1.0),
    ("granitemoe", "logits_scale", 1.0),
    ("granitemoe", "scale", None),
]


@pytest.mark.parametrize(("case", "field", "value"), FORGOTTEN)
@torch.no_grad()
def test_what_a_case_asks_for_matters(case: str, field: str, value: object, tmp_path: Path) -> None:
    """Negative control of the parity tests: were it forgotten, they would fail."""
    pair, hf = write_checkpoint(case, tmp_path), read_config(tmp_path)
    family = family_of(hf)
    config = family.config_from_hf(hf)
    forgetful = everywhere(config, field, value)
    assert forgetful != config
    network = CausalLM(forgetful)
    if config.tie_word_embeddings:
        network.tie_head()
    load_weights(network, family.rules(config), tmp_path)
    ids_BL = torch.randint(0, config.vocab_size, (1, 45), generator=torch.Generator().manual_seed(1))
    logits = network.logits(network(PaddedBatch(ids_BL))[0])
    assert (logits - pair.logits(ids_BL)[0]).abs().max() > 1e-3


@pytest.mark.parametrize("case", ["llama", "mixtral", "olmoe", "qwen3_moe", "qwen3_next"])
def test_yarn_makes_sequences_longer_in_every_family(case: str) -> None:
    hf = whole_config(case)
    rope = hf["rope_parameters"] | {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
    found = family_of(hf).config_from_hf(hf | {"rope_parameters": rope, "max_position_embeddings": 2048})
    assert found.max_positions == 8192
