"""Measures of how evenly experts are used, by hand and against each other."""

import math

import numpy as np
import pytest

from model.load_balance import IDLE_LOAD, entropy, idle_experts, load_shares, max_violation


def test_an_even_load() -> None:
    load_E = [5] * 8
    assert load_shares(load_E) == [0.125] * 8
    assert (entropy(load_shares(load_E)), max_violation(load_E), idle_experts(load_E)) == (3, 0, [])


def test_a_single_expert_gets_all() -> None:
    load_E = np.array([0, 12, 0, 0])
    assert load_shares(load_E) == [0, 1, 0, 0]
    assert (entropy(load_shares(load_E)), max_violation(load_E), idle_experts(load_E)) == (0, 3, [0, 2, 3])


def test_by_hand() -> None:
    load_E = (3, 2, 0, 0)
    assert load_shares(load_E) == pytest.approx([0.6, 0.4, 0, 0])
    assert entropy(load_shares(load_E)) == pytest.approx(-0.6 * math.log2(0.6) - 0.4 * math.log2(0.4))
    assert max_violation(load_E) == pytest.approx((3 - 1.25) / 1.25)


def test_a_little_work_is_enough_not_to_be_idle() -> None:
    assert idle_experts([9, 100, 191]) == [0]
    assert idle_experts([10, 100, 190]) == [], f"{IDLE_LOAD} of the mean, not less"


def test_before_any_token() -> None:
    load_E = [0, 0, 0]
    assert load_shares(load_E) == [0, 0, 0]
    assert (entropy(load_shares(load_E)), max_violation(load_E), idle_experts(load_E)) == (0, 0, [])
