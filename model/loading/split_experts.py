"""`routelm split-experts`: turns the feed-forwards of a dense checkpoint into experts, without training.

The neurons of a layer are clustered by which of them are active for the same tokens of a text (as MoEfication does,
arXiv 2110.01786); a cluster becomes an expert. A router is fitted by least squares to the size of each expert's output.
Its logits are made tiny: the softmax then gives every expert nearly the same weight, which the down-projections undo,
so all experts together equal the dense layer, and fewer are the sum of those with the highest logits.

Llama, Mistral and Qwen2 become qwen2_moe, in which the most active neurons are the shared expert; Qwen3 becomes
qwen3_moe, which has none.

Shapes: T tokens, D hidden width, F neurons of a layer, E experts, N neurons of an expert.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from model.batch import PaddedBatch
from model.checkpoints.reader import CheckpointError
from model.checkpoints.safetensors_files import save_weights
from model.config import AttentionConfig, ModelConfig
from model.families import family_of
from model.files import Directory
from model.layers.feed_forward import GatedMLP
from model.loading.load import describe, load_network
from model.loading.quantize_checkpoint import copy_companions
from model.network import CausalLM

TARGETS = {"llama": "qwen2_moe", "mistral": "qwen2_moe", "qwen2": "qwen2_moe", "qwen3": "qwen3_moe"}
ROUNDS = 10  # of clustering
RIDGE = 1e-2  # of the least squares, relative to the mean square of the inputs
LOGIT_SIZE = 1e-4  # the largest logit: weights differ from each other by no more than this


@dataclass(frozen=True, slots=True)
class Split:
    """The neurons of one layer by expert [E, N], those of the shared expert [N], and the router [E, D]."""

    experts_EN: Tensor
    shared_N: Tensor | None
    router_ED: Tensor


def split_experts(
    source: Directory,
    target: Path,
    token_ids: Sequence[int],
    num_parts: int,
    experts_per_token: int | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> int:
    """Write a checkpoint with experts to `target`, and return how many a token can have.

    `num_parts` is the number of equal parts of a feed-forward, of which one is the shared expert if there is one.
    `token_ids` are those of a text that is typical for the use. `experts_per_token` defaults to all. Raises
    CheckpointError where the family of `source` is no dense one that can be split, ValueError where the numbers do not
    fit.
    """
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"{target} is not empty: name a new directory")
    described = describe(source, torch.float32)
    moe_config = _moe_config(described.hf_config, described.network.config, num_parts, experts_per_token)
    dense = load_network(source, torch.float32, freeze=False)
    family = family_of(moe_config)
    network = CausalLM(family.config_from_hf(moe_config))
    if network.config.tie_word_embeddings:
        network.tie_head()
    _fill(network, dense, torch.tensor(token_ids), num_parts)
    target.mkdir(parents=True, exist_ok=True)
    rules = family.rules(network.config)
    save_weights(network, rules, target, {rule.target: dtype for rule in rules if ".gate." not in rule.target})
    copy_companions(source, target)
    (target / "config.json").write_text(json.dumps(moe_config, indent=2) + "\n", encoding="utf-8")
    return int(moe_config["num_experts"])


def _moe_config(hf: Mapping[str, Any], dense: ModelConfig, parts: int, experts_per_token: int | None) -> dict[str, Any]:
    model_type = hf["model_type"]
    if model_type not in TARGETS:
        raise CheckpointError(f"model_type {model_type!r} cannot be split; these can: {', '.join(TARGETS)}")
    mixers = [layer.mixer for layer in dense.layers if isinstance(layer.mixer, AttentionConfig)]
    if any(mixer.window is not None or mixer.output_bias for mixer in mixers):
        raise CheckpointError("layers with a window or with a bias after attention cannot be split")
    width, has_shared = hf["intermediate_size"], TARGETS[model_type] == "qwen2_moe"
    if parts < 2 or width % parts:
        raise ValueError(f"{parts} parts of a feed-forward of {width} neurons: give a divisor of that, from 2")
    experts = parts - has_shared
    chosen = experts if experts_per_token is None else experts_per_token
    if not 1 <= chosen <= experts:
        raise ValueError(f"{chosen} experts per token of {experts}: give 1 to {experts}")
    kept = {key: value for key, value in hf.items() if key not in ("architectures", "quantization_config")}
    own = {
        "architectures": ["Qwen2MoeForCausalLM" if has_shared else "Qwen3MoeForCausalLM"],
        "model_type": TARGETS[model_type],
        "head_dim": mixers[0].head_dim,
        "num_experts": experts,
        "num_experts_per_tok": chosen,
        "moe_intermediate_size": width // parts,
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "use_sliding_window": False,
        "qkv_bias": mixers[0].input_bias,
    }
    return kept | own | ({"shared_expert_intermediate_size": width // parts} if has_shared else {})


@torch.no_grad()
def _fill(network: CausalLM, dense: CausalLM, ids_T: Tensor, parts: int) -> None:
    plain = dense.state_dict()
    own = network.state_dict()
    for name, tensor in own.items():
        if ".feed_forward." not in name:
            tensor.copy_(plain[name])
    for index, (mlp, x_TD) in enumerate(_inputs(dense, ids_T)):
        prefix = f"blocks.{index}.feed_forward"
        has_shared = f"{prefix}.shared.down.weight" in own
        split = _split(mlp, x_TD, parts, has_shared)
        for name, tensor in _weights(mlp, split).items():
            own[f"{prefix}.{name}"].copy_(tensor)


def _inputs(dense: CausalLM, ids_T: Tensor) -> Iterator[tuple[GatedMLP, Tensor]]:
    """Each feed-forward with its inputs [T, D] for a text."""
    mlps = [module for module in dense.modules() if isinstance(module, GatedMLP)]
    inputs: list[Tensor] = []
    hooks = [mlp.register_forward_pre_hook(lambda module, given: inputs.append(given[0])) for mlp in mlps]
    dense(PaddedBatch(ids_T[None]))
    for hook in hooks:
        hook.remove()
    yield from zip(mlps, inputs, strict=True)


def _split(mlp: GatedMLP, x_TD: Tensor, parts: int, has_shared: bool) -> Split:
    gate_TF, up_TF = (x_TD @ mlp.gate_up.weight.T).chunk(2, dim=1)
    sizes_TF = (silu(gate_TF) * up_TF).abs() * mlp.down.weight.norm(dim=0)  # how much each neuron adds to the output
    by_activity_F = sizes_TF.mean(0).argsort(descending=True, stable=True)
    width = len(by_activity_F) // parts
    shared_N = by_activity_F[:width] if has_shared else None
    routed = by_activity_F[width:] if has_shared else by_activity_F
    labels = balanced_clusters(sizes_TF[:, routed].T, parts - has_shared)
    experts_EN = torch.stack([routed[labels == expert] for expert in range(parts - has_shared)])
    outputs_TE = torch.stack([sizes_TF[:, neurons_N].sum(1) for neurons_N in experts_EN], dim=1)
    return Split(experts_EN, shared_N, _fitted_router(x_TD, outputs_TE))


def balanced_clusters(points_FT: Tensor, clusters: int) -> Tensor:
    """The cluster [F] of each point, by k-means over directions in which all clusters get the same number of points."""
    points_FT = torch.nn.functional.normalize(points_FT, dim=1)
    centres_ET = points_FT[:: len(points_FT) // clusters][:clusters]
    labels_F = torch.zeros(len(points_FT), dtype=torch.long)
    for _ in range(ROUNDS):
        labels_F = _assigned(points_FT @ centres_ET.T)
        sums_ET = torch.zeros_like(centres_ET).index_add_(0, labels_F, points_FT)
        centres_ET = torch.nn.functional.normalize(sums_ET, dim=1)
    return labels_F


def _assigned(similarity_FE: Tensor) -> Tensor:
    """The nearest cluster that has room, for the pairs in the order of their similarity."""
    points, clusters = similarity_FE.shape
    labels, room = [-1] * points, [points // clusters] * clusters
    for pair in similarity_FE.flatten().argsort(descending=True, stable=True).tolist():
        point, cluster = divmod(pair, clusters)
        if labels[point] < 0 and room[cluster]:
            labels[point] = cluster
            room[cluster] -= 1
    return torch.tensor(labels)


def _fitted_router(x_TD: Tensor, outputs_TE: Tensor) -> Tensor:
    """Rows [E, D] whose products with an input tell how large each expert's output is, as well as they linearly can."""
    centred_TE = outputs_TE - outputs_TE.mean(0)
    square_DD = x_TD.T @ x_TD
    square_DD.diagonal().add_(RIDGE * square_DD.diagonal().mean())
    router_ED = torch.linalg.solve(square_DD, x_TD.T @ centred_TE).T
    return router_ED * (LOGIT_SIZE / (x_TD @ router_ED.T).abs().max().clamp(min=1e-12))


def _weights(mlp: GatedMLP, split: Split) -> dict[str, Tensor]:
    """The parameters of the MoE layer. A shared expert has a gate of zero, whose sigmoid halves its output."""
    gate_FD, up_FD = mlp.gate_up.weight.chunk(2)
    down_FD, count = mlp.down.weight.T, len(split.experts_EN)
    found = {
        "gate.weight": split.router_ED,
        "experts.gate_up.weight": torch.cat([gate_FD[split.experts_EN], up_FD[split.experts_EN]], dim=1),
        "experts.down.weight": count * down_FD[split.experts_EN].mT,
    }
    if split.shared_N is None:
        return found
    found["gate.weight"] = torch.cat([split.router_ED, torch.zeros(1, split.router_ED.shape[1])])
    found["shared.gate_up.weight"] = torch.cat([gate_FD[split.shared_N], up_FD[split.shared_N]])
    found["shared.down.weight"] = 2 * down_FD[split.shared_N].T
    return found
