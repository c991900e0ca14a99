"""Mamba-2 against the layer of transformers, and what it promises to the cache. See test_mixer.py for the schedules."""

import pytest
import torch
from torch import Tensor
from transformers import GraniteMoeHybridConfig
from transformers.models.granitemoehybrid.modeling_granitemoehybrid import GraniteMoeHybridMambaLayer

from model.batch import ForwardBatch, PaddedBatch
from model.cache import CacheStorage, StateSpec
from model.config import Mamba2Config
from model.layers.mamba2 import Mamba2

HIDDEN, LENGTH = 32, 21
CONFIGS = {
    "one group": Mamba2Config(4, 16, 1, 16),
    "groups, biases, limits": Mamba2Config(4, 16, 2, 32, 3, projection_bias=True, time_step_limit=(0.3, 1.5)),
    "no bias, odd widths": Mamba2Config(8, 8, 1, 24, conv_bias=False),
}


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> Mamba2Config:
    return CONFIGS[request.param]


def random_layer(config: Mamba2Config) -> Mamba2:
    """A layer in which every parameter has a say."""
    torch.manual_seed(0)
    layer = Mamba2(config, HIDDEN)
    for parameter in layer.parameters():
        parameter.data.copy_(torch.randn_like(parameter) * 0.4)
    return layer


def oracle(layer: Mamba2) -> GraniteMoeHybridMambaLayer:
    """The layer of transformers with the same weights."""
    config = layer.config
    hf = GraniteMoeHybridConfig(
        hidden_size=HIDDEN,
        mamba_expand=config.width // HIDDEN,
        mamba_n_heads=config.num_heads,
        mamba_d_head=config.head_dim,
        mamba_n_groups=config.num_groups,
        mamba_d_state=config.state_dim,
        mamba_d_conv=config.conv_width,
        mamba_conv_bias=config.conv_bias,
        mamba_proj_bias=config.projection_bias,
        mamba_chunk_size=8,
        time_step_limit=config.time_step_limit,
        rms_norm_eps=config.norm_eps,
        num_hidden_layers=1,
        layer_types=["mamba"],
    )
    other = GraniteMoeHybridMambaLayer(hf, 0).eval()
    weights = {name.replace("conv_", "conv1d."): value for name, value in layer.state_dict().items()}
    weights["conv1d.weight"] = weights["conv1d.weight"][:, None]
    other.load_state_dict(weights)
    return other


def serve(layer: Mamba2, x_LD: Tensor, cuts: list[int]) -> Tensor:
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
def test_equals_the_layer_of_transformers(config: Mamba2Config) -> None:
    layer, x_BLD = random_layer(config), torch.randn(2, LENGTH, HIDDEN)
    expected = oracle(layer)(x_BLD)
    trained = layer(x_BLD.flatten(0, 1), PaddedBatch(torch.zeros(2, LENGTH, dtype=torch.int64)), 0)
    torch.testing.assert_close(trained.unflatten(0, (2, LENGTH)), expected, atol=1e-4, rtol=1e-4)
    for x_LD, y_LD in zip(x_BLD, expected, strict=True):
        torch.testing.assert_close(serve(layer, x_LD, []), y_LD, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(serve(layer, x_LD, [1, 2, 13]), y_LD, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["A_log", "D", "dt_bias", "norm.weight", "conv_weight"])
def test_the_comparison_can_fail(name: str) -> None:
    """Negative control: a parameter changed on one side shows."""
    layer, x_LD = random_layer(CONFIGS["one group"]), torch.randn(LENGTH, HIDDEN)
    expected = oracle(layer)(x_LD[None])[0]
    layer.get_parameter(name).mul_(1.1)
    assert (serve(layer, x_LD, []) - expected).abs().max() > 1e-3


def test_remembers_a_state_and_the_last_inputs(config: Mamba2Config) -> None:
    state = (config.num_heads, config.head_dim, config.state_dim)
    expected = StateSpec((("conv", (config.conv_width - 1, config.conv_channels)), ("scan", state)))
    assert Mamba2(config, HIDDEN).cache_spec() == expected


def test_a_fresh_layer_forgets_slowly_and_quickly() -> None:
    torch.manual_seed(0)
    layer = Mamba2(Mamba2Config(64, 16, 1, 16), HIDDEN)
    step, A = torch.nn.functional.softplus(layer.dt_bias.detach()), layer.A_log.detach().exp()
    assert 1e-3 <= float(step.min()) < 2e-3 < 5e-2 < float(step.max()) <= 0.1 + 1e-6
    assert 1 <= float(A.min()) < float(A.max()) <= 16
