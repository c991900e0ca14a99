"""Likelihoods in batches are those of one token after another; bits per byte and accuracy by hand."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import tokenizers
import torch

from benchmarks.routing_study.likelihood import (
    answer_nats,
    bits_per_byte_by_source,
    by_task,
    label_accuracy,
    majority_share,
)
from benchmarks.routing_study.variants import VARIANTS, Size, model_of
from model.evaluation.data import EvaluationSource, load_sources
from model.generate import sequence_logprobs
from model.network import CausalLM
from model.training.data.examples import ANSWER, Example, ExampleEncoder, conversations
from model.training.data.prepare import load_source

LABELS = ["positive", "negative"]


@pytest.fixture
def network(tiny: Size) -> CausalLM:
    torch.manual_seed(0)
    network = CausalLM(model_of(VARIANTS["softmax-top-2"], tiny, 7680))
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return network


@pytest.fixture
def uniform(network: CausalLM) -> CausalLM:
    """Every token is as likely as any other."""
    torch.nn.init.zeros_(network.head.weight)  # type: ignore[arg-type]
    return network


def examples_of(data_dir: Path, tokenizer: tokenizers.Tokenizer) -> Iterator[Example]:
    encoder = ExampleEncoder(tokenizer)
    for source in load_sources(data_dir, samples=2):
        for row in source.rows:
            for encoded in encoder.encode(list(conversations(row, with_instructions=False))):
                yield from encoded


def test_batches_give_what_single_sequences_give(
    network: CausalLM, data_dir: Path, tokenizer: tokenizers.Tokenizer
) -> None:
    examples = list(examples_of(data_dir, tokenizer))
    expected = []
    for example in examples:
        logprobs = sequence_logprobs(network, example.token_ids.tolist())
        expected.append(-float(logprobs[torch.from_numpy(example.kinds[1:] == ANSWER)].sum()))
    assert answer_nats(network, examples) == pytest.approx(expected, rel=1e-3)
    assert len({round(nats, 3) for nats in expected}) > 3  # they are not all alike


def test_bits_per_byte_of_a_uniform_model(uniform: CausalLM, prepared: Path, tokenizer: tokenizers.Tokenizer) -> None:
    found = bits_per_byte_by_source(uniform, prepared, tokenizer, rows=2)
    assert "generate/stories-en" in found
    assert "translate/colours-en-zh" in found
    source = load_source(prepared, "generate/stories-en", "valid")
    tokens = [source.example(index).token_ids[1:].tolist() for index in range(2)]
    size = sum(len(tokenizer.decode(ids).encode()) for ids in tokens)
    assert found["generate/stories-en"] == pytest.approx(sum(map(len, tokens)) * math.log2(7680) / size)


def test_chinese_counts_in_bytes(uniform: CausalLM, prepared: Path, tokenizer: tokenizers.Tokenizer) -> None:
    """A Chinese character has three bytes: a uniform model needs fewer bits for each of them than for a letter."""
    found = bits_per_byte_by_source(uniform, prepared, tokenizer, rows=20)
    assert 0 < found["translate/colours-en-zh"] < 2 * found["generate/stories-en"]


def test_by_task_sources_weigh_the_same() -> None:
    assert by_task({"chat/a": 1.0, "chat/b": 3.0, "generate/c": 5.0}) == {"chat": 2.0, "generate": 5.0}


def labelled(*labels: str) -> EvaluationSource:
    rows = [
        {"task": "analyze", "text": f"What a thing {n}.", "label": label, "label_set": LABELS}
        for n, label in enumerate(labels)
    ]
    return EvaluationSource("analyze/things-en", tuple(rows))


def test_accuracy_is_the_share_of_rows_whose_label_is_likeliest(
    network: CausalLM, tokenizer: tokenizers.Tokenizer
) -> None:
    encoder = ExampleEncoder(tokenizer)
    right = [
        max(LABELS, key=lambda label: -_nats(network, encoder, n, label))  # what the network would say, one by one
        for n in range(4)
    ]
    wrong = [LABELS[1 - LABELS.index(label)] for label in right]
    assert label_accuracy(network, labelled(*right), encoder) == 100
    assert label_accuracy(network, labelled(*wrong), encoder) == 0
    assert label_accuracy(network, labelled(right[0], *wrong[1:]), encoder) == 25


def _nats(network: CausalLM, encoder: ExampleEncoder, number: int, label: str) -> float:
    [row] = labelled(label).rows
    draft = next(conversations({**row, "text": f"What a thing {number}."}, with_instructions=False))
    [[example]] = encoder.encode([draft])
    return answer_nats(network, [example])[0]


def test_majority_share() -> None:
    assert majority_share(labelled("positive", "positive", "negative", "positive")) == 75


def test_a_text_that_is_too_long_is_no_hit_by_accident(network: CausalLM, tokenizer: tokenizers.Tokenizer) -> None:
    row = {"task": "analyze", "text": "word " * 2000, "label": "negative", "label_set": LABELS}
    accuracy = label_accuracy(network, EvaluationSource("analyze/long-en", (row,)), ExampleEncoder(tokenizer))
    assert accuracy == 0  # the first label, of equally unlikely ones
