"""The sampling parameters that a checkpoint recommends in generation_config.json."""

from dataclasses import dataclass, fields
from typing import Any

from model.files import Directory, read_object_if_any
from server.engine.types import SamplingParams
from server.engine.validation import check_sampling

NAME = "generation_config.json"
PLAIN_TEXT = "plain_text"


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """Sampling parameters of requests that do not give them. Those here leave the model's distribution as it is."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0 or less: no limit
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    # transformers has neither of these. They count generated tokens only; repetition_penalty counts those of the prompt
    # too, which a good answer may have to repeat.
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    @classmethod
    def load(cls, directory: Directory) -> "GenerationDefaults":
        """Read generation_config.json, if there is one. ValueError for a value that a request may not have either."""
        return cls._of(read_object_if_any(directory / NAME))

    @classmethod
    def load_plain_text(cls, directory: Directory) -> "GenerationDefaults":
        """The same for text without a chat template: what the file has under `plain_text` counts before the rest.

        Small models need more variety there than in chat, or they repeat themselves. The key is our own.
        """
        config = read_object_if_any(directory / NAME)
        plain_text = config.get(PLAIN_TEXT, {})
        if not isinstance(plain_text, dict):
            raise ValueError(f"{NAME}: {PLAIN_TEXT} is {plain_text!r}: give an object")
        return cls._of(config | plain_text)

    @classmethod
    def _of(cls, config: dict[str, Any]) -> "GenerationDefaults":
        """`do_sample: false` means a temperature of 0, whatever else is said of the temperature."""
        if config.get("do_sample") is False:
            config["temperature"] = 0
        given = {field.name: config[field.name] for field in fields(cls) if config.get(field.name) is not None}
        try:
            defaults = cls(**{name: _number(name, value) for name, value in given.items()})
            check_sampling(defaults.sampling(max_tokens=1), vocab_size=1)
        except ValueError as error:
            raise ValueError(f"{NAME}: {error}") from error
        return defaults

    def sampling(self, max_tokens: int, **others: Any) -> SamplingParams:
        """The engine's form. `others` are its parameters that have no defaults here."""
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=max(0, self.top_k),
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            **others,
        )


def _number(name: str, value: Any) -> Any:
    """A JSON number; for `top_k` an int, also where the file writes 20.0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is {value!r}: give a number")
    if name != "top_k":
        return value
    if not float(value).is_integer():
        raise ValueError(f"{name} is {value!r}: give a whole number")
    return int(value)
