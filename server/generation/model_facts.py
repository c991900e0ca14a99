"""What is told of the served model to those who ask for a list of models."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """`weight_scheme` is the type of the weights, or the scheme that quantizes them to `weight_bytes`."""

    family: str = "unknown"
    num_parameters: int = 0
    hidden_size: int = 0
    weight_bytes: int = 0
    weight_scheme: str = "unknown"
