"""LFM2 with experts (`model_type` lfm2_moe): dense layers first, then sigmoid routers with a load-balancing bias."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.checkpoints.rules import Rule
from model.config import GatedMLPConfig, ModelConfig, MoEConfig, SigmoidBiasConfig
from model.families import lfm2, standard
from model.families.standard import HfConfig


def config_from_hf(hf: HfConfig) -> ModelConfig:
    dense, moe = GatedMLPConfig(hf["intermediate_size"]), _moe(hf)
    num_dense = hf.get("num_dense_layers", 2)
    return lfm2.decoder(hf, [dense if index < num_dense else moe for index in range(hf["num_hidden_layers"])])


def _moe(hf: HfConfig) -> MoEConfig:
    router = SigmoidBiasConfig(
        hf["num_experts_per_tok"],
        hf.get("norm_topk_prob", True),
        hf.get("routed_scaling_factor", 1.0),
        epsilon=1e-6,
    )
    if not hf.get("use_expert_bias", True):
        router = replace(router, bias_rate=0.0)  # it stays zero
    return MoEConfig(router, hf["num_experts"], hf["moe_intermediate_size"])


def rules(config: ModelConfig) -> list[Rule]:
    return lfm2.rules(config, _moe_rules)


def _moe_rules(ours: str, theirs: str, config: MoEConfig, hidden_size: int) -> list[Rule]:
    theirs, experts = f"{theirs}.feed_forward", config.num_experts
    assert isinstance(config.router, SigmoidBiasConfig)
    bias = Rule(f"{ours}.router.bias_E", (f"{theirs}.expert_bias",))
    return [
        Rule(f"{ours}.gate.weight", (f"{theirs}.gate.weight",)),
        bias if config.router.bias_rate else Rule(bias.target, (), Zeros(experts)),
        *standard.expert_rules(
            f"{ours}.experts",
            f"{theirs}.experts",
            experts=experts,
            width=config.expert_width,
            hidden_size=hidden_size,
            names=lfm2.FEED_FORWARD_NAMES,
        ),
    ]


@dataclass(frozen=True, slots=True)
class Zeros:
    """A parameter of zeros that the checkpoint does not store."""

    size: int

    def join(self, tensors: Iterable[Tensor]) -> Tensor:
        assert not list(tensors)
        return torch.zeros(self.size)

    def split(self, tensor: Tensor) -> list[Tensor]:
        return []
