"""Tokens with their log-probabilities."""

import pytest

from server.generation.logprobs import DecodedToken


def test_a_log_probability_that_is_missing_is_no_number() -> None:
    assert DecodedToken(5, b"a", -0.5).known_logprob == -0.5
    assert DecodedToken(5, b"a", 0.0).known_logprob == 0.0
    with pytest.raises(AssertionError, match="nothing precedes"):
        _ = DecodedToken(5, b"a", None).known_logprob
