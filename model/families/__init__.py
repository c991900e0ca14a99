"""Checkpoint families: one file each, named like the `model_type` of its config.json.

A family is a module with two functions: `config_from_hf(hf)` turns config.json into our config, and `rules(config)`
says which tensors make which parameters. Optional are `layouts(config)` if checkpoints are stored in several ways,
`ignored(hf)` with the prefixes of tensors that are not loaded, and `config_to_hf(config)` if a new network can be
written in this format.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from model.checkpoints.reader import CheckpointError
from model.checkpoints.rules import Rule
from model.config import ModelConfig
from model.families.counts import check_counts

ConfigFromHf = Callable[[Mapping[str, Any]], ModelConfig]

_SHARED = {"__init__", "counts", "rope", "standard"}


@dataclass(frozen=True, slots=True)
class Family:
    """How to read the config and the tensors of a family."""

    config_from_hf: ConfigFromHf
    rules: Callable[[ModelConfig], list[Rule]]
    layouts: Callable[[ModelConfig], list[list[Rule]]]  # all ways of storing, each with its own rules
    ignored: Callable[[Mapping[str, Any]], tuple[str, ...]]  # prefixes of tensors that are not loaded


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
    ignored = getattr(module, "ignored", lambda hf: ())
    return Family(_naming_what_is_wrong(module.config_from_hf), module.rules, layouts, ignored)


def _naming_what_is_wrong(config_from_hf: ConfigFromHf) -> ConfigFromHf:
    def checked(hf_config: Mapping[str, Any]) -> ModelConfig:
        check_counts(hf_config)
        try:
            return config_from_hf(hf_config)
        except KeyError as error:
            raise CheckpointError(
                f"config.json has no {error}, which model_type {hf_config['model_type']!r} needs"
            ) from error
        except IndexError as error:
            raise CheckpointError(
                "config.json has a list with fewer entries than layers (num_hidden_layers)"
            ) from error

    return checked
