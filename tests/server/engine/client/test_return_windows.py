"""Places are kept for refused clients, for as many as usually return when they are told to."""

import heapq
import random
from dataclasses import dataclass, field
from itertools import count
from statistics import fmean

import pytest

from server.engine.client.admission import AdmissionControl, QueueLimits
from server.engine.client.base import QueueFullError
from server.engine.client.return_windows import QueueForecast, ReturnWindows
from server.engine.types import GenerateRequest, SamplingParams

LIMITS = QueueLimits(max_running=16, max_queue=48, max_tokens=100_000, max_wait=10.0)
WARM_UP = 30.0  # seconds
FULL = QueueForecast(fill=1.0, drain=4.0, earliest=1.0, lookalike_rate=0.0)


@dataclass
class Flood:
    """Clients that ask for something else each time: once they are answered, or a second after they were refused."""

    clients: int
    seconds: float = 120.0
    queued: list[int] = field(default_factory=list)  # what waits for a slot, at each arrival
    num_refused: int = 0

    def run(self) -> "Flood":
        draw, numbers = random.Random(0), count()
        admission, queue, free = AdmissionControl(LIMITS), list[str](), LIMITS.max_running
        events = [(draw.uniform(0, 0.1), next(numbers), "") for _ in range(self.clients)]
        while events[0][0] < self.seconds:
            now, number, ended = heapq.heappop(events)
            if ended:
                admission.release(ended, now)
                free += 1
                heapq.heappush(events, (now + 0.01, next(numbers), ""))
            else:
                new = GenerateRequest(f"r{number}", (number,) * draw.randint(10, 90), SamplingParams(max_tokens=50))
                try:
                    admission.admit(new, now)
                    queue.append(new.request_id)
                except QueueFullError:
                    self.num_refused += now > WARM_UP
                    heapq.heappush(events, (now + 1.0, next(numbers), ""))
                if now > WARM_UP:
                    self.queued.append(len(queue))
            while queue and free:
                request_id, free = queue.pop(0), free - 1
                admission.record_output(request_id, 1, now)
                heapq.heappush(events, (now + draw.uniform(1.0, 3.0), next(numbers), request_id))
        return self


def test_a_queue_is_used_where_nobody_returns_when_told_to() -> None:
    """Ten clients more than there are places, so that some are refused all the time."""
    flood = Flood(clients=LIMITS.max_running + LIMITS.max_queue + 10).run()
    assert fmean(flood.queued) > 0.8 * LIMITS.max_queue
    assert flood.num_refused < 1500, "ten a second, and those that come while one of them waits a second"


def test_it_is_nearly_empty_if_places_are_kept_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    monkeypatch.setattr(ReturnWindows, "attendance", 1.0)
    flood = Flood(clients=LIMITS.max_running + LIMITS.max_queue + 10).run()
    assert fmean(flood.queued) < 0.5 * LIMITS.max_queue
    assert flood.num_refused > 1500


def returned(told: int, came: int, now: float = 0.0) -> ReturnWindows:
    """After one window, for which some were told to come and some did."""
    windows = ReturnWindows()
    waits = [windows.book(key, 0.01, now, FULL) for key in range(told)]
    for key in range(came):
        assert windows.welcome(key, now + waits[key] + 0.01)
    assert not windows.are_booked(now + 10.0)
    return windows


def test_all_are_expected_to_return_at_first_and_as_long_as_they_do() -> None:
    assert ReturnWindows().attendance == returned(told=8, came=8).attendance == 1.0


def test_who_does_not_return_is_not_expected() -> None:
    assert returned(told=8, came=0).attendance < 0.1
    assert 0.5 < returned(told=8, came=4).attendance < 0.6


def test_more_that_look_the_same_than_were_told_to_return_count_as_all() -> None:
    windows = ReturnWindows()
    seconds = windows.book(1, 0.01, 0.0, FULL)
    assert all(windows.welcome(1, seconds + 0.01) for _ in range(5))
    assert not windows.are_booked(10.0)
    assert windows.attendance == 1.0


def test_who_comes_too_early_has_not_returned() -> None:
    windows = ReturnWindows()
    seconds = windows.book(1, 0.01, 0.0, FULL)
    assert not windows.welcome(1, seconds - 0.5)
    assert not windows.are_booked(10.0)
    assert windows.attendance < 1.0
