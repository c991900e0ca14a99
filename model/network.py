"""The network: embeddings, blocks, a head. It knows layers and batches, and no family's names.

Shapes: T tokens, D hidden width, V vocabulary, R rows whose logits are wanted.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from model import kernels
from model.batch import TokenBatch
from model.cache import CacheSpec
from model.config import LayerConfig, ModelConfig
from model.layers.delta_net import DeltaNet
from model.layers.feed_forward import Routed, build_feed_forward
from model.layers.frozen_linear import PackedEmbedding
from model.layers.linear import GroupedLinear, Linear, RouterLinear
from model.layers.mixer import build_mixer
from model.layers.norm import RMSNorm
from model.layers.router import Routing


class Block(nn.Module):
    """x + mixer(norm(x)), then x + feed_forward(norm(x)); what is added may be scaled."""

    def __init__(self, layer: LayerConfig, model: ModelConfig) -> None:
        super().__init__()
        self.mixer = build_mixer(layer.mixer, model.hidden_size)
        self.feed_forward = build_feed_forward(layer.feed_forward, model.hidden_size)
        self.mixer_norm = RMSNorm(model.hidden_size, model.norm)
        self.feed_forward_norm = RMSNorm(model.hidden_size, model.norm)
        self.scale = model.residual_scale

    def forward(self, x_TD: Tensor, batch: TokenBatch, layer: int) -> tuple[Tensor, Routing | None]:
        mixed_TD = self.mixer(self.mixer_norm(x_TD), batch, layer)
        x_TD, normed_TD = self.feed_forward_norm.after_adding(x_TD, mixed_TD, self.scale)
        if isinstance(self.feed_forward, Routed):
            y_TD, routing = self.feed_forward(normed_TD, batch.token_ids_T)
            return self._add(x_TD, y_TD), routing
        return self._add(x_TD, self.feed_forward(normed_TD)), None

    def _add(self, x_TD: Tensor, y_TD: Tensor) -> Tensor:
        return kernels.add_scaled(x_TD, y_TD, self.scale)


class CausalLM(nn.Module):
    """Tokens in, hidden states out; `logits` turns chosen rows into scores over the vocabulary."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        # not filled here: on the meta device, random numbers cost seconds of imports
        self.embedding = nn.Embedding.from_pretrained(torch.empty(config.vocab_size, config.hidden_size), freeze=False)
        self.blocks = nn.ModuleList(Block(layer, config) for layer in config.layers)
        self.norm = RMSNorm(config.hidden_size, config.norm)
        self.head = Linear(config.hidden_size, config.vocab_size)
        if config.tied_head:
            self.tie_head()
        if not self.embedding.weight.is_meta:
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small embeddings, matrices scaled by their input width, and blocks that start as the identity."""
        nn.init.normal_(self.embedding.weight, std=0.02)
        for name, module in self.named_modules():
            if isinstance(module, Linear | GroupedLinear):
                std = 1 / math.sqrt(module.weight.shape[-1])
                nn.init.trunc_normal_(module.weight, std=std, a=-3 * std, b=3 * std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
                if name.endswith(("out_proj", "down")):
                    nn.init.zeros_(module.weight)
                if isinstance(module, RouterLinear):
                    nn.init.normal_(module.weight, std=0.02)
            elif isinstance(module, DeltaNet):
                nn.init.uniform_(module.conv_weight, -0.5, 0.5)
        nn.init.normal_(self.head.weight, std=0.02)

    def tie_head(self) -> None:
        """Let the head share the embedding's weights, as the bundled model is trained."""
        self.head.weight = self.embedding.weight

    def route_to(self, experts_per_token: int) -> None:
        """Send every token to that many experts in each routed layer, instead of as many as the config says.

        Raises ValueError where a layer has fewer, and for a network without experts.
        """
        routed = [block.feed_forward for block in self.blocks if isinstance(block.feed_forward, Routed)]
        fewest = min(self.num_experts.values(), default=0)
        if not 1 <= experts_per_token <= fewest:
            allowed = f"1 to {fewest}" if routed else "a model with experts"
            raise ValueError(f"experts_per_token is {experts_per_token}: this takes {allowed}")
        for feed_forward in routed:
            feed_forward.router.k = experts_per_token

    @property
    def num_experts(self) -> dict[int, int]:
        """How many experts each routed layer has, by the layer's number."""
        routed = ((layer, block.feed_forward) for layer, block in enumerate(self.blocks))
        return {layer: feed.config.num_experts for layer, feed in routed if isinstance(feed, Routed)}

    @property
    def dtype(self) -> torch.dtype:
        """The type of hidden states and matrices."""
        embedding: nn.Module = self.embedding
        return embedding.dtype if isinstance(embedding, PackedEmbedding) else self.embedding.weight.dtype

    def cache_specs(self) -> list[CacheSpec]:
        """What each layer must remember of a sequence."""
        return [block.mixer.cache_spec() for block in self.blocks]  # type: ignore[union-attr,operator]

    def forward(self, batch: TokenBatch) -> tuple[Tensor, tuple[Routing | None, ...]]:
        """Hidden states [T, D] after the final norm, and each layer's routing."""
        x_TD = self._embedded(batch.token_ids_T)
        routings = []
        for layer, block in enumerate(self.blocks):
            x_TD, routing = block(x_TD, batch, layer)
            routings.append(routing)
        return self.norm(x_TD), tuple(routings)

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """Scores over the vocabulary, float32 [R, V]."""
        scores_RV = self.head.in_float32(hidden_RD)
        return scores_RV if self.config.logits_scale == 1 else kernels.scaled(scores_RV, self.config.logits_scale)

    def _embedded(self, token_ids_T: Tensor) -> Tensor:
        embedding: nn.Module = self.embedding
        packed = isinstance(embedding, PackedEmbedding)
        x_TD = embedding(token_ids_T) if packed else kernels.rows_of(self.embedding.weight, token_ids_T)
        return x_TD if self.config.embedding_scale == 1 else kernels.scaled(x_TD, self.config.embedding_scale)


def cast_matrices(network: CausalLM, dtype: torch.dtype) -> CausalLM:
    """Give matrices and embeddings that type; norms, decays, convolutions and routers stay in float32."""
    for _, module in matrices(network):
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(dtype)
    return network


def matrices(network: CausalLM) -> Iterator[tuple[str, nn.Module]]:
    """By name, the modules whose numbers may be narrow: all products and embeddings but the routers'."""
    for name, module in network.named_modules():
        if isinstance(module, Linear | GroupedLinear | nn.Embedding) and not isinstance(module, RouterLinear):
            yield name, module
