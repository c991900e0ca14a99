"""OLMo 3 (`model_type` olmo3): OLMo 2 with a window in three of four layers; only the others have scaled positions."""

from dataclasses import replace

from model.checkpoints.rules import Rule
from model.config import GatedMLPConfig, LayerConfig, ModelConfig, NormPlacement
from model.families import olmo2, rope, standard
from model.families.standard import HfConfig


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, hidden_act="silu")
    hf = {"rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "sliding_window": 4096, **hf}
    full_hf = rope.of_layer_type(hf, "full_attention")
    full, sliding = olmo2.attention(full_hf), olmo2.attention(rope.of_layer_type(hf, "sliding_attention"))
    mixers = {"full_attention": full, "sliding_attention": replace(sliding, window=hf["sliding_window"])}
    dense = GatedMLPConfig(hf["intermediate_size"])
    kinds = hf.get("layer_types") or standard.every_nth_full(hf, 4)
    layers = [LayerConfig(mixer, dense, NormPlacement.POST) for mixer in standard.of_kinds(kinds, mixers)]
    return standard.decoder(full_hf, layers)


def rules(config: ModelConfig) -> list[Rule]:
    return olmo2.rules(config)
