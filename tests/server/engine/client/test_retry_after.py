"""What a refused client is told to wait."""

import pytest

from server.engine.client.retry_after import LONGEST, SHORTEST, CompletionRate


def test_the_wait_is_the_time_between_completions() -> None:
    rate = CompletionRate()
    rate.started(0.0)
    for second in range(1, 11):
        rate.finished(float(second), idle=False)
    assert rate.expected_wait(10.0) == 1.0


def test_without_a_completion_it_grows_with_the_time_waited() -> None:
    rate = CompletionRate()
    rate.started(100.0)
    assert rate.expected_wait(100.0) == SHORTEST
    assert rate.expected_wait(105.0) == 5.0


def test_pauses_do_not_count() -> None:
    rate = CompletionRate()
    rate.started(0.0)
    rate.finished(1.0, idle=True)
    rate.started(1000.0)
    rate.finished(1001.0, idle=False)
    rate.finished(1002.0, idle=False)
    assert rate.expected_wait(1002.0) == 1.0


def test_old_completions_are_forgotten_and_the_wait_is_bounded() -> None:
    rate = CompletionRate()
    rate.started(0.0)
    for _ in range(300):
        rate.finished(1.0, idle=False)
    assert rate.expected_wait(1.0) == SHORTEST
    assert rate.expected_wait(500.0) == 30.0 <= LONGEST


def test_many_fast_completions_are_measured_over_their_own_span() -> None:
    rate = CompletionRate()
    rate.started(0.0)
    for number in range(1000):
        rate.finished(number / 2, idle=False)
    assert rate.expected_wait(499.5) == 0.5 * 60 / 61


def test_no_more_time_is_counted_than_the_kept_completions_took() -> None:
    rate = CompletionRate()
    rate.started(0.0)
    for number in range(1000):
        rate.finished(number * 0.11, idle=False)
    assert rate.expected_wait(999 * 0.11) == pytest.approx(0.11 * 255 / 256)  # 256 are kept, of less than the window
