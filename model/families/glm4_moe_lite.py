"""GLM-4.7-Flash (`model_type` glm4_moe_lite): the network of DeepSeek-V3; `mlp_layer_types` may say what is dense."""

from model.config import ModelConfig
from model.families import deepseek_v2, deepseek_v3, glm4_moe, standard
from model.families.deepseek_v3 import ignored, rules
from model.families.standard import HfConfig

__all__ = ["config_from_hf", "ignored", "rules"]


def config_from_hf(hf: HfConfig) -> ModelConfig:
    kinds = hf.get("mlp_layer_types") or []
    num_dense = kinds.index("sparse") if "sparse" in kinds else len(kinds) or 1
    standard.require(hf, mlp_layer_types=["dense"] * num_dense + ["sparse"] * (hf["num_hidden_layers"] - num_dense))
    own = {"routed_scaling_factor": 1.8, "num_experts_per_tok": 4, "q_lora_rank": 768, "qk_nope_head_dim": 192}
    hf = glm4_moe.DEFAULTS | own | {"v_head_dim": 256} | dict(hf) | {"first_k_dense_replace": num_dense}
    return deepseek_v2.decoder(hf, deepseek_v3.router(hf))
