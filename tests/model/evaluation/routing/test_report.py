"""The offline routing report: its counts by hand, its files, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from model.config import GatedMLPConfig, LayerConfig, ModelConfig, ShortConvConfig, hybrid_config
from model.evaluation.routing.measures import distinct_experts, mutual_information, study
from model.evaluation.routing.report import baseline_of, strongest, write_report
from model.evaluation.routing.texts import LabelledText, read_texts, token_kinds
from model.generate import whole_sequence
from model.loading.routing_baseline import RoutingBaseline
from model.network import CausalLM
from model.text.tokenizer import Tokenizer
from tests.server.applications import byte_tokenizer

TINY = hybrid_config(
    hidden_size=32, num_layers=2, attention_every=2, num_heads=1, num_kv_heads=1, head_dim=32, num_experts=4,
    expert_width=32, shared_width=32, vocab_size=64, max_positions=64,
)  # fmt: skip
TEXTS = [
    LabelledText("chat", "en", tuple(range(9)), ("opening",) * 4 + ("word",) * 5),
    LabelledText("translate", "zh", tuple(range(20, 33)), ("opening",) * 4 + ("Chinese",) * 9),
]


@pytest.fixture(scope="module")
def network() -> CausalLM:
    torch.manual_seed(0)
    network = CausalLM(TINY)
    for parameter in network.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return network.eval()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return byte_tokenizer()


def test_counts_are_those_of_the_network(network: CausalLM) -> None:
    found = study(network, TEXTS)
    assert (found.num_tokens, found.num_texts) == (22, 2)
    assert found.labels == {
        "task": ["chat", "translate"],
        "language": ["en", "zh"],
        "kind": ["Chinese", "opening", "word"],
    }
    with torch.inference_mode():
        _, routings = network(whole_sequence(network, TEXTS[1].token_ids))
    for layer, routing in zip(found.layers, routings, strict=True):
        assert routing is not None
        counts = torch.bincount(routing.experts_TK.flatten(), minlength=4).tolist()
        assert layer.by_label["task"][1].tolist() == counts
        assert layer.load_E.sum() == 2 * 22
        assert layer.by_label["kind"].sum(0).tolist() == layer.load_E.tolist()
        assert layer.coactivation_EE.sum(1)[layer.load_E > 0] == pytest.approx(1), "each token has one other expert"


def test_information_by_hand() -> None:
    assert mutual_information(np.array([[5.0, 0.0], [0.0, 5.0]])) == 1
    assert mutual_information(np.array([[5.0, 5.0], [5.0, 5.0]])) == 0


def test_distinct_experts_grow_with_the_batch() -> None:
    used_TE = np.eye(8, dtype=bool)
    assert distinct_experts(used_TE, 1) == 1
    assert 5 < distinct_experts(used_TE, 10) < 7  # 8 * (1 - (7 / 8) ** 10) is 5.9
    assert distinct_experts(used_TE, 200) == pytest.approx(8)


def test_the_report_and_its_pictures_are_written(network: CausalLM, tmp_path: Path) -> None:
    found = study(network, TEXTS)
    names = write_report("tiny", found, tmp_path)
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    assert all((tmp_path / name).stat().st_size > 90 for name in names)
    report = (tmp_path / "report.md").read_text()
    assert all(f"]({name})" in report for name in names if name.endswith(".png"))
    assert "tells of x, of those that there are: task 0.98, language 0.98, kind 1.54." in report  # 9 and 13 tokens
    assert RoutingBaseline.load(tmp_path) is not None
    assert baseline_of(found).drift(0, baseline_of(found).shares[0]) == 0
    layer, expert, times = strongest(found, "language")["zh"][0]
    shares = found.layers[layer].shares("language")[1] * 4
    assert times == shares[expert] == max(max(one.shares("language")[1] * 4) for one in found.layers)


def test_touched_bytes_of_one_sequence_are_those_of_its_experts(network: CausalLM) -> None:
    assert study(network, TEXTS).touched_bytes(1) == 2 * 2 * (3 * 32 * 32 * 2)  # layers, experts, weights of 2 bytes


def test_a_network_without_experts_is_refused() -> None:
    dense = ModelConfig(64, 32, (LayerConfig(ShortConvConfig(3), GatedMLPConfig(32)),), 64)
    with pytest.raises(ValueError, match="no experts"):
        study(CausalLM(dense), TEXTS)


def test_texts_are_read_with_their_labels(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "texts.jsonl"
    rows = [
        {"text": "12 dogs"},
        {"text": "Bonjour", "language": "fr", "task": "chat"},
        {"task": "translate", "source": "Hi", "source_lang": "en", "target": "你好", "target_lang": "zh"},
        {"text": "never read"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    found = list(read_texts(path, tokenizer, max_tokens=22, max_length=7))
    assert [(text.task, text.language) for text in found] == [
        ("text", "en"), ("chat", "fr"), ("translate", "en"), ("translate", "zh"),
    ]  # fmt: skip
    assert sum(len(text.token_ids) for text in found) == 22
    assert len(found[0].token_ids) == len(found[0].kinds) == 7


def test_tokens_have_kinds(tokenizer: Tokenizer) -> None:
    kinds = token_kinds(tokenizer, tokenizer.encode("abcd4x, é"))
    assert kinds == ("opening",) * 4 + ("digit", "word", "punctuation", "other", "other", "other")


@pytest.mark.parametrize(
    "line",
    [
        '{"task": "translate"}',
        '{"words": 1}',
        '{"text": 5}',
        '{"text": "a", "task": 5}',
        "[1]",
        "nonsense",
        r'{"text": "\ud800"}',
    ],
)
def test_a_row_that_is_none_is_named(line: str, tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "Hi"}\n' + line)
    with pytest.raises(ValueError, match=r"texts\.jsonl, line 2"):
        list(read_texts(path, tokenizer, 100, 10))
