"""Who runs together: groups by hand, what is read of the network, and the gains by hand."""

import numpy as np
import pytest
import torch

from benchmarks.expert_batching import (
    FIRST,
    LENGTH,
    Window,
    best_groups,
    distinct_experts,
    exchanged,
    groupings,
    rows_of,
    steps_of,
    windows_of,
    with_gains,
)  # fmt: skip
from model.config import hybrid_config
from model.evaluation.routing.texts import LabelledText
from model.generate import whole_sequence
from model.network import CausalLM

PRESENCE = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1]], dtype=float)
MIXED = np.array([[0, 1], [2, 3]])


@pytest.fixture(scope="module")
def network() -> CausalLM:
    torch.manual_seed(0)
    return CausalLM(
        hybrid_config(
            hidden_size=32, num_layers=2, attention_every=2, num_heads=1, num_kv_heads=1, head_dim=32, num_experts=4,
            expert_width=32, shared_width=32, vocab_size=64, max_positions=64,
        )
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def windows(network: CausalLM) -> list[Window]:
    texts = [LabelledText("chat", language, tuple(range(n, n + 58)), ()) for n, language in enumerate(["en", "de"])]
    return list(windows_of(network, texts))


def test_a_group_touches_each_expert_once() -> None:
    assert distinct_experts(PRESENCE, MIXED).tolist() == [2, 2, 2, 2]
    assert distinct_experts(PRESENCE, np.array([[0, 2], [1, 3]])).tolist() == [1, 1, 1, 1]
    assert distinct_experts(np.array([[0.5], [0.5]]), np.array([[0, 1]])).tolist() == [0.75]


def test_sequences_with_the_same_experts_come_together() -> None:
    groups = best_groups(PRESENCE, MIXED)
    assert sorted(sorted(group) for group in groups.tolist()) == [[0, 2], [1, 3]]


def test_exchanges_keep_every_sequence_and_never_cost_experts() -> None:
    draw = np.random.default_rng(0)
    for _ in range(20):
        presence = (draw.random((12, 10)) < 0.3).astype(float)
        start = draw.permutation(12).reshape(3, 4)
        groups = exchanged(presence, start)
        assert sorted(groups.flatten().tolist()) == list(range(12))
        assert distinct_experts(presence, groups).sum() <= distinct_experts(presence, start).sum()


def test_windows_hold_what_the_network_chose(network: CausalLM, windows: list[Window]) -> None:
    assert [window.kind for window in windows] == ["chat en"] * 2 + ["chat de"] * 2
    with torch.inference_mode():
        _, routings = network(whole_sequence(network, range(58)))
    assert routings[1] is not None
    own = windows[1].routings[1].experts_TK
    assert own.tolist() == routings[1].experts_TK[FIRST + LENGTH : FIRST + 2 * LENGTH].tolist()
    assert windows[1].used_NX.shape == (LENGTH, 8)
    assert np.flatnonzero(windows[1].used_NX[5, 4:]).tolist() == sorted(own[5].tolist())


def test_steps_have_the_routings_of_their_sequences(windows: list[Window]) -> None:
    steps = steps_of(windows, 3, np.array([[2, 0], [1, 3]]))
    expected = [windows[row].routings[1].experts_TK[3].tolist() for row in (2, 0)]
    assert steps[0][1].experts_TK.tolist() == expected
    assert [len(step) for step in steps] == [2, 2]


def test_the_next_tokens_are_grouped_best(windows: list[Window]) -> None:
    now = np.stack([window.used_NX[3] for window in windows]).astype(float)
    costs = {name: distinct_experts(now, groups).sum() for name, groups in groupings(windows, 3, 2).items()}
    assert costs["next token"] == min(costs.values())


def test_gains_by_hand() -> None:
    found = {
        "first come": {"MiB": 4.0, "ms": 2.0},
        "next token": {"MiB": 3.0, "ms": 1.0},
        "all in one step": {"MiB": 1.0, "ms": 0.5},
    }
    rows = with_gains(found, 5.0, 10.0, 4)
    assert [row["gain, %"] for row in rows.values()] == [0, 25, 100]
    assert [row["bytes saved, %"] for row in rows.values()] == [0, 25, 75]
    table = rows_of({"8 of 32": {"step, ms": 5.0, "groupings": rows}})
    assert "| 8 of 32 | next token | 3.00 | 1.00 | 5.00 | +25.0 | +25.0 |" in table
