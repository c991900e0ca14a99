"""Checkpoint families: one file each, named like the `model_type` of its config.json.

A family is a module with two functions: `config_from_hf(hf)` makes our config from theirs, and `rules(config)` says
which tensors make which parameters. It may also have `layouts(config)`, where checkpoints are stored in several ways,
`IGNORED`, how the names of tensors begin that are not for us, and `config_to_hf(config)`, where it can be written
without having been read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from model.checkpoints.safetensors_files import CheckpointError, Rule
from model.config import ModelConfig

ConfigFromHf = Callable[[Mapping[str, Any]], ModelConfig]

_SHARED = {"__init__", "standard"}


@dataclass(frozen=True, slots=True)
class Family:
    """How a family's config becomes ours, and which tensors make which parameters."""

    config_from_hf: ConfigFromHf
    rules: Callable[[ModelConfig], list[Rule]]
    layouts: Callable[[ModelConfig], list[list[Rule]]]  # all ways of storing, each with its own rules
    ignored: tuple[str, ...]


def supported() -> list[str]:
    """The `model_type`s that can be loaded."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in _SHARED)


def family_of(hf_config: Mapping[str, Any]) -> Family:
    """The family of a config.json; CheckpointError for one that is not supported."""
    model_type = hf_config.get("model_type")
    if model_type not in supported():
        raise CheckpointError(
            f"model_type {model_type!r} is not supported; supported: {', '.join(supported())}. "
            "To add a family, see docs/adding-a-family.md."
        )
    module = import_module(f"model.families.{model_type}")
    layouts = getattr(module, "layouts", lambda config: [module.rules(config)])
    return Family(_naming_missing_keys(module.config_from_hf), module.rules, layouts, getattr(module, "IGNORED", ()))


def _naming_missing_keys(config_from_hf: ConfigFromHf) -> ConfigFromHf:
    def checked(hf_config: Mapping[str, Any]) -> ModelConfig:
        try:
            return config_from_hf(hf_config)
        except KeyError as error:
            raise CheckpointError(
                f"config.json has no {error}, which model_type {hf_config['model_type']!r} needs"
            ) from error

    return checked
