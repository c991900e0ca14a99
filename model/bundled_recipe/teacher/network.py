"""The network of the teacher: a plain Llama, and a cache for continuing one prompt in many rows.

Shapes: B rows, L positions, D hidden width, H heads, G key/value heads, W width of a head.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# layer, queries, keys and values [..., L, heads * W] -> the heads' outputs [..., L, H * W]
Attention = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class Llama(nn.Module):
    """Weights by their names in a checkpoint; the head is the embedding."""

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.num_layers: int = config["num_hidden_layers"]
        self.num_heads: int = config["num_attention_heads"]
        self.num_kv_heads: int = config["num_key_value_heads"]
        self.head_width: int = config.get("head_dim") or config["hidden_size"] // self.num_heads
        rotary = config.get("rope_parameters") or config
        self._epsilon, self._theta = float(config["rms_norm_eps"]), float(rotary["rope_theta"])
        self._weights = nn.ParameterDict({_key(name): nn.Parameter(tensor.float()) for name, tensor in weights.items()})

    def forward(self, ids: Tensor, attention: Attention) -> Tensor:
        """Hidden states of the ids, of the same shape and D."""
        x = functional.embedding(ids, self._weight("model.embed_tokens.weight"))
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.bfloat16)
        for layer in range(self.num_layers):
            x = self._block(f"model.layers.{layer}.", x, lambda *qkv, layer=layer: attention(layer, *qkv))
        return self._norm(x, "model.norm.weight")

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32."""
        return functional.linear(hidden, self._weight("model.embed_tokens.weight")).float()

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rotary embedding of [..., L, W] at positions [L], or of [..., W] at one position."""
        frequency = self._theta ** (-torch.arange(0, self.head_width, 2, device=x.device) / self.head_width)
        angle = (positions[..., None] * frequency).repeat(*[1] * positions.dim(), 2)
        first, second = x.chunk(2, -1)
        return x * angle.cos().to(x.dtype) + torch.cat([-second, first], -1) * angle.sin().to(x.dtype)

    def _block(self, prefix: str, x: Tensor, attention: Callable[..., Tensor]) -> Tensor:
        h = self._norm(x, prefix + "input_layernorm.weight")
        qkv = (self._linear(h, f"{prefix}self_attn.{name}_proj.weight") for name in "qkv")
        x = x + self._linear(attention(*qkv), prefix + "self_attn.o_proj.weight")
        h = self._norm(x, prefix + "post_attention_layernorm.weight")
        gate, up = (self._linear(h, f"{prefix}mlp.{name}_proj.weight") for name in ("gate", "up"))
        return x + self._linear(functional.silu(gate) * up, prefix + "mlp.down_proj.weight")

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return functional.rms_norm(x, x.shape[-1:], self._weight(name).to(x.dtype), self._epsilon)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return functional.linear(x, self._weight(name))

    def _weight(self, name: str) -> Tensor:
        return self._weights[_key(name)]


def _key(name: str) -> str:
    return name.replace(".", "/")  # a ParameterDict allows no dots


class WholeRows:
    """Causal attention within rows [B, L]. `keep` is given the keys and values [B, G, L, W] of each layer."""

    def __init__(self, network: Llama, keep: Callable[[int, Tensor, Tensor], None] | None = None) -> None:
        self._network, self._keep = network, keep

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        network, positions_L = self._network, torch.arange(q.shape[1], device=q.device)
        q_BHLW = network.rotate(self._heads(q, network.num_heads), positions_L)
        k_BGLW = network.rotate(self._heads(k, network.num_kv_heads), positions_L)
        v_BGLW = self._heads(v, network.num_kv_heads)
        if self._keep is not None:
            self._keep(layer, k_BGLW, v_BGLW)
        group = network.num_heads // network.num_kv_heads
        k_BHLW, v_BHLW = (x_BGLW.repeat_interleave(group, 1) for x_BGLW in (k_BGLW, v_BGLW))
        y_BHLW = functional.scaled_dot_product_attention(q_BHLW, k_BHLW, v_BHLW, is_causal=True)
        return y_BHLW.transpose(1, 2).flatten(2)

    def _heads(self, x_BLC: Tensor, heads: int) -> Tensor:
        return x_BLC.unflatten(-1, (heads, self._network.head_width)).transpose(1, 2)


class Continuations:
    """Keys and values of B rows that continue one prompt, a token at a time."""

    def __init__(self, network: Llama, rows: int, capacity: int, like: Tensor) -> None:
        """`capacity`: positions of a row. Device and type are those of `like`."""
        shape = (rows, network.num_kv_heads, capacity, network.head_width)
        self._network, self._position = network, 0
        self._keys = [like.new_empty(shape) for _ in range(network.num_layers)]
        self._values = [like.new_empty(shape) for _ in range(network.num_layers)]

    def begin(self, prompt_1L: Tensor) -> Tensor:
        """Read the prompt, once for all rows; returns the hidden state [B, D] after it."""
        self._position = prompt_1L.shape[1]
        hidden_1LD: Tensor = self._network(prompt_1L, WholeRows(self._network, self._fill))
        return hidden_1LD[:, -1].expand(len(self._keys[0]), -1)

    def append(self, ids_B: Tensor) -> Tensor:
        """Read one more token of each row; returns the hidden states [B, D]."""
        hidden_BD: Tensor = self._network(ids_B, self._attention)
        self._position += 1
        return hidden_BD

    def keep_rows(self, rows_N: Tensor) -> None:
        """Forget all other rows."""
        for cached in (self._keys, self._values):
            for layer, tensor in enumerate(cached):
                cached[layer] = tensor[rows_N]

    def _fill(self, layer: int, k_1GLW: Tensor, v_1GLW: Tensor) -> None:
        self._keys[layer][:, :, : self._position] = k_1GLW
        self._values[layer][:, :, : self._position] = v_1GLW

    def _attention(self, layer: int, q_BC: Tensor, k_BC: Tensor, v_BC: Tensor) -> Tensor:
        network, place = self._network, torch.tensor(self._position, device=q_BC.device)
        groups, width = network.num_kv_heads, network.head_width
        q_BGRW = network.rotate(q_BC.unflatten(-1, (groups, -1, width)), place)  # R queries to a key
        keys, values = self._keys[layer], self._values[layer]
        keys[:, :, self._position] = network.rotate(k_BC.unflatten(-1, (groups, width)), place)
        values[:, :, self._position] = v_BC.unflatten(-1, (groups, width))
        read = slice(self._position + 1)
        scores = (q_BGRW @ keys[:, :, read].mT).float() * width**-0.5
        return (scores.softmax(-1).to(q_BC.dtype) @ values[:, :, read]).flatten(1)
