"""Configs that no network can have: compiled kernels would read and write where they must not."""

import pytest

from model.config import AttentionConfig, DeltaNetConfig, Mamba2Config, RotaryConfig


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
