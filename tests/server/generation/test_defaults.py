"""Sampling as the checkpoint recommends it."""

import json
from pathlib import Path

import pytest

from server.generation.defaults import GenerationDefaults


def load(directory: Path, content: dict[str, object]) -> GenerationDefaults:
    (directory / "generation_config.json").write_text(json.dumps(content))
    return GenerationDefaults.load(directory)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, GenerationDefaults()),
        (
            {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "repetition_penalty": 1.05, "min_p": 0},
            GenerationDefaults(0.6, 0.95, 20, 0.0, 1.05),
        ),
        (
            {"presence_penalty": 0.2, "frequency_penalty": 0.4},
            GenerationDefaults(presence_penalty=0.2, frequency_penalty=0.4),
        ),
        ({"temperature": None, "top_k": 50, "max_length": 20, "eos_token_id": 2}, GenerationDefaults(top_k=50)),
        ({"do_sample": False, "temperature": 0.6}, GenerationDefaults(temperature=0.0)),
        ({"top_k": 20.0, "temperature": 1}, GenerationDefaults(top_k=20)),
    ],
)
def test_what_is_named_is_taken(tmp_path: Path, content: dict[str, object], expected: GenerationDefaults) -> None:
    assert load(tmp_path, content) == expected


def test_a_whole_number_written_with_a_point_is_an_integer(tmp_path: Path) -> None:
    """The sampler slices by it: every sampled step of a float failed."""
    assert type(load(tmp_path, {"top_k": 20.0}).top_k) is int


def test_without_the_file_the_model_s_own_distribution_is_sampled(tmp_path: Path) -> None:
    assert GenerationDefaults.load(tmp_path) == GenerationDefaults(1.0, 1.0, 0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"temperature": -1}, "generation_config.json: temperature is -1"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_p": 0}, "top_p is 0"),
        ({"top_p": True}, "top_p is True: give a number"),
        ({"top_k": "many"}, "top_k is 'many'"),
        ({"top_k": 20.5}, "top_k is 20.5: give a whole number"),
        ({"top_k": float("inf")}, "top_k is inf: give a whole number"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty is nan"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty is nan"),
        ({"frequency_penalty": 2.5}, "frequency_penalty is 2.5: give -2 to 2"),
        ({"presence_penalty": -3}, "presence_penalty is -3: give -2 to 2"),
    ],
)
def test_what_no_request_could_have_is_refused(tmp_path: Path, content: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(tmp_path, content)


def test_plain_text_may_have_its_own(tmp_path: Path) -> None:
    content = {"temperature": 0.3, "min_p": 0.1, "plain_text": {"temperature": 0.7}}
    assert load(tmp_path, content) == GenerationDefaults(temperature=0.3, min_p=0.1)
    assert GenerationDefaults.load_plain_text(tmp_path) == GenerationDefaults(temperature=0.7, min_p=0.1)


def test_plain_text_is_sampled_like_chat_where_the_file_says_nothing_of_it(tmp_path: Path) -> None:
    assert GenerationDefaults.load_plain_text(tmp_path) == load(tmp_path, {})
    load(tmp_path, {"temperature": 0.3})
    assert GenerationDefaults.load_plain_text(tmp_path) == GenerationDefaults(temperature=0.3)


@pytest.mark.parametrize("value", [[], "0.5", {"temperature": -1}])
def test_a_wrong_value_for_plain_text_is_refused(tmp_path: Path, value: object) -> None:
    load(tmp_path, {"plain_text": value})
    with pytest.raises(ValueError, match=r"plain_text|temperature"):
        GenerationDefaults.load_plain_text(tmp_path)
