"""FlexOlmo (`model_type` flex_olmo): the attention and the norms of OLMo 2, with routed experts in every layer."""

from model.checkpoints.rules import Rule
from model.config import LayerConfig, ModelConfig, MoEConfig, NormPlacement, SoftmaxTopKConfig
from model.families import olmo2, standard
from model.families.standard import HfConfig


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, hidden_act="silu")
    hf = {"rope_theta": 500_000.0, **hf}
    router = SoftmaxTopKConfig(hf.get("num_experts_per_tok", 5), renormalize=hf.get("norm_topk_prob", False))
    moe = MoEConfig(router, hf.get("num_experts", 7), hf["intermediate_size"])
    layer = LayerConfig(olmo2.attention(hf), moe, NormPlacement.POST)
    return standard.decoder(hf, [layer] * hf["num_hidden_layers"])


def rules(config: ModelConfig) -> list[Rule]:
    return standard.decoder_rules(config, norms=olmo2.POST_NORMS)
