"""MiniMax-M2 (`model_type` minimax_m2): rotary positions on a part of each head, sigmoid routers with a bias.

Queries and keys are normalized over all heads at once. The modules for multi-token prediction are not loaded.
"""

from dataclasses import replace

from model.checkpoints.rules import Rule
from model.config import LayerConfig, ModelConfig, MoEConfig, QKNormConfig, SigmoidBiasConfig
from model.families import mixtral, standard
from model.families.standard import HfConfig


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, hidden_act="silu", scoring_func="sigmoid", qk_norm_type="per_layer", use_qk_norm=True)
    standard.require(
        hf, shared_intermediate_size=0, use_routing_bias=True, attn_type_list=[1] * hf["num_hidden_layers"]
    )
    hf = {"head_dim": 128, "rope_theta": 5e6, **hf}
    if hf.get("rotary_dim"):
        hf = {"partial_rotary_factor": hf["rotary_dim"] / hf["head_dim"], **hf}
    attention = standard.attention({**hf, "attention_bias": False})
    attention = replace(attention, qk_norm=QKNormConfig(standard.norm(hf), per_head=False))
    router = SigmoidBiasConfig(hf.get("num_experts_per_tok", 8), epsilon=0.0)
    moe = MoEConfig(router, hf["num_local_experts"], hf["intermediate_size"])
    return standard.decoder(hf, [LayerConfig(attention, moe)] * hf["num_hidden_layers"])


def ignored(hf: HfConfig) -> tuple[str, ...]:
    return ("model.mtp.",)


def rules(config: ModelConfig) -> list[Rule]:
    return standard.decoder_rules(config, {MoEConfig: _moe_rules})


def _moe_rules(ours: str, theirs: str, config: MoEConfig, hidden_size: int) -> list[Rule]:
    bias = Rule(f"{ours}.router.bias_E", (f"{theirs}.block_sparse_moe.e_score_correction_bias",))
    return [*mixtral.moe_rules(ours, theirs, config, hidden_size), bias]
