"""The network: embedding, blocks, head. It knows layers and batches, but no checkpoint family.

Shapes: T tokens, D hidden width, V vocabulary, R rows for which logits are computed.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from model import kernels
from model.batch import TokenBatch
from model.cache import CacheSpec
from model.config import LayerConfig, ModelConfig, MoEConfig
from model.layers.delta_net import DeltaNet
from model.layers.feed_forward import build_feed_forward
from model.layers.frozen_linear import FrozenEmbedding
from model.layers.linear import GroupedLinear, Linear, RouterLinear
from model.layers.lora.linear import ActiveAdapters
from model.layers.mixer import build_mixer
from model.layers.norm import NoNorm, Norm, build_norm
from model.layers.router import Routing


class Block(nn.Module):
    """x + scale * mixer(norm(x)), then x + scale * feed_forward(norm(x)); what is added may have a norm, too.

    The last sum is left to the next block, whose norm is computed with it in one pass over memory.
    """

    def __init__(self, layer: LayerConfig, model: ModelConfig) -> None:
        super().__init__()
        self.mixer = build_mixer(layer.mixer, model.hidden_size)
        self.mixer_norm = _norm(model, layer.norms.has_pre)
        self.mixer_post_norm = _norm(model, layer.norms.has_post)
        self.scale = model.residual_scale
        self.feed_forward = None
        self.is_moe = isinstance(layer.feed_forward, MoEConfig)
        if layer.feed_forward is not None:
            self.feed_forward = build_feed_forward(layer.feed_forward, model.hidden_size)
            self.feed_forward_norm = _norm(model, layer.norms.has_pre)
            self.feed_forward_post_norm = _norm(model, layer.norms.has_post)

    def forward(
        self, x_TD: Tensor, y_TD: Tensor | None, batch: TokenBatch, layer: int, rows_R: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Routing | None]:
        """x and y, of which x + scale * y is the output, and the routing if there are experts.

        The input is given in the same way. x and y are those of the tokens `rows_R`, by default of all; the routing is
        always that of all tokens.
        """
        x_TD, normed_TD = _sum_and_norm(x_TD, y_TD, self.scale, self.mixer_norm)
        y_TD = self.mixer_post_norm(self.mixer(normed_TD, batch, layer))
        if self.feed_forward is None:
            return _rows(x_TD, rows_R), _rows(y_TD, rows_R), None
        if not self.is_moe:
            added_RD = _rows(x_TD, rows_R), _rows(y_TD, rows_R)
            x_RD, normed_RD = self.feed_forward_norm.after_adding(*added_RD, self.scale)
            return x_RD, self.feed_forward_post_norm(self.feed_forward(normed_RD)), None
        x_TD, normed_TD = self.feed_forward_norm.after_adding(x_TD, y_TD, self.scale)
        asked = (batch.experts_per_token(layer), batch.masked_experts(layer))
        y_RD, routing = self.feed_forward(normed_TD, batch.token_ids_T, *asked, rows_R)
        return _rows(x_TD, rows_R), self.feed_forward_post_norm(y_RD), routing


def _sum_and_norm(x_TD: Tensor, y_TD: Tensor | None, scale: float, norm: Norm) -> tuple[Tensor, Tensor]:
    """x + scale * y, or x without y, and its norm."""
    return (x_TD, norm(x_TD)) if y_TD is None else norm.after_adding(x_TD, y_TD, scale)


def _rows(x_TD: Tensor, rows_R: Tensor | None) -> Tensor:
    return x_TD if rows_R is None else x_TD.index_select(0, rows_R)


def _norm(model: ModelConfig, wanted: bool) -> Norm:
    return build_norm(model.hidden_size, model.norm) if wanted else NoNorm()


class CausalLM(nn.Module):
    """Tokens in, hidden states out; `logits` computes the logits of selected rows."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        # not initialized here: generating random numbers on the meta device imports modules for seconds
        self.embedding = nn.Embedding.from_pretrained(torch.empty(config.vocab_size, config.hidden_size), freeze=False)
        self.blocks = nn.ModuleList(Block(layer, config) for layer in config.layers)
        self.norm = build_norm(config.hidden_size, config.norm)
        self.head = Linear(config.hidden_size, config.vocab_size, config.head_bias)
        self.adapters: ActiveAdapters | None = None  # LoRA adapters of the layers, see loading/lora
        if config.tie_word_embeddings:
            self.tie_head()
        if not self.embedding.weight.is_meta:
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small embeddings, matrices scaled by their input width, and blocks that are the identity at first."""
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
        """Share the embedding's weights with the head, as in the training of the bundled model."""
        self.head.weight = self.embedding.weight

    @property
    def num_experts(self) -> dict[int, int]:
        """The number of experts of each MoE layer, by layer index."""
        return {layer: moe.num_experts for layer, moe in self.config.moe_layers()}

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of hidden states and matrices."""
        embedding: nn.Module = self.embedding
        return embedding.dtype if isinstance(embedding, FrozenEmbedding) else self.embedding.weight.dtype

    def cache_specs(self) -> list[CacheSpec]:
        """What each layer has to cache."""
        return [block.mixer.cache_spec() for block in self.blocks]  # type: ignore[union-attr,operator]

    def forward(self, batch: TokenBatch) -> tuple[Tensor, tuple[Routing | None, ...]]:
        """Hidden states after the final norm of the tokens in `batch.output_rows_R`, by default of all, [R, D].

        And the routing of all tokens in each layer (None without experts). Of the other tokens, the last layer computes
        no more than its mixer and its router.
        """
        if self.adapters is not None:
            self.adapters.select(batch.adapters_T)
        # adapters are selected for all tokens of the batch, so there the last layer computes them all
        early_R, late_R = (batch.output_rows_R, None) if batch.adapters_T is None else (None, batch.output_rows_R)
        x_TD, y_TD = self._embedded(batch.token_ids_T), None
        routings = []
        for layer, block in enumerate(self.blocks):
            x_TD, y_TD, routing = block(x_TD, y_TD, batch, layer, early_R if block is self.blocks[-1] else None)
            routings.append(routing)
        _, normed_TD = _sum_and_norm(x_TD, y_TD, self.config.residual_scale, self.norm)
        return _rows(normed_TD, late_R), tuple(routings)

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """The logits of the next tokens, float32 [R, V]."""
        logits_RV = self.head.in_float32(hidden_RD)
        return logits_RV if self.config.logits_scale == 1 else kernels.scaled(logits_RV, self.config.logits_scale)

    def _embedded(self, token_ids_T: Tensor) -> Tensor:
        embedding: nn.Module = self.embedding
        packed = isinstance(embedding, FrozenEmbedding)
        x_TD = embedding(token_ids_T) if packed else kernels.embedding(self.embedding.weight, token_ids_T)
        return x_TD if self.config.embedding_scale == 1 else kernels.scaled(x_TD, self.config.embedding_scale)


def cast_matrices(network: CausalLM, dtype: torch.dtype) -> CausalLM:
    """Cast matrices and embeddings to `dtype`; norms, decays, convolutions and routers stay in float32."""
    for _, module in matrices(network):
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(dtype)
    return network


def matrices(network: CausalLM) -> Iterator[tuple[str, nn.Module]]:
    """The modules, by name, whose weights may have a narrow type: linear layers and embeddings, except routers."""
    for name, module in network.named_modules():
        if isinstance(module, Linear | GroupedLinear | nn.Embedding) and not isinstance(module, RouterLinear):
            yield name, module
