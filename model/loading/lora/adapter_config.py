"""adapter_config.json of PEFT (https://huggingface.co/docs/peft): what is served of it, and what is refused."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from model.checkpoints.reader import CheckpointError
from model.files import read_object

Value = TypeVar("Value", int, float)

CONFIG_NAME = "adapter_config.json"
MAX_RANK = 256
MAX_PATTERNS = 4096

_PARAMETERS = ("weight", "gate_up_proj", "up_proj", "down_proj")

# What would change the result and is not computed, with the values that ask for nothing.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "use_dora": (None, False),
    "bias": (None, "none"),
    "lora_bias": (None, False),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, [], {}),
    "layer_replication": (None, []),
    "fan_in_fan_out": (None, False),
    "use_qalora": (None, False),
    "use_bdlora": (None, False, {}),
    "alora_invocation_tokens": (None, []),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "velora_config": (None,),
    "monteclora_config": (None,),
}
# Beginnings of initializations that PEFT repeats when it loads an adapter: they take the adapter's first A and B out of
# the base model's weights, so the adapter alone does not say what changes. PEFT writes True once it is converted.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """How the matrices of an adapter are scaled, by the names of modules, or of parameters if these are adapted.

    Patterns are regular expressions of names, as in PEFT.
    """

    rank: int
    alpha: float
    rank_pattern: Mapping[re.Pattern[str], int]
    alpha_pattern: Mapping[re.Pattern[str], float]
    use_rslora: bool  # divide by the square root of the rank (arXiv 2312.03732)
    target_parameters: tuple[str, ...]
    base_model: str

    def targets(self, parameter: str) -> bool:
        """Whether `target_parameters` has a parameter, by its name or the end of it."""
        return any(f".{parameter}".endswith(f".{target}") for target in self.target_parameters)

    def rank_of(self, name: str) -> int:
        """The rank of the matrices of a module or parameter."""
        return _match(self.rank_pattern, name, self.rank)

    def scaling_of(self, name: str) -> float:
        """The factor of B A of a module or parameter."""
        rank, alpha = self.rank_of(name), _match(self.alpha_pattern, name, self.alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def read_adapter_config(directory: Path) -> AdapterConfig:
    """CheckpointError for a file that is missing or wrong, and for what is not served."""
    path = directory / CONFIG_NAME
    if not path.is_file():
        raise CheckpointError(f"{directory} is no adapter of PEFT: it has no {CONFIG_NAME}")
    stored = read_object(path)
    if stored.get("peft_type") != "LORA":
        raise CheckpointError(f"{CONFIG_NAME}: peft_type is {stored.get('peft_type')!r}: only 'LORA' is served")
    refused = [name for name, harmless in _REFUSED.items() if stored.get(name) not in harmless]
    if str(stored.get("init_lora_weights")).lower().startswith(_CHANGES_BASE):
        refused.append("init_lora_weights")
    if refused:
        raise CheckpointError(
            f"{CONFIG_NAME}: {refused[0]} is {stored[refused[0]]!r:.80}, which is not served: "
            "merge the adapter into the model with PEFT and serve the result"
        )
    return AdapterConfig(
        _rank(stored.get("r"), "r"),
        _number(stored.get("lora_alpha"), "lora_alpha"),
        _patterns(stored, "rank_pattern", _rank),
        _patterns(stored, "alpha_pattern", _number),
        bool(stored.get("use_rslora")),
        _target_parameters(stored.get("target_parameters")),
        str(stored.get("base_model_name_or_path") or "unknown"),
    )


def _rank(value: Any, name: str) -> int:
    if not isinstance(value, int) or not 1 <= value <= MAX_RANK:
        raise CheckpointError(f"{CONFIG_NAME}: {name} is {value!r:.80}: ranks from 1 to {MAX_RANK} are served")
    return value


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CheckpointError(f"{CONFIG_NAME}: {name} is {value!r:.80}: a number is expected")
    return float(value)


def _patterns(stored: Mapping[str, Any], name: str, read: Callable[[Any, str], Value]) -> dict[re.Pattern[str], Value]:
    patterns = stored.get(name) or {}
    if not isinstance(patterns, dict) or len(patterns) > MAX_PATTERNS:
        raise CheckpointError(f"{CONFIG_NAME}: {name} is no object of at most {MAX_PATTERNS} module names")
    return {_pattern(key, name): read(value, f"{name}[{key!r}]") for key, value in patterns.items()}


def _pattern(key: str, name: str) -> re.Pattern[str]:
    """The end of a name, as PEFT looks it up. It is compiled once: `re` keeps fewer than an adapter may have."""
    try:
        return re.compile(rf"(.*\.)?({key})$")
    except re.error as error:
        raise CheckpointError(f"{CONFIG_NAME}: {name} has {key!r:.80}, no regular expression: {error}") from None


def _target_parameters(value: Any) -> tuple[str, ...]:
    if value is not None and (not isinstance(value, list) or len(value) > MAX_PATTERNS):
        raise CheckpointError(f"{CONFIG_NAME}: target_parameters is no list of at most {MAX_PATTERNS} names")
    for name in value or ():
        if not isinstance(name, str) or name.rpartition(".")[2] not in _PARAMETERS:
            raise CheckpointError(
                f"{CONFIG_NAME}: target_parameters has {name!r:.80}: only the weights of linear layers and "
                f"{', '.join(_PARAMETERS[1:])} of experts are served"
            )
    return tuple(value or ())


def _match(patterns: Mapping[re.Pattern[str], Value], name: str, default: Value) -> Value:
    """The value of the first pattern that matches a name."""
    return next((value for pattern, value in patterns.items() if pattern.match(name)), default)
