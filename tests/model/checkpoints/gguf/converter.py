"""Converts a checkpoint that transformers wrote into a GGUF file, as llama.cpp's convert_hf_to_gguf.py does.

The names of the tensors are those of the `gguf` library; what is done to tensors, and which metadata there is, follows
llama.cpp's `conversion` package. Nothing here comes from model/checkpoints/gguf, which is tested with it.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as GgmlType
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig

Tensors = dict[str, Tensor]
ARCHITECTURES = {
    "llama": "llama", "mistral": "llama", "mixtral": "llama", "qwen2": "qwen2", "qwen2_moe": "qwen2moe",
    "qwen3": "qwen3", "qwen3_moe": "qwen3moe", "qwen3_next": "qwen3next", "qwen3_5_moe_text": "qwen35moe",
    "granite": "granite", "granitemoe": "granitemoe", "granitemoeshared": "granitemoe",
    "granitemoehybrid": "granitehybrid", "lfm2": "lfm2", "lfm2_moe": "lfm2moe", "olmoe": "olmoe",
    "olmo2": "olmo2", "olmo3": "olmo2", "smollm3": "smollm3", "phi3": "phi3", "glm4": "glm4", "gemma3_text": "gemma3",
    "glm4_moe": "glm4moe", "dots1": "dots1", "ernie4_5_moe": "ernie4_5-moe", "minimax_m2": "minimax-m2",
    "afmoe": "afmoe", "jamba": "jamba", "phimoe": "phimoe", "hunyuan_v1_moe": "hunyuan-moe",
    "glm4_moe_lite": "deepseek2", "kimi_linear": "kimi-linear",
    "gpt_oss": "gpt-oss", "deepseek_v2": "deepseek2", "deepseek_v3": "deepseek2",
}  # fmt: skip
_PERMUTED = ("llama", "granite", "granitemoe", "granitehybrid", "smollm3")


def write_gguf(
    directory: Path, path: Path, kind: GgmlType = GgmlType.F32, kinds: Mapping[str, GgmlType] | None = None, **more: Any
) -> Path:
    """Write a GGUF file of a checkpoint's weights, matrices as `kind`, or by their names as one of `kinds`.

    `more` is metadata of the architecture.
    """
    hf = AutoConfig.from_pretrained(directory).to_dict()
    architecture = architecture_of(hf)
    tensors = {n: t.float() for file in directory.glob("*.safetensors") for n, t in load_file(file).items()}
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (_metadata(hf, architecture) | more).items():
        _add(writer, f"{architecture}.{key}", value)
    for name, tensor in _named(_changed(tensors, hf, architecture), hf, architecture):
        plain = tensor.contiguous().numpy()
        wanted = (kinds or {}).get(name, kind)
        block = gguf.GGML_QUANT_SIZES[wanted][0]
        is_matrix = tensor.dim() > 1 and not re.search("norm|conv|ssm_[ad]|ffn_gate_inp", name)
        stored = wanted if is_matrix and plain.shape[-1] % block == 0 else GgmlType.F32
        writer.add_tensor(name, gguf.quantize(plain, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def architecture_of(hf: Mapping[str, Any]) -> str:
    if hf["model_type"] == "nemotron_h":
        return "nemotron_h_moe" if "moe" in hf["layers_block_type"] else "nemotron_h"
    return ARCHITECTURES[hf["model_type"]]


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value is not None:
        writer.add_array(key, value)


def _metadata(hf: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    heads = hf["num_attention_heads"]
    head_dim = hf.get("head_dim") or hf["hidden_size"] // heads
    rope = hf.get("rope_parameters") or {}
    rope = rope.get("full_attention", rope)
    found = {
        "block_count": hf.get("num_hidden_layers") or len(hf["layers_block_type"]),
        "context_length": hf.get("max_position_embeddings") or hf["model_max_length"],
        "embedding_length": hf["hidden_size"],
        "feed_forward_length": hf.get("intermediate_size"),
        "attention.head_count": heads,
        "attention.head_count_kv": hf.get("num_key_value_heads") or heads,
        "attention.key_length": hf.get("head_dim"),
        "attention.layer_norm_rms_epsilon": next(
            hf[key] for key in ("rms_norm_eps", "norm_eps", "layer_norm_epsilon") if hf.get(key)
        ),
        "rope.freq_base": float(rope.get("rope_theta", 10_000.0)),
        "rope.dimension_count": int(head_dim * rope.get("partial_rotary_factor", 1.0)),
        "expert_count": hf.get("num_local_experts")
        or hf.get("num_experts")
        or hf.get("n_routed_experts")
        or hf.get("moe_num_experts"),
        "expert_used_count": hf.get("num_experts_per_tok") or hf.get("moe_k"),
        "expert_feed_forward_length": hf.get("moe_intermediate_size"),
        "expert_shared_feed_forward_length": hf.get("shared_intermediate_size"),
    }
    if rope.get("rope_type") in ("linear", "yarn"):
        found |= {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": float(rope["factor"])}
        found["rope.scaling.original_context_length"] = rope.get("original_max_position_embeddings")
        found["rope.scaling.yarn_attn_factor"] = rope.get("attention_factor")
    return found | _MORE.get(architecture, lambda hf: {})(hf)


def _windows(hf: Mapping[str, Any]) -> dict[str, Any]:
    if hf["model_type"] == "olmo2":
        return {}
    pattern = [kind == "sliding_attention" for kind in hf["layer_types"]]
    return {"attention.sliding_window": hf["sliding_window"], "attention.sliding_window_pattern": pattern}


def _phi3(hf: Mapping[str, Any]) -> dict[str, Any]:
    rope, found = hf["rope_parameters"], {"attention.sliding_window": hf["sliding_window"] or 0}
    original = rope.get("original_max_position_embeddings") or hf.get("original_max_position_embeddings")
    found["rope.scaling.original_context_length"] = original
    if "long_factor" not in rope:
        return found
    scale = hf["max_position_embeddings"] / original
    return found | {"rope.scaling.attn_factor": float(np.sqrt(1 + np.log(scale) / np.log(original)))}


def _deepseek_moe(hf: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "leading_dense_block_count": hf["first_k_dense_replace"],
        "expert_shared_count": hf["n_shared_experts"],
        "expert_weights_scale": float(hf["routed_scaling_factor"]),
        "expert_weights_norm": hf["norm_topk_prob"],
        "expert_group_count": hf["n_group"],
        "expert_group_used_count": hf["topk_group"],
        "expert_gating_func": 2,
    }


def _ernie(hf: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "interleave_moe_layer_step": hf["moe_layer_interval"],
        "leading_dense_block_count": hf["moe_layer_start_index"],
        "expert_shared_count": hf["moe_num_shared_experts"],
    }


def _afmoe(hf: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "leading_dense_block_count": hf["num_dense_layers"],
        "expert_shared_count": hf["num_shared_experts"],
        "expert_weights_scale": float(hf["route_scale"]),
        "attention.sliding_window": hf["sliding_window"],
    }


def _nemotron_h(hf: Mapping[str, Any]) -> dict[str, Any]:
    kinds = hf["layers_block_type"]
    found = {
        "attention.head_count_kv": [hf["num_key_value_heads"] * (kind == "full_attention") for kind in kinds],
        "feed_forward_length": [hf["intermediate_size"] * (kind == "mlp") for kind in kinds],
        "ssm.conv_kernel": hf["conv_kernel"],
        "ssm.state_size": hf["ssm_state_size"],
        "ssm.group_count": hf["n_groups"],
        "ssm.inner_size": hf["mamba_num_heads"] * hf["mamba_head_dim"],
        "ssm.time_step_rank": hf["mamba_num_heads"],
    }
    return found | _deepseek_moe({"first_k_dense_replace": 0, **hf}) if "moe" in kinds else found


def _jamba(hf: Mapping[str, Any]) -> dict[str, Any]:
    period, offset, layers = hf["attn_layer_period"], hf["attn_layer_offset"], range(hf["num_hidden_layers"])
    return {
        "attention.head_count_kv": [hf["num_key_value_heads"] * (i % period == offset) for i in layers],
        "ssm.conv_kernel": hf["mamba_d_conv"],
        "ssm.state_size": hf["mamba_d_state"],
        "ssm.inner_size": hf["mamba_expand"] * hf["hidden_size"],
        "ssm.time_step_rank": hf["mamba_dt_rank"],
    }


def _granite(hf: Mapping[str, Any]) -> dict[str, Any]:
    names = {
        "attention.scale": "attention_multiplier", "embedding_scale": "embedding_multiplier",
        "residual_scale": "residual_multiplier", "logit_scale": "logits_scaling",
    }  # fmt: skip
    return {ours: float(hf[theirs]) for ours, theirs in names.items()}


def _granite_hybrid(hf: Mapping[str, Any]) -> dict[str, Any]:
    kinds = hf.get("layer_types") or hf["layers_block_type"]
    return _granite(hf) | {
        "ssm.conv_kernel": hf["mamba_d_conv"],
        "ssm.state_size": hf["mamba_d_state"],
        "ssm.group_count": hf["mamba_n_groups"],
        "ssm.inner_size": hf["mamba_expand"] * hf["hidden_size"],
        "ssm.time_step_rank": hf["mamba_n_heads"],
        "attention.head_count_kv": [hf["num_key_value_heads"] if "attention" in kind else 0 for kind in kinds],
        "rope.scaling.finetuned": hf["position_embedding_type"] == "rope",
        "context_length": 2**20,
    }


def _lfm2(hf: Mapping[str, Any]) -> dict[str, Any]:
    kv_heads = [hf["num_key_value_heads"] if kind != "conv" else 0 for kind in hf["layer_types"]]
    return {
        "feed_forward_length": _lfm2_width(hf),
        "shortconv.l_cache": hf["conv_L_cache"],
        "attention.head_count_kv": kv_heads,
        "leading_dense_block_count": hf.get("num_dense_layers"),
        "expert_gating_func": 2 if hf.get("num_dense_layers") else None,
    }


def _lfm2_width(hf: Mapping[str, Any]) -> int:
    width: int = hf.get("block_ff_dim") or hf["intermediate_size"]
    if not hf.get("block_auto_adjust_ff_dim"):
        return width
    width = int(hf["block_ffn_dim_multiplier"] * int(2 * width / 3))
    return -(-width // hf["block_multiple_of"]) * hf["block_multiple_of"]


def _qwen3_next(hf: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "ssm.conv_kernel": hf["linear_conv_kernel_dim"],
        "ssm.state_size": hf["linear_key_head_dim"],
        "ssm.group_count": hf["linear_num_key_heads"],
        "ssm.time_step_rank": hf["linear_num_value_heads"],
        "ssm.inner_size": hf["linear_value_head_dim"] * hf["linear_num_value_heads"],
        "full_attention_interval": hf.get("full_attention_interval", 4),
    }


def _num_dense(hf: Mapping[str, Any]) -> int:
    kinds = hf.get("mlp_layer_types")
    found: int = kinds.index("sparse") if kinds else hf["first_k_dense_replace"]
    return found


def _hunyuan_moe(hf: Mapping[str, Any]) -> dict[str, Any]:
    rope, top_k = hf["rope_parameters"], hf["moe_topk"]
    dim = hf.get("head_dim") or hf["hidden_size"] // hf["num_attention_heads"]
    found = {
        "expert_used_count": top_k[0] if isinstance(top_k, list) else top_k,
        "expert_feed_forward_length": hf["intermediate_size"],
        "expert_shared_feed_forward_length": hf["intermediate_size"],
        "expert_shared_count": 1,
    }
    if "alpha" not in rope:
        return found
    base = rope["rope_theta"] * rope["alpha"] ** (dim / (dim - 2))
    return found | {"rope.freq_base": base, "rope.scaling.type": "none", "rope.scaling.factor": 1.0}


def _kimi_linear(hf: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "attention.head_count_kv": [int(kind == "full_attention") for kind in hf["layer_types"]],
        "attention.q_lora_rank": hf.get("q_lora_rank"),
        "attention.kv_lora_rank": hf["kv_lora_rank"],
        "attention.key_length": hf["kv_lora_rank"] + hf["qk_rope_head_dim"],
        "attention.key_length_mla": hf["qk_nope_head_dim"] + hf["qk_rope_head_dim"],
        "attention.value_length_mla": hf["v_head_dim"],
        "rope.dimension_count": hf["qk_rope_head_dim"],
        "ssm.conv_kernel": hf["linear_conv_kernel_dim"],
        "kda.head_dim": hf["linear_head_dim"],
        "expert_used_count": hf["num_experts_per_token"],
        "expert_shared_count": hf["num_shared_experts"],
        "expert_weights_scale": float(hf["routed_scaling_factor"]),
        "expert_gating_func": 2,
        "leading_dense_block_count": _num_dense(hf),
    }


def _deepseek(hf: Mapping[str, Any]) -> dict[str, Any]:
    has_sigmoid = hf["model_type"] != "deepseek_v2"
    rope = hf.get("rope_parameters") or {}
    return {
        "attention.head_count_kv": 1,
        "leading_dense_block_count": _num_dense(hf),
        "attention.q_lora_rank": hf.get("q_lora_rank"),
        "attention.kv_lora_rank": hf["kv_lora_rank"],
        "attention.key_length": hf["kv_lora_rank"] + hf["qk_rope_head_dim"],
        "attention.value_length": hf["kv_lora_rank"],
        "attention.key_length_mla": hf["qk_nope_head_dim"] + hf["qk_rope_head_dim"],
        "attention.value_length_mla": hf["v_head_dim"],
        "expert_shared_count": hf["n_shared_experts"],
        "expert_weights_scale": float(hf["routed_scaling_factor"]),
        "expert_weights_norm": hf.get("norm_topk_prob") or None,
        "expert_group_count": hf.get("n_group"),
        "expert_group_used_count": hf.get("topk_group"),
        "expert_gating_func": 2 if has_sigmoid else 1,
        "rope.dimension_count": hf["qk_rope_head_dim"],
        "rope.scaling.yarn_log_multiplier": 0.1 * rope["mscale_all_dim"] if rope.get("mscale_all_dim") else None,
    }


_MORE: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "olmo2": _windows,
    "glm4moe": _deepseek_moe,
    "dots1": _deepseek_moe,
    "ernie4_5-moe": _ernie,
    "afmoe": _afmoe,
    "nemotron_h": _nemotron_h,
    "nemotron_h_moe": _nemotron_h,
    "jamba": _jamba,
    "gemma3": lambda hf: {"attention.sliding_window": hf["sliding_window"]},
    "phi3": _phi3,
    "phimoe": _phi3,
    "hunyuan-moe": _hunyuan_moe,
    "kimi-linear": _kimi_linear,
    "granite": _granite,
    "granitemoe": _granite,
    "granitehybrid": _granite_hybrid,
    "lfm2": _lfm2,
    "lfm2moe": _lfm2,
    "qwen3next": _qwen3_next,
    "qwen35moe": _qwen3_next,
    "gpt-oss": lambda hf: {"attention.sliding_window": hf["sliding_window"]},
    "deepseek2": _deepseek,
}


def _named(tensors: Tensors, hf: Mapping[str, Any], architecture: str) -> Iterator[tuple[str, Tensor]]:
    code = next(code for code, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(code, hf.get("num_hidden_layers") or len(hf["layers_block_type"]))
    for name, tensor in tensors.items():
        found = names.get_name(name, try_suffixes=(".weight", ".bias")) or name
        assert found.startswith(("blk.", "token_embd", "output", "rope_f")), f"no name for {name}"
        yield found, tensor


def _changed(tensors: Tensors, hf: Mapping[str, Any], architecture: str) -> Tensors:
    tensors = _stacked(tensors)
    if hf.get("tie_word_embeddings"):
        tensors.pop("lm_head.weight", None)
    if architecture in _PERMUTED:
        tensors = {name: _permuted(name, tensor, hf) for name, tensor in tensors.items()}
    if (hf.get("rope_parameters") or {}).get("rope_type") == "llama3":
        tensors["rope_freqs.weight"] = _llama3_factors(hf)
    for length in ("long", "short"):
        if (factors := (hf.get("rope_parameters") or {}).get(f"{length}_factor")) is not None:
            tensors[f"rope_factors_{length}.weight"] = torch.tensor(factors)
    changed: Tensors = {}
    for name, tensor in tensors.items():
        changed |= _changes(name, tensor, hf, architecture)
    return changed


def _stacked(tensors: Tensors) -> Tensors:
    """With one tensor for all experts of a layer."""
    stacked: Tensors = {}
    experts: dict[str, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(.*\.experts)\.(\d+)\.(.*)", name)
        if match is None:
            stacked[name] = tensor
        else:
            experts.setdefault(f"{match[1]}.{match[3]}", {})[int(match[2])] = tensor
    return stacked | {name: torch.stack([found[i] for i in range(len(found))]) for name, found in experts.items()}


def _permuted(name: str, tensor: Tensor, hf: Mapping[str, Any]) -> Tensor:
    heads = hf["num_attention_heads"] if "q_proj." in name else hf.get("num_key_value_heads")
    if not re.search(r"self_attn\.[qk]_proj\.", name) or not heads:
        return tensor
    return tensor.unflatten(0, (heads, 2, -1)).swapaxes(1, 2).reshape(tensor.shape)


def _llama3_factors(hf: Mapping[str, Any]) -> Tensor:
    rope = hf["rope_parameters"]
    dim = hf.get("head_dim") or hf["hidden_size"] // hf["num_attention_heads"]
    wavelengths = 2 * np.pi * rope["rope_theta"] ** (np.arange(0, dim, 2) / dim)
    original = rope["original_max_position_embeddings"]
    low, high = original / rope["low_freq_factor"], original / rope["high_freq_factor"]
    smooth = (original / wavelengths - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
    between = 1 / ((1 - smooth) / rope["factor"] + smooth)
    factors = np.where(wavelengths < high, 1, np.where(wavelengths > low, rope["factor"], between))
    return torch.tensor(factors, dtype=torch.float32)


def _changes(name: str, tensor: Tensor, hf: Mapping[str, Any], architecture: str) -> Tensors:
    """What becomes of one tensor; all but a few stay as they are."""
    layer = re.match(r"(?:model|backbone)\.layers\.(\d+)\.", name)
    block = f"blk.{layer[1]}" if layer else ""
    if architecture in ("qwen3next", "qwen35moe"):
        return _delta_net(name, block, tensor, hf, architecture)
    if name.endswith("kv_b_proj.weight"):
        sizes = (hf["qk_nope_head_dim"], hf["v_head_dim"])
        keys, values = tensor.unflatten(0, (hf["num_attention_heads"], -1)).split(sizes, dim=1)
        return {f"{block}.attn_k_b.weight": keys.mT, f"{block}.attn_v_b.weight": values}
    if name.endswith(("e_score_correction_bias", "expert_bias")):
        return {f"{block}.exp_probs_b.bias": tensor.flatten()}
    if "feed_forward.experts" in name and architecture != "jamba":
        return {name.removeprefix("model."): tensor}
    if name.endswith("conv.conv.weight"):
        return {name: tensor.squeeze(1)}
    if architecture == "gemma3" and name.endswith("norm.weight"):
        return {name: tensor + 1}
    if architecture == "gpt-oss":
        return _gpt_oss(name, block, tensor)
    if architecture == "kimi-linear":
        return _kimi_changes(name, block, tensor)
    if architecture == "jamba":
        return _jamba_changes(name, block, tensor)
    if architecture.startswith("nemotron_h"):
        name = re.sub(r"backbone(.*)mixer\.experts", r"model\1mlp.experts", name)  # which the library has no name for
        return _mamba2_changes(name, block, tensor, hf["n_groups"])
    if architecture.startswith("granite"):
        return _granite_changes(name, block, tensor, hf)
    return {name: tensor}


def _gpt_oss(name: str, block: str, tensor: Tensor) -> Tensors:
    end, is_bias = ("bias", True) if name.endswith("_bias") else ("weight", False)
    if "gate_up_proj" in name:
        by_row = tensor if is_bias else tensor.mT
        gate, up = (by_row[:, 0::2], by_row[:, 1::2])
        return {f"{block}.ffn_gate_exps.{end}": gate, f"{block}.ffn_up_exps.{end}": up}
    if "down_proj" in name:
        return {f"{block}.ffn_down_exps.{end}": tensor if is_bias else tensor.mT}
    return {f"{block}.attn_sinks.weight" if name.endswith("sinks") else name: tensor}


def _granite_changes(name: str, block: str, tensor: Tensor, hf: Mapping[str, Any]) -> Tensors:
    groups, is_dense = hf.get("mamba_n_groups", 1), not hf.get("num_local_experts")
    if name.endswith("moe.input_linear.weight"):
        gate, up = tensor.chunk(2, dim=1)
        return {f"{block}.ffn_gate_exps.weight": gate, f"{block}.ffn_up_exps.weight": up}
    shared = "" if is_dense else "_shexp"
    if name.endswith("shared_mlp.input_linear.weight"):
        gate, up = tensor.chunk(2)
        return {f"{block}.ffn_gate{shared}.weight": gate, f"{block}.ffn_up{shared}.weight": up}
    if name.endswith("shared_mlp.output_linear.weight"):
        return {f"{block}.ffn_down{shared}.weight": tensor}
    return _mamba2_changes(name, block, tensor, groups)


def _mamba2_changes(name: str, block: str, tensor: Tensor, groups: int) -> Tensors:
    if name.endswith("conv1d.weight"):
        return {name: tensor.squeeze(1)}
    if name.endswith("A_log"):
        return {f"{block}.ssm_a": -torch.exp(tensor)[:, None]}
    if name.endswith(".D"):
        return {f"{block}.ssm_d": tensor[:, None]}
    if name.endswith("dt_bias"):
        return {f"{block}.ssm_dt.bias": tensor}
    if name.endswith(("mamba.norm.weight", "mixer.norm.weight")):
        return {name: tensor.reshape(groups, -1)}
    return {name: tensor}


def _jamba_changes(name: str, block: str, tensor: Tensor) -> Tensors:
    if name.endswith("conv1d.weight"):
        return {name: tensor.squeeze(1)}
    if name.endswith("A_log"):
        return {f"{block}.ssm_a": -torch.exp(tensor)}
    if name.endswith(".D"):
        return {f"{block}.ssm_d": tensor}
    return {name.replace("feed_forward.experts", "mlp.experts"): tensor}


def _kimi_changes(name: str, block: str, tensor: Tensor) -> Tensors:
    if "conv1d" in name:
        return {name: tensor.squeeze(1)[None, :, None]}
    if name.endswith("A_log"):
        return {f"{block}.ssm_a": -torch.exp(tensor)}
    if name.endswith("dt_bias"):
        return {f"{block}.ssm_dt.bias": tensor}
    return {re.sub(r"block_sparse_moe\.(gate|up|down)_proj", r"mlp.\1_proj", name): tensor}  # as published


def _delta_net(name: str, block: str, tensor: Tensor, hf: Mapping[str, Any], architecture: str) -> Tensors:
    keys, values = hf["linear_num_key_heads"], hf["linear_num_value_heads"] // hf["linear_num_key_heads"]
    key_dim, value_dim = hf["linear_key_head_dim"], hf["linear_value_head_dim"]

    def tiled(rows: Tensor, width: int) -> Tensor:
        """Value heads by their place under the key heads, instead of by key head."""
        if architecture == "qwen3next":
            return rows
        return rows.unflatten(0, (keys, values, width)).transpose(0, 1).flatten(0, 2)

    if name.endswith("in_proj_qkvz.weight"):
        sizes = (key_dim, key_dim, values * value_dim, values * value_dim)
        q, k, v, z = (part.flatten(0, 1) for part in tensor.unflatten(0, (keys, sum(sizes))).split(sizes, dim=1))
        return {f"{block}.attn_qkv.weight": torch.cat([q, k, v]), f"{block}.attn_gate.weight": z}
    start = 2 * keys * key_dim
    if name.endswith("in_proj_qkv.weight"):
        return {f"{block}.attn_qkv.weight": torch.cat([tensor[:start], tiled(tensor[start:], value_dim)])}
    if name.endswith("in_proj_z.weight"):
        return {f"{block}.attn_gate.weight": tiled(tensor, value_dim)}
    for short, part in (("b", "beta"), ("a", "alpha")):
        if name.endswith(f"in_proj_{short}.weight"):
            return {f"{block}.ssm_{part}.weight": tiled(tensor, 1)}
    if name.endswith("conv1d.weight"):
        channels = tensor.squeeze(1)
        return {f"{block}.ssm_conv1d.weight": torch.cat([channels[:start], tiled(channels[start:], value_dim)])}
    if name.endswith("A_log"):
        return {f"{block}.ssm_a": tiled(-torch.exp(tensor), 1)}
    if name.endswith("dt_bias"):
        return {f"{block}.ssm_dt.bias": tiled(tensor, 1)}
    if name.endswith("linear_attn.out_proj.weight"):
        return {f"{block}.ssm_out.weight": tiled(tensor.T, value_dim).T}
    if name.endswith("norm.weight") and "linear_attn" not in name:
        return {name: tensor + 1}
    if name.endswith("shared_expert_gate.weight"):
        return {f"{block}.ffn_gate_inp_shexp.weight": tensor.squeeze(0)}
    return {name: tensor}
