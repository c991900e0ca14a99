"""DeepSeek-V2 (`model_type` deepseek_v2): latent attention; dense layers first, then MoE layers with shared experts.

The routers are softmax routers, some limited to the best groups of experts. `norm_topk_prob` is ignored, as in
transformers and in the published checkpoints. DeepSeek-V3 has the same tensors and uses the functions of this file.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from model.checkpoints.reader import CheckpointError
from model.checkpoints.rules import PairedHeads, RotaryPairs, Rule
from model.config import (
    GatedMLPConfig,
    GroupLimit,
    LatentAttentionConfig,
    LayerConfig,
    ModelConfig,
    MoEConfig,
    NormConfig,
    RouterConfig,
    SharedExpertConfig,
    SoftmaxTopKConfig,
)
from model.families import rope, standard
from model.families.standard import HfConfig

_DEFAULTS: dict[str, Any] = {
    "first_k_dense_replace": 0,
    "n_shared_experts": 2,
    "routed_scaling_factor": 1.0,
    "topk_method": "greedy",
}


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, scoring_func="softmax")
    hf = _DEFAULTS | dict(hf)
    groups = None
    if hf["topk_method"] == "group_limited_greedy":
        groups = GroupLimit(hf["n_group"], hf["topk_group"], best_of=1)
    elif hf["topk_method"] != "greedy":
        known = "known are greedy, group_limited_greedy"
        raise CheckpointError(f"topk_method {hf['topk_method']!r} is not known for deepseek_v2; {known}")
    scale = hf["routed_scaling_factor"]
    return decoder(hf, SoftmaxTopKConfig(hf["num_experts_per_tok"], renormalize=False, scale=scale, groups=groups))


def decoder(hf: HfConfig, router: RouterConfig) -> ModelConfig:
    """The whole network with this router in its MoE layers."""
    mixer, feed_forwards = latent_attention(hf), dense_then_moe(hf, router)
    return standard.decoder(hf, [LayerConfig(mixer, feed_forward) for feed_forward in feed_forwards])


def dense_then_moe(hf: HfConfig, router: RouterConfig) -> list[GatedMLPConfig | MoEConfig]:
    """The feed-forward of every layer: dense ones first, then routed experts beside a shared one."""
    width, num_dense = hf["moe_intermediate_size"], hf["first_k_dense_replace"]
    shared = SharedExpertConfig(width * hf["n_shared_experts"]) if hf["n_shared_experts"] else None
    moe, dense = MoEConfig(router, hf["n_routed_experts"], width, shared), GatedMLPConfig(hf["intermediate_size"])
    return [dense if index < num_dense else moe for index in range(hf["num_hidden_layers"])]


def latent_attention(hf: HfConfig) -> LatentAttentionConfig:
    standard.require(hf, hidden_act="silu", attention_bias=False, mlp_bias=False, rope_interleave=True)
    nope_head_dim, rotary_dim = hf.get("qk_nope_head_dim", 128), hf.get("qk_rope_head_dim", 64)
    return LatentAttentionConfig(
        num_heads=hf["num_attention_heads"],
        q_lora_rank=hf.get("q_lora_rank", 1536),
        kv_lora_rank=hf.get("kv_lora_rank", 512),
        nope_head_dim=nope_head_dim,
        value_dim=hf.get("v_head_dim", 128),
        rotary=rope.rotary(hf, rotary_dim),
        norm=NormConfig(1e-6),  # regardless of `rms_norm_eps`
        scale=(nope_head_dim + rotary_dim) ** -0.5 * _yarn_scale(hf) ** 2,
    )


def _yarn_scale(hf: HfConfig) -> float:
    """The factor that YaRN applies to queries and to keys."""
    parameters = rope.parameters(hf)
    weight, factor = parameters.get("mscale_all_dim"), parameters.get("factor")
    return rope.yarn_mscale(factor, weight) if weight and factor else 1.0


def rules(config: ModelConfig) -> list[Rule]:
    return standard.decoder_rules(config, {LatentAttentionConfig: attention_rules, MoEConfig: moe_rules})


def attention_rules(ours: str, theirs: str, config: LatentAttentionConfig, hidden_size: int) -> list[Rule]:
    theirs += ".self_attn"
    plain, width, values = config.nope_head_dim, config.rotary.dim, config.value_dim
    queries, latent = PairedHeads(config.num_heads, plain, width), PairedHeads(1, config.kv_lora_rank, width)
    kv_a, kv_b = f"{theirs}.kv_a_proj_with_mqa.weight", (f"{theirs}.kv_b_proj.weight",)
    found = [
        Rule(f"{ours}.kv_norm.weight", (f"{theirs}.kv_a_layernorm.weight",)),
        Rule(f"{ours}.key_absorb.weight", kv_b, PartOfHeads(config.num_heads, 0, plain, values, transposed=True)),
        Rule(f"{ours}.value_expand.weight", kv_b, PartOfHeads(config.num_heads, plain, values, 0)),
        Rule(f"{ours}.out_proj.weight", (f"{theirs}.o_proj.weight",)),
    ]
    if config.q_lora_rank is None:
        sources = (f"{theirs}.q_proj.weight", kv_a)
        return [*found, Rule(f"{ours}.in_proj.weight", sources, RotaryPairs((queries, latent)))]
    sources = (f"{theirs}.q_a_proj.weight", kv_a)
    return [
        *found,
        Rule(f"{ours}.in_proj.weight", sources, RotaryPairs((PairedHeads(1, config.q_lora_rank, 0), latent))),
        Rule(f"{ours}.q_norm.weight", (f"{theirs}.q_a_layernorm.weight",)),
        Rule(f"{ours}.q_proj.weight", (f"{theirs}.q_b_proj.weight",), RotaryPairs((queries,))),
    ]


def moe_rules(ours: str, theirs: str, config: MoEConfig, hidden_size: int) -> list[Rule]:
    theirs += ".mlp"
    experts, width, shared = config.num_experts, config.expert_width, config.shared
    return [
        Rule(f"{ours}.gate.weight", (f"{theirs}.gate.weight",)),
        *standard.expert_rules(
            f"{ours}.experts", f"{theirs}.experts", experts=experts, width=width, hidden_size=hidden_size
        ),
        *(standard.gated_mlp_rules(f"{ours}.shared", f"{theirs}.shared_experts", shared.width) if shared else []),
    ]


@dataclass(frozen=True, slots=True)
class PartOfHeads:
    """Some rows of each head of a tensor [heads * O, I]: [heads, `rows`, I], or transposed.

    `split` sets the other rows to zero: the sum over all rules that share a source is the whole tensor.
    """

    heads: int
    before: int
    rows: int
    after: int
    transposed: bool = False

    def join(self, tensors: Iterable[Tensor]) -> Tensor:
        (tensor,) = tensors
        part = tensor.unflatten(0, (self.heads, -1))[:, self.before : self.before + self.rows]
        return part.mT if self.transposed else part

    def split(self, tensor: Tensor) -> list[Tensor]:
        part = tensor.mT if self.transposed else tensor
        whole = part.new_zeros(self.heads, self.before + self.rows + self.after, part.shape[-1])
        whole[:, self.before : self.before + self.rows] = part
        return [whole.flatten(0, 1)]
