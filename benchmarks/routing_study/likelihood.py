"""How likely answers are to a network in process: bits per byte of texts, and the likeliest of some labels.

Shapes: T tokens, R rows whose logits are computed, V vocabulary.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import tokenizers
import torch
from torch import Tensor

from benchmarks.routing_study.rectangles import groups, rectangle
from model.batch import PaddedBatch
from model.evaluation.data import EvaluationSource
from model.network import CausalLM
from model.training.data.examples import ANSWER, Example, ExampleEncoder, conversations
from model.training.data.prepare import load_source, source_names
from model.training.data.rows import task_of

LOGIT_ROWS = 1024  # held at a time


@torch.no_grad()
def answer_nats(network: CausalLM, examples: Sequence[Example]) -> list[float]:
    """Minus the log-likelihood of what is answer or plain text in each example, its end included, given the rest."""
    nats = [0.0] * len(examples)
    for group in groups([len(example.token_ids) - 1 for example in examples]):
        chosen = [examples[index] for index in group]
        token_ids_BL = rectangle([example.token_ids[:-1].tolist() for example in chosen])
        targets_BL = rectangle([example.token_ids[1:].tolist() for example in chosen])
        counted_BL = rectangle([(example.kinds[1:] == ANSWER).tolist() for example in chosen]).bool()
        for index, row in zip(group, _row_sums(network, token_ids_BL, targets_BL, counted_BL), strict=True):
            nats[index] = row
    return nats


def bits_per_byte_by_source(
    network: CausalLM, prepared: Path, tokenizer: tokenizers.Tokenizer, rows: int
) -> dict[str, float]:
    """Bits per byte of the answers (or plain text) of the first `rows` prepared validation examples of each source.

    The bits of the token that ends an answer count, though it has no bytes: to know where to stop is a part of it.
    """
    sizes = _byte_sizes(tokenizer)
    found = {}
    for name in source_names(prepared, "valid"):
        source = load_source(prepared, name, "valid")
        examples = [source.example(index) for index in range(min(rows, len(source)))]
        answers = [example.token_ids[example.kinds == ANSWER].tolist() for example in examples]
        size = sum(sizes[token] for tokens in answers for token in tokens)
        found[name] = sum(answer_nats(network, examples)) / math.log(2) / max(size, 1)
    return found


def label_accuracy(network: CausalLM, source: EvaluationSource, encoder: ExampleEncoder) -> float:
    """Percent of rows whose right label is the likeliest answer of the row's label set; the first of equals counts."""
    drafts = [
        next(conversations({**row, "label": label}, with_instructions=False))
        for row in source.rows
        for label in row["label_set"]
    ]
    encoded = [found[0] if found else None for found in encoder.encode(drafts)]
    nats = iter(answer_nats(network, [example for example in encoded if example is not None]))
    fitting = iter([math.inf if example is None else next(nats) for example in encoded])  # too long: never chosen
    hits = 0
    for row in source.rows:
        by_label = {label: next(fitting) for label in row["label_set"]}
        hits += min(by_label, key=lambda label: by_label[label]) == row["label"]
    return 100 * hits / len(source.rows)


def majority_share(source: EvaluationSource) -> float:
    """Percent of rows that have the most frequent label: what a model reaches that does not look at the text."""
    labels = [row["label"] for row in source.rows]
    return 100 * max(map(labels.count, labels)) / len(labels)


def by_task(of_source: Mapping[str, float]) -> dict[str, float]:
    """The mean over the sources of each task: sources weigh the same, whatever their size."""
    tasks: dict[str, list[float]] = {}
    for name, value in of_source.items():
        tasks.setdefault(task_of(name), []).append(value)
    return {task: fmean(values) for task, values in tasks.items()}


def _row_sums(network: CausalLM, token_ids_BL: Tensor, targets_BL: Tensor, counted_BL: Tensor) -> list[float]:
    device = network.embedding.weight.device
    hidden_TD, _ = network(PaddedBatch(token_ids_BL.to(device)))
    nats_T = torch.zeros(token_ids_BL.numel())
    counted = counted_BL.flatten().nonzero().squeeze(1)
    for rows_R in counted.split(LOGIT_ROWS):
        logs_RV = network.logits(hidden_TD[rows_R.to(device)]).log_softmax(-1)
        nats_T[rows_R] = -logs_RV.cpu().gather(1, targets_BL.flatten()[rows_R, None]).squeeze(1)
    sums: list[float] = nats_T.view_as(token_ids_BL).sum(1).tolist()
    return sums


def _byte_sizes(tokenizer: tokenizers.Tokenizer) -> list[int]:
    """UTF-8 bytes that each token stands for: a character of its byte-level spelling each, none for special tokens."""
    special = tokenizer.get_added_tokens_decoder()
    return [
        0 if token in special else len(tokenizer.id_to_token(token) or "")
        for token in range(tokenizer.get_vocab_size())
    ]
