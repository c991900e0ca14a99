"""Token mixers: what gives a token information about the tokens before it."""

from dataclasses import dataclass
from typing import ClassVar

from model.config.norm import NormConfig
from model.config.rotary import NoRotary, RotaryConfig


@dataclass(frozen=True, slots=True)
class QKNormConfig:
    """Norms of queries and keys: of each head or of all heads as one vector, before or after the rotary positions."""

    norm: NormConfig
    per_head: bool = True
    after_rotary: bool = False


@dataclass(frozen=True, slots=True)
class AttentionConfig:
    """Grouped-query attention. `window`: how many tokens each token attends to, itself included (None: all)."""

    title: ClassVar[str] = "attention"
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rotary: RotaryConfig | None  # None: no position embedding
    qk_norm: QKNormConfig | None = None
    output_gate: bool = False  # multiply the output by a sigmoid gate of the input
    window: int | None = None
    sinks: bool = False  # a learned logit per head that takes part in the softmax, with a value of zero
    scale: float | None = None  # of the attention scores; None: head_dim ** -0.5
    input_bias: bool = False
    output_bias: bool = False

    def __post_init__(self) -> None:
        _check_multiple(self.num_heads, "query heads", self.num_kv_heads, "key/value heads")
        if self.window is not None and self.window < 1:
            raise ValueError(f"attention to a window of {self.window} tokens (sliding_window): it must be positive")
        if self.rotary is not None and self.rotary.dim > self.head_dim:
            raise ValueError(f"rotary positions on {self.rotary.dim} coordinates of heads that have {self.head_dim}")
        if self.qk_norm is not None and self.qk_norm.after_rotary and not self.qk_norm.per_head:
            raise ValueError("a norm of all heads at once comes before the rotary positions")


@dataclass(frozen=True, slots=True)
class LatentAttentionConfig:
    """Multi-head latent attention (MLA): one small cached vector per token gives the keys and values of all heads."""

    title: ClassVar[str] = "latent attention"
    num_heads: int
    q_lora_rank: int | None  # None: a single query projection
    kv_lora_rank: int
    nope_head_dim: int  # coordinates of a query or key without position embedding
    value_dim: int
    rotary: RotaryConfig | NoRotary  # on `rotary.dim` further coordinates; the keys share these
    norm: NormConfig
    scale: float

    def __post_init__(self) -> None:
        widths = (self.kv_lora_rank, self.nope_head_dim, self.value_dim, self.rotary.dim)
        if min(widths) < 1 or self.q_lora_rank == 0 or self.rotary.dim % 2:
            raise ValueError(
                f"latent attention of widths {self.q_lora_rank}, {', '.join(map(str, widths))} (q_lora_rank, "
                "kv_lora_rank, qk_nope_head_dim, v_head_dim, qk_rope_head_dim): all must be positive, the last one even"
            )


@dataclass(frozen=True, slots=True)
class DeltaNetConfig:
    """Gated DeltaNet: a matrix state per value head, updated by the delta rule, with a learned decay."""

    title: ClassVar[str] = "gated delta net"
    num_key_heads: int
    num_value_heads: int
    key_dim: int
    value_dim: int
    conv_width: int = 4
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        _check_multiple(self.num_value_heads, "value heads", self.num_key_heads, "key heads")

    @property
    def conv_channels(self) -> int:
        """Channels of the short convolution: queries, keys and values."""
        return 2 * self.num_key_heads * self.key_dim + self.num_value_heads * self.value_dim


@dataclass(frozen=True, slots=True)
class Mamba2Config:
    """Mamba-2: a matrix state per head with a scalar decay; heads of a group share B and C (keys and queries)."""

    title: ClassVar[str] = "Mamba-2"
    num_heads: int
    head_dim: int
    num_groups: int
    state_dim: int
    conv_width: int = 4
    conv_bias: bool = True
    projection_bias: bool = False
    time_step_limit: tuple[float, float] = (0.0, float("inf"))
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        _check_multiple(self.num_heads, "heads", self.num_groups, "groups")

    @property
    def width(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def conv_channels(self) -> int:
        """Channels of the short convolution: values, keys and queries."""
        return self.width + 2 * self.num_groups * self.state_dim


@dataclass(frozen=True, slots=True)
class MambaConfig:
    """Mamba (the first one): every channel has a state of `state_dim` numbers, each with a decay of its own."""

    title: ClassVar[str] = "Mamba"
    width: int  # channels
    state_dim: int
    time_step_rank: int  # width of what the time steps are computed of
    conv_width: int = 4
    conv_bias: bool = True
    projection_bias: bool = False
    norm_eps: float = 1e-6


@dataclass(frozen=True, slots=True)
class KimiDeltaConfig:
    """Kimi Delta Attention: a matrix state per head, updated by the delta rule, with a decay per key coordinate."""

    title: ClassVar[str] = "Kimi delta attention"
    num_heads: int
    head_dim: int  # of keys and values
    conv_width: int = 4
    norm_eps: float = 1e-5

    @property
    def width(self) -> int:
        return self.num_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class ShortConvConfig:
    """A gated short convolution: out = c * conv(b * x), with b, c and x from the hidden state."""

    title: ClassVar[str] = "short convolution"
    conv_width: int
    bias: bool = False


# `title` is the name of the mixer in messages and in `routelm inspect`
MixerConfig = (
    AttentionConfig
    | LatentAttentionConfig
    | DeltaNetConfig
    | KimiDeltaConfig
    | Mamba2Config
    | MambaConfig
    | ShortConvConfig
)


def _check_multiple(number: int, name: str, divisor: int, divisor_name: str) -> None:
    if divisor < 1 or number < 1 or number % divisor:
        raise ValueError(
            f"{number} {name} cannot share {divisor} {divisor_name}: the first must be a multiple of the second"
        )
