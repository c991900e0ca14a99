"""Granite MoE and PowerMoE (`model_type` granitemoe): Granite with MoE layers and a top-k-then-softmax router.

The experts of a layer are stored in two tensors. granitemoeshared.py is the same family with a shared expert.
"""

from model.checkpoints.rules import Rule
from model.config import LayerConfig, ModelConfig, MoEConfig, SharedExpertConfig, TopKSoftmaxConfig
from model.families import granite, standard
from model.families.standard import HfConfig


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, hidden_act="silu")
    shared_width = hf.get("shared_intermediate_size")
    moe = MoEConfig(
        TopKSoftmaxConfig(hf.get("num_experts_per_tok", 2)),
        hf.get("num_local_experts", 8),
        hf["intermediate_size"],
        SharedExpertConfig(shared_width) if shared_width else None,
    )
    return granite.decoder(hf, [LayerConfig(granite.attention(hf), moe)] * hf["num_hidden_layers"])


def rules(config: ModelConfig) -> list[Rule]:
    return standard.decoder_rules(config, {MoEConfig: _moe_rules})


def _moe_rules(ours: str, theirs: str, config: MoEConfig, hidden_size: int) -> list[Rule]:
    names = {
        f"{ours}.gate": f"{theirs}.block_sparse_moe.router.layer",
        f"{ours}.experts.gate_up": f"{theirs}.block_sparse_moe.input_linear",
        f"{ours}.experts.down": f"{theirs}.block_sparse_moe.output_linear",
    }
    if config.shared:
        names[f"{ours}.shared.gate_up"] = f"{theirs}.shared_mlp.input_linear"
        names[f"{ours}.shared.down"] = f"{theirs}.shared_mlp.output_linear"
    return [Rule(f"{target}.weight", (f"{source}.weight",)) for target, source in names.items()]
