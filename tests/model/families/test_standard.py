"""What families share: windows, the longest sequence."""

from typing import Any

import pytest

from model.checkpoints.safetensors_files import CheckpointError
from model.families import standard

SIZES = {"vocab_size": 160, "hidden_size": 64, "max_position_embeddings": 2048}


@pytest.mark.parametrize(
    ("rope", "positions"),
    [
        ({}, 2048),
        ({"rope_type": "linear", "factor": 4.0}, 2048),  # its checkpoints already name the longer length
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}, 8192),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}, 2048),
    ],
)
def test_yarn_makes_sequences_longer(rope: dict[str, Any], positions: int) -> None:
    assert standard.decoder(SIZES | {"rope_parameters": rope}, []).max_positions == positions


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({}, [None, None, None]),
        ({"sliding_window": 9}, [None, None, None]),  # named, but not used
        ({"use_sliding_window": True}, [4096, None, 4096]),
        ({"use_sliding_window": True, "sliding_window": 9}, [9, None, 9]),
        ({"use_sliding_window": True, "sliding_window": None}, [None, None, None]),
        (
            {"use_sliding_window": True, "sliding_window": 9, "layer_types": ["full_attention", "sliding_attention"]},
            [None, 9],
        ),
    ],
)
def test_windows_by_layer(changes: dict[str, Any], windows: list[int | None]) -> None:
    assert standard.layer_windows({"num_hidden_layers": 3} | changes, slides=lambda index: index != 1) == windows


@pytest.mark.parametrize(
    ("changes", "routed"),
    [
        ({}, [True, True, True, True]),
        ({"decoder_sparse_step": 2}, [False, True, False, True]),
        ({"mlp_only_layers": [0, 3]}, [False, True, True, False]),
        ({"decoder_sparse_step": 2, "mlp_only_layers": [1]}, [False, False, False, True]),
    ],
)
def test_which_layers_are_routed(changes: dict[str, Any], routed: list[bool]) -> None:
    assert [standard.is_moe_layer(changes, index) for index in range(4)] == routed


def test_a_requirement_is_met_by_silence() -> None:
    standard.require({"hidden_act": "silu"}, hidden_act="silu", mlp_bias=False)
    with pytest.raises(CheckpointError, match="mlp_bias is True: only False is supported for llama"):
        standard.require({"model_type": "llama", "mlp_bias": True}, hidden_act="silu", mlp_bias=False)
