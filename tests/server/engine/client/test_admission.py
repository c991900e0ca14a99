"""How many requests are taken, and what a refused client is told to wait."""

import pytest

from server.engine.client.admission import MAX_WAIT, MIN_WAIT, AdmissionControl
from server.engine.client.base import QueueFullError


def busy(*, since: float) -> AdmissionControl:
    """With so many requests that it never becomes idle."""
    admission = AdmissionControl(2000)
    for _ in range(1100):
        admission.admit(since)
    return admission


def test_the_capacity_is_kept_and_given_back() -> None:
    admission = AdmissionControl(2)
    admission.admit(0.0)
    admission.admit(0.0)
    with pytest.raises(QueueFullError) as refusal:
        admission.admit(5.0)
    assert refusal.value.retry_after == 5.0
    assert admission.free_capacity == 0
    admission.release(6.0)
    assert admission.free_capacity == 1
    admission.admit(6.0)


def test_the_wait_is_the_time_between_completions() -> None:
    admission = busy(since=0.0)
    for second in range(1, 11):
        admission.release(float(second))
    assert admission.expected_wait(10.0) == 1.0


def test_without_a_completion_it_grows_with_the_time_waited() -> None:
    admission = busy(since=100.0)
    assert admission.expected_wait(100.0) == MIN_WAIT
    assert admission.expected_wait(105.0) == 5.0


def test_idle_time_does_not_count() -> None:
    admission = AdmissionControl(9)
    admission.admit(0.0)
    admission.release(1.0)
    for _ in range(3):
        admission.admit(1000.0)
    admission.release(1001.0)
    admission.release(1002.0)
    assert admission.expected_wait(1002.0) == 1.0


def test_old_completions_are_forgotten_and_the_wait_is_bounded() -> None:
    admission = busy(since=0.0)
    for _ in range(300):
        admission.release(1.0)
    assert admission.expected_wait(1.0) == MIN_WAIT
    assert admission.expected_wait(500.0) == 30.0 <= MAX_WAIT


def test_many_fast_completions_are_measured_over_their_own_span() -> None:
    admission = busy(since=0.0)
    for number in range(1000):
        admission.release(number / 2)
    assert admission.expected_wait(499.5) == 0.5 * 60 / 61


def test_no_more_time_is_counted_than_the_kept_completions_took() -> None:
    admission = busy(since=0.0)
    for number in range(1000):
        admission.release(number * 0.11)
    assert admission.expected_wait(999 * 0.11) == pytest.approx(0.11 * 255 / 256)  # 256 are kept, within the window
