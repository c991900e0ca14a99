"""Latent attention: the absorbed form equals keys and values computed for every head, and remembers far less."""

import pytest
import torch
from torch import Tensor

from model import kernels
from model.batch import ForwardBatch, PaddedBatch
from model.cache import CacheStorage, LatentSpec
from model.config import LatentAttentionConfig, NormConfig, RotaryConfig
from model.layers.latent_attention import LatentAttention
from model.layers.linear import GroupedLinear, Linear
from model.quantization import plain_scheme

HIDDEN, LENGTH, BLOCK = 32, 23, 4
STRAIGHT = LatentAttentionConfig(3, None, 16, 8, 24, RotaryConfig(8), NormConfig(), scale=0.3)
CONFIGS = [STRAIGHT, LatentAttentionConfig(4, 24, 32, 16, 16, RotaryConfig(16), NormConfig(), scale=0.2)]


def random_layer(config: LatentAttentionConfig) -> LatentAttention:
    torch.manual_seed(0)
    layer = LatentAttention(config, HIDDEN)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return layer


def packed(layer: LatentAttention, dtype: torch.dtype) -> LatentAttention:
    """As it is served."""
    for name, child in list(layer.named_children()):
        if isinstance(child, Linear):
            setattr(layer, name, plain_scheme(dtype).linear(child.weight.to(dtype)))
        elif isinstance(child, GroupedLinear):
            setattr(layer, name, plain_scheme(dtype).grouped(child.weight.to(dtype)))
    return layer


def some_input(rows: int = 1) -> Tensor:
    return torch.randn(rows * LENGTH, HIDDEN, generator=torch.Generator().manual_seed(1))


def expanded(layer: LatentAttention, x_LD: Tensor) -> Tensor:
    """The definition: every head's keys and values are computed, and each head attends by itself. One sequence."""
    config = layer.config
    q, c_LR, shared_LW = layer.in_proj(x_LD).split(layer.widths, dim=-1)
    if layer.q_norm is not None and layer.q_proj is not None:
        q = layer.q_proj(layer.q_norm(q))
    c_LR, tables = layer.kv_norm(c_LR), layer.rotary.tables(torch.arange(len(x_LD)))
    shared_LW = kernels.rotate(shared_LW[:, None], *tables)[:, 0]
    outs = []
    for head, q_LK in enumerate(q.unflatten(-1, (config.num_heads, -1)).unbind(1)):
        plain_LP, rotary_LW = q_LK.split([config.nope_head_dim, config.rotary.dim], dim=-1)
        rotary_LW = kernels.rotate(rotary_LW[:, None], *tables)[:, 0]
        key_LP, value_LV = c_LR @ layer.key_absorb.weight[head], c_LR @ layer.value_expand.weight[head].T
        scores_LL = (plain_LP @ key_LP.T + rotary_LW @ shared_LW.T) * config.scale
        future = torch.ones_like(scores_LL, dtype=torch.bool).triu(1)
        outs.append(scores_LL.masked_fill(future, float("-inf")).softmax(-1) @ value_LV)
    result: Tensor = layer.out_proj(torch.cat(outs, dim=-1))
    return result


def storage(layer: LatentAttention, sequences: int, dtype: torch.dtype) -> CacheStorage:
    blocks = sequences * -(-LENGTH // BLOCK)
    return CacheStorage([layer.cache_spec()], num_blocks=blocks, block_size=BLOCK, num_rows=1, dtype=dtype)


def piece(cache: CacheStorage, spans: list[tuple[int, int, int]]) -> ForwardBatch:
    """A step of (sequence, first position, end) spans; sequence s owns a run of blocks."""
    blocks, starts = -(-LENGTH // BLOCK), [0]
    for _, first, end in spans:
        starts.append(starts[-1] + end - first)
    return ForwardBatch(
        token_ids_T=torch.zeros(starts[-1], dtype=torch.int64),
        positions_T=torch.cat([torch.arange(first, end) for _, first, end in spans]),
        query_starts_S1=torch.tensor(starts, dtype=torch.int32),
        block_table_SB=torch.tensor([[s * blocks + i for i in range(blocks)] for s, _, _ in spans], dtype=torch.int32),
        state_rows_S=torch.zeros(len(spans), dtype=torch.int32),
        cache=cache,
    )


@pytest.mark.parametrize("config", CONFIGS)
@torch.no_grad()
def test_absorbed_equals_expanded(config: LatentAttentionConfig) -> None:
    layer = random_layer(config)
    x_TD = some_input(rows=2)
    out_TD = layer(x_TD, PaddedBatch(torch.zeros(2, LENGTH, dtype=torch.int64)), 0)
    expected = torch.cat([expanded(layer, x_LD) for x_LD in x_TD.chunk(2)])
    torch.testing.assert_close(out_TD, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("config", CONFIGS)
@torch.no_grad()
def test_what_is_remembered_is_enough(config: LatentAttentionConfig) -> None:
    layer = random_layer(config)
    x_LD = some_input()
    cache = storage(layer, 1, torch.float32)
    out_LD = torch.cat([layer(x_LD[a:b], piece(cache, [(0, a, b)]), 0) for a, b in ((0, 9), (9, 10), (10, LENGTH))])
    torch.testing.assert_close(out_LD, expanded(layer, x_LD), atol=2e-5, rtol=2e-5)


def test_one_vector_per_token_whatever_the_heads() -> None:
    layer = random_layer(STRAIGHT)
    assert layer.cache_spec() == LatentSpec(key_dim=24, value_dim=16)
    assert layer.cache_spec().bytes_per_token(torch.bfloat16) == 48  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", CONFIGS)
@torch.inference_mode()
def test_alone_batched_and_in_pieces_are_the_same_bits(config: LatentAttentionConfig, dtype: torch.dtype) -> None:
    layer = packed(random_layer(config), dtype)
    x, other = some_input().to(dtype), some_input().flip(0).to(dtype)
    alone = layer(x, piece(storage(layer, 1, dtype), [(0, 0, LENGTH)]), 0)
    cache = storage(layer, 2, dtype)
    layer(torch.cat([other[:11], x[:5]]), piece(cache, [(0, 0, 11), (1, 0, 5)]), 0)
    rest = layer(torch.cat([x[5:], other[11:13]]), piece(cache, [(1, 5, LENGTH), (0, 11, 13)]), 0)
    assert torch.equal(rest[: LENGTH - 5], alone[5:])


@torch.inference_mode()
def test_the_past_matters() -> None:
    """Negative control: tokens that saw only themselves would pass the test above."""
    layer = packed(random_layer(STRAIGHT), torch.float32)
    x = some_input()
    whole = layer(x, piece(storage(layer, 1, torch.float32), [(0, 0, LENGTH)]), 0)
    changed = torch.cat([x[:1] * 2, x[1:]])
    assert not torch.equal(layer(changed, piece(storage(layer, 1, torch.float32), [(0, 0, LENGTH)]), 0)[1:], whole[1:])


@pytest.mark.parametrize("config", CONFIGS)
def test_every_parameter_learns(config: LatentAttentionConfig) -> None:
    layer = random_layer(config)
    layer(some_input(), PaddedBatch(torch.zeros(1, LENGTH, dtype=torch.int64)), 0).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
