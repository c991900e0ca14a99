"""What the makers of a checkpoint say it should be sampled with: its generation_config.json."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.json_file import read_object_if_any

NAME = "generation_config.json"
RANGES = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "top_k": (-1, 10_000_000),
    "min_p": (0, 1),
    "repetition_penalty": (0.01, 10),
}


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """Sampling for requests that do not say otherwise; as it stands here, from the model's own distribution."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0 or less: no limit
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    @classmethod
    def load(cls, directory: Path) -> "GenerationDefaults":
        """Read generation_config.json, if there is one. ValueError for a value that no request could have either.

        `do_sample: false` means a temperature of 0, whatever else is written there.
        """
        config = read_object_if_any(directory / NAME)
        if config.get("do_sample") is False:
            config["temperature"] = 0
        return cls(**{name: _checked(name, config[name]) for name in RANGES if config.get(name) is not None})


def _checked(name: str, value: Any) -> Any:
    least, most = RANGES[name]
    if not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError(f"{name} is {value!r} in {NAME}: a number from {least} to {most} is expected")
    return value
