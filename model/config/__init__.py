"""The network as a tree of frozen configs. A variant is a different sub-config, never a flag on the whole model.

Impossible shapes raise ValueError here, because kernels do not check them.
"""

from model.config.feed_forward import (
    ActivationConfig,
    ClampedSwiGLU,
    GatedMLPConfig,
    GeGLU,
    MoEConfig,
    SharedExpertConfig,
    SwiGLU,
)
from model.config.mixers import (
    AttentionConfig,
    DeltaNetConfig,
    LatentAttentionConfig,
    Mamba2Config,
    MixerConfig,
    QKNormConfig,
    ShortConvConfig,
)
from model.config.network import (
    LayerConfig,
    ModelConfig,
    check_experts_per_token,
    check_masked_experts,
    hybrid_config,
    with_experts_per_token,
)
from model.config.norm import NormConfig, NormPlacement
from model.config.rotary import (
    FrequencyFactors,
    LinearScaling,
    Llama3Scaling,
    RotaryConfig,
    RotaryScaling,
    YarnScaling,
)
from model.config.routers import (
    ExpertThresholdConfig,
    FixedKConfig,
    GroupLimit,
    HashConfig,
    ReluConfig,
    RouterConfig,
    SigmoidBiasConfig,
    SoftmaxTopKConfig,
    TopKSoftmaxConfig,
    TopPConfig,
)

__all__ = [
    "ActivationConfig",
    "AttentionConfig",
    "ClampedSwiGLU",
    "DeltaNetConfig",
    "ExpertThresholdConfig",
    "FixedKConfig",
    "FrequencyFactors",
    "GatedMLPConfig",
    "GeGLU",
    "GroupLimit",
    "HashConfig",
    "LatentAttentionConfig",
    "LayerConfig",
    "LinearScaling",
    "Llama3Scaling",
    "Mamba2Config",
    "MixerConfig",
    "MoEConfig",
    "ModelConfig",
    "NormConfig",
    "NormPlacement",
    "QKNormConfig",
    "ReluConfig",
    "RotaryConfig",
    "RotaryScaling",
    "RouterConfig",
    "SharedExpertConfig",
    "ShortConvConfig",
    "SigmoidBiasConfig",
    "SoftmaxTopKConfig",
    "SwiGLU",
    "TopKSoftmaxConfig",
    "TopPConfig",
    "YarnScaling",
    "check_experts_per_token",
    "check_masked_experts",
    "hybrid_config",
    "with_experts_per_token",
]
