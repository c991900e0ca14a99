"""Feed-forwards: gated MLPs and mixtures of experts."""

from dataclasses import dataclass
from typing import ClassVar

from model.config.routers import RouterConfig


@dataclass(frozen=True, slots=True)
class SwiGLU:
    """silu(gate) * up."""

    inputs: ClassVar[int] = 2  # projections of the hidden state that the activation joins to one


@dataclass(frozen=True, slots=True)
class ClampedSwiGLU:
    """gate * sigmoid(alpha * gate) * (up + 1), with gate <= limit and |up| <= limit (gpt-oss)."""

    inputs: ClassVar[int] = 2
    alpha: float = 1.702
    limit: float = 7.0


@dataclass(frozen=True, slots=True)
class GeGLU:
    """gelu(gate) * up, with the tanh approximation of GELU."""

    inputs: ClassVar[int] = 2


@dataclass(frozen=True, slots=True)
class SquaredReLU:
    """relu(up)^2: there is no gate."""

    inputs: ClassVar[int] = 1


ActivationConfig = SwiGLU | ClampedSwiGLU | GeGLU | SquaredReLU


@dataclass(frozen=True, slots=True)
class GatedMLPConfig:
    """An MLP, gated if its activation is."""

    width: int
    activation: ActivationConfig = SwiGLU()


@dataclass(frozen=True, slots=True)
class SharedExpertConfig:
    """A shared expert, which processes every token. `gated`: multiply its output by a sigmoid gate of the input."""

    width: int
    gated: bool = False


@dataclass(frozen=True, slots=True)
class MoEConfig:
    """A mixture of experts. `bias`: the router and the experts have biases."""

    router: RouterConfig
    num_experts: int
    expert_width: int
    shared: SharedExpertConfig | None = None
    activation: ActivationConfig = SwiGLU()
    bias: bool = False

    def __post_init__(self) -> None:
        groups = getattr(self.router, "groups", None)
        if groups is None:
            return
        if not 1 <= groups.top_groups <= groups.num_groups or self.num_experts % groups.num_groups:
            raise ValueError(
                f"{self.num_experts} experts cannot be in {groups.num_groups} equal groups, of which a token goes to "
                f"{groups.top_groups}"
            )
