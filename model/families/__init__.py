"""Checkpoint families: one file each, registered here by the `model_type` of its config.json."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from model.checkpoint import CheckpointError, Rule
from model.config import ModelConfig
from model.families import qwen3_next


@dataclass(frozen=True, slots=True)
class Family:
    """How a family's config becomes ours, and which tensors make which parameters."""

    config_from_hf: Callable[[Mapping[str, Any]], ModelConfig]
    config_to_hf: Callable[[ModelConfig], dict[str, Any]]
    rules: Callable[[ModelConfig], list[Rule]]


FAMILIES = {
    "qwen3_next": Family(qwen3_next.config_from_hf, qwen3_next.config_to_hf, qwen3_next.rules),
}


def family_of(hf_config: Mapping[str, Any]) -> Family:
    """The family of a config.json; a clear refusal for one that is not supported."""
    model_type = hf_config.get("model_type")
    if model_type not in FAMILIES:
        supported = ", ".join(sorted(FAMILIES))
        raise CheckpointError(
            f"model_type {model_type!r} is not supported; supported: {supported}. "
            "A family is one file in model/families/ and a line in FAMILIES."
        )
    return FAMILIES[model_type]
