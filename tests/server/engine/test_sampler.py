"""The sampler, and its independence of the batch. tests/model/kernels/test_sampling.py has how a token is drawn."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from server.engine.logits_processors import build_logits_processors
from server.engine.sampler import sample, token_logprobs
from server.engine.sequence import Sequence
from tests.server.engine.tiny import request

EOS = 2


def sequence(*output: int, prompt: tuple[int, ...] = (3, 4), seed: int = 0, **sampling: Any) -> Sequence:
    """A sequence that has generated `output`; greedy unless told otherwise."""
    asked = request("r", prompt, 50, **sampling)
    processors = build_logits_processors(asked.sampling, prompt, frozenset({EOS}))
    made = Sequence(asked, number=0, seed=seed, arrival=0.0, logits_processors=processors)
    made.append(output)
    return made


def random_logits(rows: int, vocabulary: int = 300, seed: int = 0, scale: float = 3.0) -> Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * scale


def chosen(logits_V: list[float], made: Sequence) -> int:
    return sample(torch.tensor([logits_V]), [made]).token_ids[0][0]


def test_greedy_takes_the_highest_and_of_equals_the_first() -> None:
    assert chosen([0.0, 3.0, 1.0, 3.0], sequence()) == 1


@pytest.mark.parametrize("more", [{}, {"logit_bias": ((0, 0.25),)}], ids=str)
def test_min_tokens_forbids_ends_until_it_is_reached(more: dict[str, Any]) -> None:
    logits = [0.0, 1.0, 9.0, 8.0]
    way: dict[str, Any] = {"min_tokens": 2, "stop_token_ids": frozenset({3})} | more
    assert [chosen(logits, sequence(*[1] * length, **way)) for length in range(3)] == [1, 1, 2]


def test_logprobs_are_those_of_the_model_before_any_change() -> None:
    logits = random_logits(1)
    made = sequence(temperature=0.1, logit_bias=((7, 100.0),), top_k=1, logprobs=4)
    expected = logits[0].double().log_softmax(-1)
    (entry,) = sample(logits, [made]).logprobs[0]
    assert entry.token_id == 7
    assert entry.logprob == pytest.approx(expected[7].item(), abs=1e-5)
    best = expected.topk(4)
    assert [token for token, _ in entry.top] == best.indices.tolist()
    assert [logprob for _, logprob in entry.top] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_logprobs_only_where_asked() -> None:
    sequences = [sequence(), sequence(logprobs=0), sequence(logprobs=2)]
    found = sample(random_logits(3), sequences).logprobs
    assert {row: len(entry.top) for row, (entry,) in found.items()} == {1: 0, 2: 2}


class CalledOperators(TorchDispatchMode):
    """The names of the operators that PyTorch is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("logprobs", "is_copied"), [(None, False), (0, True)])
def test_logits_are_copied_only_where_logprobs_are_asked_for(logprobs: int | None, *, is_copied: bool) -> None:
    with CalledOperators() as operators:
        sample(random_logits(3), [sequence(), sequence(logprobs=logprobs), sequence()])
    assert ("aten::index.Tensor" in operators.names) == is_copied


def test_equal_logprobs_are_told_in_the_order_of_their_ids() -> None:
    (entry,) = token_logprobs(torch.zeros(1, 4), [3], [4])
    assert [token for token, _ in entry.top] == [0, 1, 2, 3]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_rows_that_are_no_numbers_are_reported(wrong: float) -> None:
    logits = random_logits(3)
    logits[1, 50] = wrong
    sequences = [sequence(temperature=1.0), sequence(temperature=1.0), sequence()]
    alone = [sample(logits[row : row + 1], [sequences[row]]).token_ids[0] for row in (0, 2)]
    for number, made in enumerate(sequences):
        made.request_id = f"r{number}"
    together = sample(logits, sequences)
    assert together.failed == {"r1"}
    assert [together.token_ids[0], together.token_ids[2]] == alone


WAYS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0},
    {"temperature": 0.3, "top_p": 0.9},
    {"temperature": 2.0, "top_k": 7},
    {"temperature": 1.5, "min_p": 0.05, "repetition_penalty": 1.3},
    {"temperature": 1.0, "top_k": 250, "top_p": 0.999, "frequency_penalty": 0.7},
]


@pytest.mark.parametrize("vocabulary", [101, 128, 1003, 40_001])
def test_a_row_gives_the_same_bits_alone_and_among_others(vocabulary: int) -> None:
    count = 13
    logits = random_logits(count, vocabulary)
    sequences = [sequence(9, 9, 11, seed=i, logprobs=5, **WAYS[i % len(WAYS)]) for i in range(count)]
    together = sample(logits.clone(), sequences)
    for row, made in enumerate(sequences):
        alone = sample(logits[row : row + 1].clone(), [made])
        assert alone.token_ids[0] == together.token_ids[row]
        assert alone.logprobs[0] == together.logprobs[row]


@pytest.mark.parametrize("rows", [[0, 1, 2], [4], [1, 3, 6], [6, 2, 0]], ids=str)
def test_rows_of_no_sequence_are_passed_over(rows: list[int]) -> None:
    logits = random_logits(7)
    logits[5, 9] = float("nan")
    sequences = [sequence(9, seed=row, logprobs=3, **WAYS[row % len(WAYS)]) for row in rows]
    found, expected = sample(logits.clone(), sequences, rows), sample(logits[rows], sequences)
    assert found.token_ids == expected.token_ids
    assert found.logprobs == expected.logprobs
    assert not found.failed
    assert sample(logits.clone(), sequences, [5] * len(rows)).failed == {"r"}  # negative control


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e-5])
def test_a_temperature_near_zero_is_greedy(temperature: float) -> None:
    logits = random_logits(4)
    sequences = [sequence(temperature=temperature, seed=seed) for seed in range(4)]
    assert sample(logits, sequences).token_ids == [(token,) for token in logits.argmax(-1).tolist()]
