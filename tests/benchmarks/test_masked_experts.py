"""What a text loses without an expert, compared with the network asked directly."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.masked_experts import bits_of, draw, figures_of, lost_bits, rank_correlation, rows_of
from model.config import hybrid_config
from model.evaluation.routing.texts import LabelledText
from model.generate import sequence_logprobs
from model.network import CausalLM

TEXTS = [
    LabelledText("chat", "en", tuple(range(12)), ("word",) * 12),
    LabelledText("chat", "zh", tuple(range(30, 45)), ("Chinese",) * 15),
]


@pytest.fixture(scope="module")
def network() -> CausalLM:
    torch.manual_seed(0)
    network = CausalLM(
        hybrid_config(
            hidden_size=32, num_layers=2, attention_every=2, num_heads=1, num_kv_heads=1, head_dim=32, num_experts=4,
            expert_width=32, shared_width=32, vocab_size=64, max_positions=64,
        )
    )  # fmt: skip
    for parameter in network.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return network.eval()


def test_bits_are_those_of_the_network(network: CausalLM) -> None:
    expected = -float(sequence_logprobs(network, TEXTS[0].token_ids).sum()) / np.log(2)
    assert bits_of(network, TEXTS[0].token_ids, {}) == pytest.approx(expected)


def test_a_text_loses_what_its_expert_gave(network: CausalLM) -> None:
    lost_ALE = lost_bits(network, TEXTS, ["en", "zh"])
    assert lost_ALE.shape == (2, 2, 4)
    masked_TE = torch.zeros(15, 4, dtype=torch.bool)
    masked_TE[:, 3] = True
    ids = TEXTS[1].token_ids
    difference = bits_of(network, ids, {1: masked_TE}) - bits_of(network, ids, {})
    assert difference != 0, "negative control: the expert is used"
    assert lost_ALE[1, 1, 3] == pytest.approx(difference / 14)


def test_correlation_of_ranks() -> None:
    rising = np.array([[1.0, 2.0], [3.0, 10.0]])
    assert rank_correlation(rising, rising**3) == pytest.approx(1)
    assert rank_correlation(rising, -rising) == pytest.approx(-1)


def test_the_table_and_the_picture_are_written(network: CausalLM, tmp_path: Path) -> None:
    figures = figures_of(network, TEXTS)
    first = figures["zh"]["strongest"][0]
    assert first["bits"] == pytest.approx(max(map(max, figures["zh"]["lost"])), abs=1e-3)
    assert f"| zh | layer {first['layer']} expert {first['expert']} (" in rows_of(figures)
    draw(tmp_path / "masked.png", figures, [0, 1])
    assert (tmp_path / "masked.png").stat().st_size > 1000
