"""The gated short convolution against the layer of transformers. See test_mixer.py for the schedules."""

import pytest
import torch
from torch import Tensor
from transformers import Lfm2Config
from transformers.models.lfm2.modeling_lfm2 import Lfm2ShortConv

from model.batch import ForwardBatch, PaddedBatch
from model.cache import CacheStorage, StateSpec
from model.config import ShortConvConfig
from model.layers.short_conv import ShortConv

HIDDEN, LENGTH = 32, 13


@pytest.fixture(params=[ShortConvConfig(3), ShortConvConfig(4, bias=True)], ids=repr)
def config(request: pytest.FixtureRequest) -> ShortConvConfig:
    found: ShortConvConfig = request.param
    return found


def random_layer(config: ShortConvConfig) -> ShortConv:
    torch.manual_seed(0)
    layer = ShortConv(config, HIDDEN)
    for parameter in layer.parameters():
        parameter.data.copy_(torch.randn_like(parameter) * 0.4)
    return layer


def oracle(layer: ShortConv) -> Lfm2ShortConv:
    """The layer of transformers with the same weights."""
    hf = Lfm2Config(
        hidden_size=HIDDEN,
        conv_L_cache=layer.config.conv_width,
        conv_bias=layer.config.bias,
        num_hidden_layers=1,
        layer_types=["conv"],
    )
    other = Lfm2ShortConv(hf, 0).eval()
    weights = {name.replace("conv_", "conv."): value for name, value in layer.state_dict().items()}
    weights["conv.weight"] = weights["conv.weight"][:, None]
    other.load_state_dict(weights)
    return other


def serve(layer: ShortConv, x_LD: Tensor, cuts: list[int]) -> Tensor:
    """One sequence, in pieces."""
    cache = CacheStorage([layer.cache_spec()], num_blocks=1, block_size=1, num_rows=1, dtype=torch.float32)
    outs = []
    for first, end in zip([0, *cuts], [*cuts, len(x_LD)], strict=True):
        batch = ForwardBatch(
            token_ids_T=torch.zeros(end - first, dtype=torch.int64),
            positions_T=torch.arange(first, end),
            query_starts_S1=torch.tensor([0, end - first], dtype=torch.int32),
            block_table_SB=torch.zeros(1, 1, dtype=torch.int32),
            state_rows_S=torch.zeros(1, dtype=torch.int32),
            cache=cache,
        )
        outs.append(layer(x_LD[first:end], batch, 0))
    return torch.cat(outs)


@torch.no_grad()
def test_equals_the_layer_of_transformers(config: ShortConvConfig) -> None:
    layer, x_BLD = random_layer(config), torch.randn(2, LENGTH, HIDDEN)
    expected = oracle(layer)(x_BLD)
    trained = layer(x_BLD.flatten(0, 1), PaddedBatch(torch.zeros(2, LENGTH, dtype=torch.int64)), 0)
    torch.testing.assert_close(trained.unflatten(0, (2, LENGTH)), expected, atol=1e-5, rtol=1e-5)
    for x_LD, y_LD in zip(x_BLD, expected, strict=True):
        torch.testing.assert_close(serve(layer, x_LD, []), y_LD, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(serve(layer, x_LD, [1, 2, 7]), y_LD, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_three_projections_have_their_places(config: ShortConvConfig) -> None:
    """Negative control: with gate and input exchanged, the result is another."""
    layer, x_LD = random_layer(config), torch.randn(LENGTH, HIDDEN)
    expected = oracle(layer)(x_LD[None])[0]
    weight = layer.in_proj.weight
    weight.copy_(torch.cat([weight[HIDDEN : 2 * HIDDEN], weight[:HIDDEN], weight[2 * HIDDEN :]]))
    assert (serve(layer, x_LD, []) - expected).abs().max() > 1e-2


def test_remembers_the_last_inputs(config: ShortConvConfig) -> None:
    assert random_layer(config).cache_spec() == StateSpec((("conv", (config.conv_width - 1, HIDDEN)),))
