"""JSON as it is written for people who read it and for git."""

import json

import pytest

from model.files import compact_json


def test_it_is_the_same_json() -> None:
    value = {"a": [{"b": "ü" * 30, "c": (1, 2)}] * 3, "d": {}, "e": [], "f": None, "g": [1.5] * 40}
    assert json.loads(compact_json(value, width=20)) == json.loads(json.dumps(value))


def test_what_fits_stands_on_one_line_and_so_do_numbers() -> None:
    assert compact_json({"a": [1, 2]}) == '{"a": [1, 2]}\n'
    assert compact_json({"a": "x" * 8, "b": "y" * 8}, width=10) == '{\n "a": "xxxxxxxx",\n "b": "yyyyyyyy"\n}\n'
    assert compact_json([0.5] * 100, width=10).count("\n") == 1


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        compact_json({"a": float("nan")})
