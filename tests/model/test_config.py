"""Configs that no network can have: compiled kernels would read and write where they must not."""

import pytest

from model.config import (
    AttentionConfig,
    DeltaNetConfig,
    GroupLimit,
    LatentAttentionConfig,
    Mamba2Config,
    MoEConfig,
    NormConfig,
    NoRotary,
    RotaryConfig,
    SigmoidBiasConfig,
)


def test_heads_that_cannot_be_shared_are_refused() -> None:
    for heads, groups in ((4, 8), (6, 4), (4, 0), (0, 1)):
        with pytest.raises(ValueError, match=f"{heads} query heads cannot share {groups} key/value heads"):
            AttentionConfig(heads, groups, 64, None)
        with pytest.raises(ValueError, match=f"{heads} value heads cannot share {groups} key heads"):
            DeltaNetConfig(groups, heads, 64, 64)
        with pytest.raises(ValueError, match=f"{heads} heads cannot share {groups} groups"):
            Mamba2Config(heads, 64, groups, 64)
    AttentionConfig(8, 4, 64, None)


def test_rotary_positions_fit_into_a_head() -> None:
    for odd in (0, 1, 7, -2):
        with pytest.raises(ValueError, match="the number must be even"):
            RotaryConfig(odd)
    with pytest.raises(ValueError, match="rotary positions on 66 coordinates of heads that have 64"):
        AttentionConfig(4, 4, 64, RotaryConfig(66))


@pytest.mark.parametrize("position", range(1, 5))
def test_latent_attention_has_no_empty_parts(position: int) -> None:
    """An empty key ended the process with a division by zero."""
    widths = [4, 24, 32, 16, 16]
    LatentAttentionConfig(*widths, NoRotary(16), NormConfig(), 1.0)  # negative control
    widths[position] = 0
    with pytest.raises(ValueError, match="all must be positive"):
        LatentAttentionConfig(*widths, NoRotary(16), NormConfig(), 1.0)
    with pytest.raises(ValueError, match="the last one even"):
        LatentAttentionConfig(4, 24, 32, 16, 16, NoRotary(15), NormConfig(), 1.0)


def test_groups_of_experts_are_equal() -> None:
    MoEConfig(SigmoidBiasConfig(2, groups=GroupLimit(4, 2, best_of=2)), 8, 16)
    for groups, chosen in ((3, 2), (0, 0), (4, 5), (4, 0)):
        with pytest.raises(ValueError, match=f"8 experts cannot be in {groups} equal groups"):
            MoEConfig(SigmoidBiasConfig(2, groups=GroupLimit(groups, chosen, best_of=2)), 8, 16)
