"""The rotary positions that a config.json describes: how far they reach, and how they are scaled."""

import math
from collections.abc import Mapping
from typing import Any

from model.checkpoints.reader import CheckpointError
from model.config import (
    FrequencyFactors,
    LinearScaling,
    Llama3Scaling,
    RotaryConfig,
    RotaryScaling,
    YarnScaling,
)

HfConfig = Mapping[str, Any]


def rotary(hf: HfConfig, head_dim: int, *, theta: float = 10_000.0, partial: float = 1.0) -> RotaryConfig:
    """Rotary settings of newer configs (`rope_parameters`) and of older ones (`rope_theta`, `rope_scaling`).

    `theta` and `partial` are the defaults of the family. Raises CheckpointError for an unknown kind of scaling.
    """
    rope = parameters(hf)
    if any(isinstance(value, Mapping) for value in rope.values()):
        raise CheckpointError("config.json has rope_parameters for each type of layer, which this model_type has not")
    theta = float(rope.get("rope_theta") or hf.get("rope_theta") or theta)
    partial = rope.get("partial_rotary_factor") or hf.get("partial_rotary_factor") or partial
    return RotaryConfig(int(head_dim * partial), theta, _scaling(rope, hf))


def of_layer_type(hf: HfConfig, kind: str) -> dict[str, Any]:
    """The config with the rotary settings of one layer type, where `rope_parameters` has some for each type.

    Older configs scale full attention only.
    """
    rope = hf.get("rope_parameters") or {}
    nested = rope.get(kind) if any(isinstance(value, Mapping) for value in rope.values()) else rope
    scaling = hf.get("rope_scaling") if kind == "full_attention" else None
    return {**hf, "rope_parameters": nested or {}, "rope_scaling": scaling}


def parameters(hf: HfConfig) -> HfConfig:
    """The rotary settings. The older key has priority, as in transformers."""
    return hf.get("rope_scaling") or hf.get("rope_parameters") or {}


def max_positions(hf: HfConfig) -> int:
    """The context length. With YaRN it is at least the extended one, because configs often only set the scaling."""
    scaling, positions = _scaling(parameters(hf), hf), int(hf["max_position_embeddings"])
    if isinstance(scaling, YarnScaling):
        return max(positions, int(scaling.factor * scaling.original_positions))
    return positions


def _scaling(rope: HfConfig, hf: HfConfig) -> RotaryScaling | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind in ("default", "dynamic"):  # dynamic NTK changes nothing up to the context length, and we stay below
        return None
    if kind == "linear":
        return LinearScaling(rope["factor"])
    if kind == "frequency_factors":  # of GGUF files
        return FrequencyFactors(tuple(rope["factors"]))
    original = rope.get("original_max_position_embeddings") or hf["max_position_embeddings"]
    if kind in ("longrope", "su"):
        return _longrope(rope, hf)
    if kind == "llama3":
        return Llama3Scaling(rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"], original)
    if kind == "yarn":
        factor = _yarn_factor(rope, hf, original)
        fast, slow = rope.get("beta_fast") or 32, rope.get("beta_slow") or 1
        return YarnScaling(
            factor, original, _yarn_magnitude(rope, factor), float(fast), float(slow), rope.get("truncate", True)
        )
    raise CheckpointError(
        f"rope type {kind!r} is not known; known are: default, linear, dynamic, llama3, yarn, longrope"
    )


def _longrope(rope: HfConfig, hf: HfConfig) -> FrequencyFactors:
    """LongRoPE (arXiv 2402.13753): factors for the original length, or others for a longer context.

    transformers chooses anew for every length. Here the context of the config decides for all lengths, because the
    keys of a sequence must not change while it grows.
    """
    longest, original = int(hf["max_position_embeddings"]), longrope_original(hf)
    factor = rope.get("factor") or longest / original
    magnitude = rope.get("attention_factor")
    if magnitude is None:
        magnitude = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return FrequencyFactors(tuple(rope["long_factor" if longest > original else "short_factor"]), float(magnitude))


def longrope_original(hf: HfConfig) -> int:
    """The context length before LongRoPE extended it."""
    key = "original_max_position_embeddings"
    return int(parameters(hf).get(key) or hf.get(key) or hf["max_position_embeddings"])


def _yarn_factor(rope: HfConfig, hf: HfConfig, original: int) -> float:
    """How much longer the context is than the original one; null: as max_position_embeddings has it."""
    factor = rope["factor"]
    return float(hf["max_position_embeddings"] / original if factor is None else factor)


def _yarn_magnitude(rope: HfConfig, factor: float) -> float:
    """The factor of cosines and sines in YaRN (arXiv 2309.00071, section 3.4)."""
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return yarn_mscale(factor, rope["mscale"]) / yarn_mscale(factor, rope["mscale_all_dim"])
    return yarn_mscale(factor, 1.0)


def yarn_mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0
