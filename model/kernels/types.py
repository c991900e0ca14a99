"""Arguments of kernels that are more than tensors and numbers.

Shapes: T tokens, S sequences, C channels, J convolution taps, H heads, K key width, V value width, B blocks per
sequence.
"""

from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from torch import Tensor

W = TypeVar("W")


class Paging(NamedTuple):
    """Where the tokens of a step are in the paged cache.

    The tokens of sequence s are starts_S1[s] to starts_S1[s + 1]. Token t is at position `positions_T[t]` of its
    sequence, and position p of sequence s is stored in block `block_table_SB[s, p // block_size]`.
    """

    positions_T: Tensor
    starts_S1: Tensor
    block_table_SB: Tensor


class QKNorms(NamedTuple):
    """The RMS norms of each head of the queries and of the keys, K wide; weights are float32."""

    q_weight_K: Tensor
    k_weight_K: Tensor
    eps: float
    offset: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class GatedDelta:
    """The small weights of a Gated DeltaNet layer, all float32, and the width of its keys.

    The input of a token is [q | k | v | z | b | a]: C = q + k + v channels that are convolved, the output gate z, and
    for each of H value heads the write strength b and the decay a.
    """

    conv_CJ: Tensor
    A_log_H: Tensor
    dt_bias_H: Tensor
    norm_V: Tensor
    eps: float
    key_width: int

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """The convolved channels, z, b and a of the input."""
        heads = len(self.A_log_H)
        return x.split([len(self.conv_CJ), heads * len(self.norm_V), heads, heads], dim=-1)

    def heads(self, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Convolved channels as queries and keys [..., key heads, key width], and values [..., H, V]."""
        values = len(self.A_log_H) * len(self.norm_V)
        keys = (len(self.conv_CJ) - values) // 2
        q, k, v = mixed.split([keys, keys, values], dim=-1)
        width = (-1, self.key_width)
        return q.unflatten(-1, width), k.unflatten(-1, width), v.unflatten(-1, (-1, len(self.norm_V)))


class SelectiveScan(NamedTuple):
    """The small weights of the recurrence of Mamba-1, all float32; N is the width of a channel's state."""

    dt_bias_C: Tensor
    A_log_CN: Tensor
    D_C: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class GatedMLPWeights(Generic[W]):
    """Weights of a gated MLP, or of one per expert. The outputs of `gate_up` are all gates, then all ups."""

    gate_up: W
    down: W


class RowSampling(NamedTuple):
    """How a token is chosen from one row of scores.

    A `temperature` of 0 takes the highest score. `top_k` 0, `top_p` 1 and `min_p` 0 filter nothing. The noise of a draw
    is a function of `seed` (of which 64 bits count) and `position` alone.
    """

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int
    position: int
