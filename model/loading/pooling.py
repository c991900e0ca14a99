"""How a checkpoint makes embeddings: the files that sentence-transformers writes beside the weights.

modules.json names the steps (the network, a pooling, a normalization), and each step has a folder with its config.json.
config_sentence_transformers.json has the prompts that are put before a text.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from model.files import Directory, read_object, read_object_if_any
from model.layers.pooling import PoolingType

MODULES_NAME = "modules.json"
_OLDER = "pooling_mode_"  # begins a key for each mode, such as pooling_mode_mean_tokens, which says whether it is on


@dataclass(frozen=True, slots=True)
class Pooling:
    """`prompts`: what may be put before a text, by name; `default_prompt` is put before it if no name is given.

    `max_length`: the most tokens of a text. `matryoshka_dimensions`: the widths that embeddings may be cut to; empty
    for any width, None if the model was not trained for it.
    """

    type: PoolingType
    normalizes: bool = True
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str = ""
    max_length: int | None = None
    matryoshka_dimensions: tuple[int, ...] | None = None

    @classmethod
    def load(cls, directory: Directory) -> "Pooling | None":
        """Read the files of a checkpoint; None if it was not made for embeddings.

        ValueError for a broken file, and for a step that is not served.
        """
        if not (directory / MODULES_NAME).is_file():
            return None
        steps = _steps(directory)
        model, prompts = read_object_if_any(directory / "config.json"), _prompts(directory)
        sentence_bert = read_object_if_any(directory / "sentence_bert_config.json")
        if model.get("is_causal") is False or model.get("use_bidirectional_attention"):
            raise ValueError("config.json asks for attention in both directions, which is not served")
        return cls(
            _pooling_type(_pooling_config(directory, steps["Pooling"])),
            "Normalize" in steps,
            prompts,
            _default_prompt(directory, prompts),
            _size("max_seq_length", sentence_bert.get("max_seq_length")),
            _matryoshka_dimensions(model),
        )


def _steps(directory: Directory) -> dict[str, str]:
    """The folder of each step by the name of its class. ValueError unless they are network, pooling, normalization."""
    path = directory / MODULES_NAME
    try:
        steps = {
            str(step["type"]).rpartition(".")[2]: str(step["path"]) for step in json.loads(path.read_text("utf-8"))
        }
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error!r}") from error
    if list(steps) not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ValueError(
            f"{MODULES_NAME} has the steps {', '.join(steps)}: only Transformer, Pooling and Normalize are served"
        )
    for folder in steps.values():
        if Path(folder).name != folder:
            raise ValueError(f"{MODULES_NAME} names {folder!r}, which is no folder of {directory}")
    return steps


def _pooling_config(directory: Directory, folder: str) -> dict[str, Any]:
    path = directory / f"{folder}/config.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing, which says how hidden states become an embedding")
    return read_object(path)


def _size(key: str, value: Any) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"{key} is {value!r}: a whole number from 1 is expected")
    return value


def _pooling_type(config: Mapping[str, Any]) -> PoolingType:
    older = [
        key.removeprefix(_OLDER).removesuffix("_tokens").removesuffix("_token")
        for key, is_on in config.items()
        if key.startswith(_OLDER) and is_on
    ]
    mode = config.get("pooling_mode", older[0] if len(older) == 1 else older or "mean")
    if mode not in get_args(PoolingType):
        raise ValueError(f"the pooling mode is {mode!r}: {', '.join(get_args(PoolingType))} are served")
    if mode != "lasttoken" and config.get("include_prompt") is False:
        raise ValueError("include_prompt is false: embeddings without the tokens of the prompt are not served")
    pooling_type: PoolingType = mode
    return pooling_type


def _prompts(directory: Directory) -> dict[str, str]:
    prompts = _settings(directory).get("prompts") or {}
    if not isinstance(prompts, dict):
        raise ValueError(f"prompts is {prompts!r}: texts by name are expected")
    return {str(name): str(text) for name, text in prompts.items()}


def _default_prompt(directory: Directory, prompts: Mapping[str, str]) -> str:
    name = _settings(directory).get("default_prompt_name")
    if name is not None and name not in list(prompts):  # of any type, also one that cannot be a key
        raise ValueError(f"default_prompt_name is {name!r}, which is none of the prompts")
    return "" if name is None else prompts[name]


def _settings(directory: Directory) -> dict[str, Any]:
    return read_object_if_any(directory / "config_sentence_transformers.json")


def _matryoshka_dimensions(model: Mapping[str, Any]) -> tuple[int, ...] | None:
    """From the keys of config.json that vLLM reads too."""
    if dimensions := model.get("matryoshka_dimensions"):
        if not isinstance(dimensions, list):
            raise ValueError(f"matryoshka_dimensions is {dimensions!r}: a list is expected")
        return tuple(width for one in dimensions if (width := _size("matryoshka_dimensions", one)))
    return () if model.get("is_matryoshka") else None
