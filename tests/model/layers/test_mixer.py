"""What every mixer owes the engine: the same bits alone, in a batch and in pieces, whatever it remembers."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from model.batch import PaddedBatch
from model.cache import CacheStorage
from model.config import (
    AttentionConfig,
    DeltaNetConfig,
    KimiDeltaConfig,
    LatentAttentionConfig,
    Mamba2Config,
    MambaConfig,
    MixerConfig,
    NormConfig,
    NoRotary,
    QKNormConfig,
    RotaryConfig,
    ShortConvConfig,
)
from model.layers.linear import GroupedLinear, Linear
from model.layers.mixer import MIXERS, build_mixer
from model.quantization import plain_scheme
from tests.model.batches import BLOCK, batch_of

HIDDEN, TOKENS = 48, 64
CASES: dict[str, MixerConfig] = {
    "attention": AttentionConfig(4, 2, 16, RotaryConfig(8), qk_norm=QKNormConfig(NormConfig()), output_gate=True),
    "attention without positions": AttentionConfig(3, 1, 16, None, scale=0.3, input_bias=True, output_bias=True),
    "norms after positions": AttentionConfig(
        4, 2, 16, RotaryConfig(16), qk_norm=QKNormConfig(NormConfig(), after_rotary=True)
    ),
    "window and sinks": AttentionConfig(4, 2, 16, RotaryConfig(16), window=5, sinks=True, input_bias=True),
    "attention of odd widths": AttentionConfig(3, 1, 12, RotaryConfig(6), output_gate=True),
    "latent attention": LatentAttentionConfig(4, 24, 32, 16, 16, RotaryConfig(8), NormConfig(), 24**-0.5),
    "latent attention without positions": LatentAttentionConfig(
        4, None, 32, 16, 16, NoRotary(8), NormConfig(), 24**-0.5
    ),
    "kimi delta attention": KimiDeltaConfig(3, 16),
    "mamba": MambaConfig(64, 16, 6),
    "mamba with biases": MambaConfig(40, 8, 5, 3, False, True),
    "delta net": DeltaNetConfig(2, 4, 16, 16),
    "delta net of odd widths": DeltaNetConfig(1, 3, 12, 12),
    "kimi delta attention of odd widths": KimiDeltaConfig(3, 12),
    "mamba2": Mamba2Config(4, 24, 1, 16),
    "mamba2 in groups": Mamba2Config(8, 12, 2, 16, 3, False, True, (0.1, 0.9)),
    "short convolution": ShortConvConfig(3),
    "short convolution with biases": ShortConvConfig(4, bias=True),
    "short convolution with many taps": ShortConvConfig(11),
}

pytestmark = pytest.mark.usefixtures("cpu_isa")  # at every level that runs here

Piece = tuple[int, int, int]  # sequence, first token, end


@pytest.fixture(params=CASES)
def config(request: pytest.FixtureRequest) -> MixerConfig:
    return CASES[request.param]


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    found: torch.dtype = request.param
    return found


def plain_mixer(config: MixerConfig) -> nn.Module:
    """A mixer in which every parameter has a say."""
    torch.manual_seed(0)
    mixer = build_mixer(config, HIDDEN)
    assert isinstance(mixer, nn.Module)
    for parameter in mixer.parameters():
        parameter.data.copy_(torch.randn_like(parameter) * 0.3)
    return mixer


def served_mixer(config: MixerConfig, dtype: torch.dtype) -> nn.Module:
    """Its products packed, as it is served."""
    mixer = plain_mixer(config)
    for name, module in list(mixer.named_modules()):
        if isinstance(module, Linear | GroupedLinear):
            scheme = plain_scheme(dtype)
            freeze = scheme.linear if isinstance(module, Linear) else scheme.grouped
            mixer.set_submodule(name, freeze(module.weight.to(dtype), module.bias))
    return mixer.requires_grad_(False).eval()


def inputs(sequences: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(sequences, TOKENS, HIDDEN, generator=torch.Generator().manual_seed(1)).to(dtype)


def run(mixer: nn.Module, x_SLD: Tensor, steps: Sequence[Sequence[Piece]]) -> Tensor:
    """What it says of all tokens when they come in these pieces: [S, L, D]."""
    sequences = len(x_SLD)
    blocks = sequences * -(-TOKENS // BLOCK)
    specs = [mixer.cache_spec()]  # type: ignore[operator]
    cache = CacheStorage(specs, num_blocks=blocks, block_size=BLOCK, num_rows=sequences, dtype=x_SLD.dtype)
    y_SLD = torch.full_like(x_SLD, float("nan"))
    for step in steps:
        batch = batch_of(cache, [(s, first, [0] * (end - first)) for s, first, end in step], tokens=TOKENS)
        y_TD = mixer(torch.cat([x_SLD[s, first:end] for s, first, end in step]), batch, 0)
        for (s, first, end), y in zip(step, y_TD.split([end - first for _, first, end in step]), strict=True):
            y_SLD[s, first:end] = y
    return y_SLD


def whole(mixer: nn.Module, x_SLD: Tensor) -> Tensor:
    """Each sequence alone, in one piece."""
    return torch.cat([run(mixer, x_SLD[s : s + 1], [[(0, 0, TOKENS)]]) for s in range(len(x_SLD))])


def test_every_mixer_is_tested_here() -> None:
    assert {type(config) for config in CASES.values()} == set(MIXERS)


def test_every_mixer_has_a_title_of_its_own() -> None:
    assert len({config.title for config in CASES.values()}) == len(MIXERS)


@torch.inference_mode()
@pytest.mark.parametrize("cuts", [(1,), (7, 8, 30), (15, 16, 17, 33), range(1, TOKENS)], ids=str)
def test_pieces_change_no_bit(config: MixerConfig, dtype: torch.dtype, cuts: Sequence[int]) -> None:
    mixer, x_SLD = served_mixer(config, dtype), inputs(1, dtype)
    pieces = zip([0, *cuts], [*cuts, TOKENS], strict=True)
    assert torch.equal(run(mixer, x_SLD, [[(0, first, end)] for first, end in pieces]), whole(mixer, x_SLD))


@torch.inference_mode()
def test_strangers_in_the_batch_change_no_bit(config: MixerConfig, dtype: torch.dtype) -> None:
    mixer, x_SLD = served_mixer(config, dtype), inputs(4, dtype)
    steps = [  # some prefill while others are at single tokens; not always in the same order
        [(0, 0, 20), (1, 0, 1)],
        [(2, 0, 33), (1, 1, 2), (0, 20, 21)],
        [(0, 21, 22), (3, 0, TOKENS), (2, 33, 34), (1, 2, 40)],
        [(1, 40, TOKENS), (2, 34, TOKENS), (0, 22, TOKENS)],
    ]
    assert torch.equal(run(mixer, x_SLD, steps), whole(mixer, x_SLD))


@torch.inference_mode()
def test_the_past_is_seen_and_the_future_is_not(config: MixerConfig) -> None:
    mixer, x_SLD = served_mixer(config, torch.float32), inputs(1)
    changed = x_SLD.clone()
    changed[:, 30] += 1
    before, after = whole(mixer, x_SLD)[0], whole(mixer, changed)[0]
    assert torch.equal(before[:30], after[:30])
    assert all(not torch.equal(before[t], after[t]) for t in (30, 31, 32))


@torch.inference_mode()
def test_a_lost_memory_shows(config: MixerConfig) -> None:
    """Negative control: the second half without what the first one left is another."""
    mixer, x_SLD = served_mixer(config, torch.float32), inputs(1)
    alone = run(mixer, x_SLD[:, 32:33].expand(-1, TOKENS, -1), [[(0, 0, 1)]])
    assert not torch.equal(alone[0, 0], whole(mixer, x_SLD)[0, 32])


def test_training_computes_the_same(config: MixerConfig) -> None:
    x_SLD = inputs(3)
    batch = PaddedBatch(torch.zeros(3, TOKENS, dtype=torch.int64))
    trained = plain_mixer(config)(x_SLD.flatten(0, 1), batch, 0).unflatten(0, (3, TOKENS))
    with torch.inference_mode():
        served = whole(served_mixer(config, torch.float32), x_SLD)
    torch.testing.assert_close(trained, served, atol=1e-4 * float(served.abs().max()), rtol=0)


def test_every_parameter_is_trained(config: MixerConfig) -> None:
    mixer = plain_mixer(config)
    batch = PaddedBatch(torch.zeros(2, TOKENS, dtype=torch.int64))
    mixer(inputs(2).flatten(0, 1), batch, 0).square().sum().backward()
    for name, parameter in mixer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
