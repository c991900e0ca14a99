"""What a config.json may say, family by family: little, in old keys, too much, and that what it says is done."""

import json
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from model.batch import PaddedBatch
from model.checkpoints.safetensors_files import CheckpointError, read_config
from model.config import AttentionConfig, FrequencyFactors, RotaryConfig, SwiGLU
from model.families import family_of
from model.loading.load import load_network
from model.network import CausalLM
from tests.model.batches import whole_batch
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


def test_kimi_linear_as_it_is_published(tmp_path: Path) -> None:
    """Layer types by number from 1, settings of the recurrence in a part of their own, other names of dense layers."""
    pair = write_checkpoint("kimi_linear", tmp_path)
    hf = read_config(tmp_path)
    for key in ("layer_types", "mlp_layer_types", "linear_head_dim", "linear_num_heads", "linear_conv_kernel_dim"):
        del hf[key]
    recurrence = {"head_dim": 32, "num_heads": 4, "short_conv_kernel_size": 4}
    layers = {"full_attn_layers": [2], "kda_layers": [1, 3]}
    published = hf | {"linear_attn_config": recurrence | layers, "first_k_dense_replace": 1}
    config = family_of(hf).config_from_hf(published)
    assert config == family_of(hf).config_from_hf(read_config(tmp_path)) != family_of(hf).config_from_hf(hf)
    tensors = load_file(tmp_path / "model.safetensors")
    renamed = {re.sub(r"block_sparse_moe\.(\w+_proj)", r"mlp.\1", name): tensor for name, tensor in tensors.items()}
    assert renamed.keys() != tensors.keys()
    save_file(renamed, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(published))
    ids_L = torch.arange(3, 40)
    network = load_network(tmp_path, torch.float32)
    logits = network.logits(network(whole_batch(network, ids_L))[0])
    torch.testing.assert_close(logits, pair.logits(ids_L[None])[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("positions", "magnitude", "factor"), [(256, 1.1, 1.7), (512, 1.2, 12.0)])
def test_longrope_of_phimoe_has_its_own_magnitudes(positions: int, magnitude: float, factor: float) -> None:
    hf = short_config("phimoe_longrope") | {"max_position_embeddings": positions}
    mixer = family_of(hf).config_from_hf(hf).layers[0].mixer
    assert isinstance(mixer, AttentionConfig)
    assert mixer.rotary is not None
    scaling = mixer.rotary.scaling
    assert isinstance(scaling, FrequencyFactors)
    assert (scaling.attention_factor, scaling.factors[-1]) == (magnitude, factor)


def test_the_original_length_of_longrope_stands_in_either_place() -> None:
    hf = short_config("phimoe_longrope") | {"max_position_embeddings": 512}
    rope = dict(hf["rope_parameters"])
    original = {"original_max_position_embeddings": rope.pop("original_max_position_embeddings")}
    config_from_hf = family_of(hf).config_from_hf
    assert config_from_hf(hf | original | {"rope_parameters": rope}) == config_from_hf(hf)
    assert config_from_hf(hf | {"rope_parameters": rope}) != config_from_hf(hf)  # negative control


def test_the_layers_of_nemotron_h_are_written_in_two_ways() -> None:
    pattern = short_config("nemotron_h")
    kinds = ["mamba", "mlp", "mamba", "attention", "mlp", "mamba"]
    older = {key: value for key, value in pattern.items() if key != "hybrid_override_pattern"}
    config_from_hf = family_of(pattern).config_from_hf
    assert config_from_hf(pattern) == config_from_hf(older | {"layers_block_type": kinds})
    assert [layer.feed_forward is None for layer in config_from_hf(pattern).layers] == [False, True, False, True]


SILU_ONLY = [
    "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe", "olmo2", "olmo3",
    "smollm3", "phi3", "glm4", "glm4_moe", "glm4_moe_lite", "dots1", "ernie4_5_moe", "phimoe", "hunyuan_v1_moe",
    "minimax_m2", "afmoe", "flex_olmo", "jamba", "kimi_linear",
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
    ("ernie4_5_moe", {"use_bias": True}, "use_bias is True: only False"),
    ("phimoe", {"num_experts_per_tok": 3}, "num_experts_per_tok is 3: only 2"),
    ("minimax_m2", {"scoring_func": "softmax"}, "scoring_func is 'softmax': only 'sigmoid'"),
    ("minimax_m2", {"qk_norm_type": "per_head"}, "qk_norm_type is 'per_head': only 'per_layer'"),
    ("minimax_m2", {"shared_intermediate_size": 64}, "shared_intermediate_size is 64: only 0"),
    ("minimax_m2", {"attn_type_list": [0, 1]}, r"attn_type_list is \[0, 1\]: only \[1, 1\]"),
    ("glm4_moe_lite", {"mlp_layer_types": ["sparse", "dense", "sparse"]}, "mlp_layer_types is"),
    ("nemotron_h", {"mlp_hidden_act": "silu"}, "mlp_hidden_act is 'silu': only 'relu2'"),
    ("nemotron_h_moe", {"moe_latent_size": 16}, "moe_latent_size is 16: only None"),
    ("nemotron_h", {"hybrid_override_pattern": "-M"}, "a mlp that does not follow a mixer"),
    ("nemotron_h", {"hybrid_override_pattern": "M?"}, r"layer_types names '\?'"),
    ("kimi_linear", {"layer_types": ["linear_attention"] * 4}, "describes 4 mixers and 3 feed-forwards"),
    ("hunyuan_v1_moe", {"moe_topk": [2]}, "a list with fewer entries than layers"),
    ("smollm3_window", {"no_rope_layers": [1]}, "a list with fewer entries than layers"),
    ("kimi_linear", {"mla_use_nope": False}, "mla_use_nope is False: only True"),
    ("gemma3_text", {"hidden_activation": "gelu"}, "hidden_activation is 'gelu': only 'gelu_pytorch_tanh'"),
    ("gemma3_text", {"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0: only None"),
    ("llama", {"rope_parameters": {"rope_type": "unheard-of", "factor": 2.0}}, "rope type 'unheard-of' is not known"),
    ("qwen2", {"is_causal": False}, "is_causal is False: only True"),
    ("qwen3_5_moe_text", {"is_causal": False}, "is_causal is False: only True"),
    ("ernie4_5_moe", {"moe_norm_min": 0.5}, "moe_norm_min is 0.5: only 1e-12"),
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


# numbers that a negative one is no fault of, or that nothing is built from
ANY_NUMBER = re.compile(
    r"_token_id|_index$|max_window_layers|pretraining_tp|qk_head_dim|chunk_size|_multiplier|^_|^expand$|to_keep"
)


def numbers(hf: dict[str, Any], *path: str) -> Iterator[tuple[str, ...]]:
    """Where in a config the numbers are that count something."""
    for key, value in hf.items():
        if isinstance(value, dict) and key != "vision_config":
            yield from numbers(value, *path, key)
        elif isinstance(value, int) and not isinstance(value, bool) and not ANY_NUMBER.search(key):
            yield *path, key


def changed(hf: dict[str, Any], path: tuple[str, ...], value: int) -> dict[str, Any]:
    key, *rest = path
    return hf | {key: changed(hf[key], tuple(rest), value) if rest else value}


def refusal(hf: dict[str, Any]) -> str:
    """Why a config is refused; empty if it is not."""
    try:
        family_of(hf).config_from_hf(hf)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("case", CASES)
def test_a_number_that_no_network_can_have_is_refused_by_its_name(case: str) -> None:
    hf = whole_config(case)
    found = list(numbers(hf))
    assert len(found) > 6
    for path in found:
        with pytest.raises(ValueError, match=path[-1]):
            family_of(hf).config_from_hf(changed(hf, path, -1))
        message = refusal(changed(hf, path, 0))  # 0 may mean "none" or a default
        assert re.search(rf"^$|{path[-1]}|key/value heads|experts|layer_types", message), message


@pytest.mark.parametrize(
    ("case", "key"),
    [("gemma3_text", "sliding_window"), ("gemma3_text", "intermediate_size"), ("qwen3_moe", "moe_intermediate_size")],
)
def test_none_of_what_this_network_needs_is_refused_by_its_name(case: str, key: str) -> None:
    hf = short_config(case)
    assert hf[key] > 0
    with pytest.raises(ValueError, match=f"{key}.*must be positive"):
        family_of(hf).config_from_hf(hf | {key: 0})


def test_what_this_network_does_not_need_may_be_none() -> None:
    """Granite 4.0 without experts says so with zeros."""
    hf = short_config("granitemoehybrid_dense") | {"num_experts_per_tok": 0, "intermediate_size": 0}
    assert not list(family_of(hf).config_from_hf(hf).moe_layers())


def test_a_head_is_not_so_wide_that_its_frequencies_fill_the_memory() -> None:
    hf = short_config("llama")
    with pytest.raises(ValueError, match=r"rotary positions on 8589934592 coordinates of a head \(head_dim"):
        family_of(hf).config_from_hf(hf | {"head_dim": 2**33})


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
    ("glm4_moe", "dim", 32),
    ("glm4_moe", "scale", 1.0),
    ("glm4_moe_groups", "groups", None),
    ("dots1", "window", None),
    ("ernie4_5_moe", "top_k", 2),
    ("phimoe", "jitter", 0.3),
    ("phimoe_longrope", "scaling", None),
    ("hunyuan_v1_moe", "after_rotary", False),
    ("hunyuan_v1_moe_alpha", "theta", 10_000.0),
    ("minimax_m2", "dim", 32),
    ("afmoe", "rotary", RotaryConfig(32)),
    ("afmoe", "embedding_scale", 1.0),
    ("flex_olmo", "theta", 10_000.0),
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
