"""Token mixers by their config. A mixer gives a token information about the tokens before it."""

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from model.batch import TokenBatch
from model.cache import CacheSpec
from model.config import (
    AttentionConfig,
    DeltaNetConfig,
    KimiDeltaConfig,
    LatentAttentionConfig,
    Mamba2Config,
    MambaConfig,
    MixerConfig,
    ShortConvConfig,
)
from model.layers.attention import Attention
from model.layers.delta_net import DeltaNet
from model.layers.kimi_delta import KimiDelta
from model.layers.latent_attention import LatentAttention
from model.layers.mamba import Mamba
from model.layers.mamba2 import Mamba2
from model.layers.short_conv import ShortConv


class Mixer(Protocol):
    """The interface of all mixers."""

    def cache_spec(self) -> CacheSpec:
        """What it has to cache."""
        ...

    def __call__(self, x_TD: Tensor, batch: TokenBatch, layer: int) -> Tensor: ...


MIXERS: dict[type, Callable[[Any, int], Mixer]] = {
    AttentionConfig: Attention,
    LatentAttentionConfig: LatentAttention,
    DeltaNetConfig: DeltaNet,
    KimiDeltaConfig: KimiDelta,
    Mamba2Config: Mamba2,
    MambaConfig: Mamba,
    ShortConvConfig: ShortConv,
}


def build_mixer(config: MixerConfig, hidden_size: int) -> Mixer:
    """Build the module for a config. A new mixer is a file in model/layers and a line in MIXERS."""
    return MIXERS[type(config)](config, hidden_size)
