"""Rotary settings against transformers' own functions."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from model.config import YarnScaling
from model.families.rope import max_positions, rotary
from model.rotary import Rotary

LENGTHS = st.sampled_from([256, 2048, 4096, 8192, 32768])
FACTORS = st.floats(1, 64)
LINEAR = st.fixed_dictionaries({"rope_type": st.just("linear"), "factor": FACTORS})
LLAMA3 = st.fixed_dictionaries(
    {
        "rope_type": st.just("llama3"),
        "factor": FACTORS,
        "low_freq_factor": st.floats(0.5, 2),
        "high_freq_factor": st.floats(3, 16),
        "original_max_position_embeddings": LENGTHS,
    }
)
YARN = st.fixed_dictionaries(
    {"rope_type": st.just("yarn"), "factor": FACTORS, "original_max_position_embeddings": LENGTHS},
    optional={
        "beta_fast": st.floats(8, 64),
        "beta_slow": st.floats(0.5, 4),
        "attention_factor": st.floats(0.5, 2),
        "mscale": st.floats(0.5, 2),
        "mscale_all_dim": st.floats(0.5, 2),
        "truncate": st.booleans(),
    },
)


def llama(rope: dict[str, Any], head_dim: int = 64) -> LlamaConfig:
    return LlamaConfig(hidden_size=256, num_attention_heads=4, head_dim=head_dim, rope_parameters=dict(rope))


@settings(max_examples=50)
@given(LINEAR | LLAMA3 | YARN, st.floats(500, 1e7), st.sampled_from([16, 64, 128]), st.sampled_from([0.25, 0.5, 1.0]))
def test_scaled_frequencies_are_those_of_transformers(
    rope: dict[str, Any], theta: float, head_dim: int, partial: float
) -> None:
    rope |= {"rope_theta": theta, "partial_rotary_factor": partial}
    frequency_F, magnitude = ROPE_INIT_FUNCTIONS[rope["rope_type"]](llama(rope, head_dim))
    ours = Rotary(rotary({"rope_parameters": rope}, head_dim))
    torch.testing.assert_close(ours.frequency_F, frequency_F, atol=0, rtol=1e-5)
    assert ours.magnitude == pytest.approx(magnitude)


@pytest.mark.parametrize("rope", [{}, {"rope_theta": 5e5}, {"rope_type": "linear", "factor": 2.0}], ids=str)
def test_tables_are_those_of_transformers(rope: dict[str, Any]) -> None:
    positions_T = torch.tensor([0, 1, 77, 4000])
    cos_TW, sin_TW = Rotary(rotary({"rope_parameters": rope}, 64)).tables(positions_T)
    cos_1TW, sin_1TW = LlamaRotaryEmbedding(llama(rope))(torch.zeros(1), positions_T[None])
    torch.testing.assert_close(cos_TW, cos_1TW[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(sin_TW, sin_1TW[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["linear", "llama3", "yarn"])
def test_scaling_changes_frequencies(kind: str) -> None:
    """Negative control: two functions that ignored the scaling would agree too."""
    rope = {"rope_type": kind, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaled = rotary({"rope_parameters": rope, "max_position_embeddings": 2048}, 64)
    plain = rotary({}, 64)
    assert (Rotary(scaled).frequency_F / Rotary(plain).frequency_F).min() == pytest.approx(0.25)


def test_an_older_key_that_somebody_added_comes_first() -> None:
    """As people are told to switch on YaRN: by adding `rope_scaling` to what is there."""
    there = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "max_position_embeddings": 2048}
    added = {"rope_scaling": {"type": "yarn", "factor": 4.0}, "rope_theta": 1e6}
    ours = rotary(there | added, 64)
    assert isinstance(ours.scaling, YarnScaling)
    assert (ours.theta, ours.scaling.original_positions) == (1e6, 2048)
    assert rotary(there, 64).scaling is None


@pytest.mark.parametrize("magnitudes", [{}, {"mscale": 0.7, "mscale_all_dim": 1.1}], ids=str)
def test_without_a_factor_yarn_reaches_the_context_length(magnitudes: dict[str, float]) -> None:
    rope = {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 2048, "rope_theta": 1e4}
    hf = llama(rope | magnitudes)
    hf.max_position_embeddings = 8192
    frequency_F, magnitude = ROPE_INIT_FUNCTIONS["yarn"](hf)
    read = {"rope_parameters": rope | magnitudes, "max_position_embeddings": 8192}
    ours = Rotary(rotary(read, 64))
    torch.testing.assert_close(ours.frequency_F, frequency_F, atol=0, rtol=1e-5)
    assert ours.magnitude == pytest.approx(magnitude)
    assert max_positions(read) == 8192
