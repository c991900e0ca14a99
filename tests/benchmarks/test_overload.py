"""Three times what a server can do, shortened to half a minute; and that what remains of it would be seen."""

import argparse
from typing import Any

import pytest

from benchmarks.overload import broken_promises, measure
from benchmarks.servers import OURS

COUNTED = ("statuses", "without_retry_after", "terminal_events", "broken_off", "ended_by_the_servers_count")
KEPT: dict[str, Any] = {
    "ttft_seconds": {"p95": 9.5},
    "goodput_ratio": 0.93,
    "first_return_served": 0.95,
    "statuses": {200: 90, 429: 30},
    "without_retry_after": 0,
    "terminal_events": {1: 90},
    "broken_off": 0,
    "ended_by_the_servers_count": 90,
}


@pytest.mark.slow
def test_nothing_is_lost_under_overload() -> None:
    """Speed is not asserted here: half a minute on a busy machine shows nothing of it."""
    given = argparse.Namespace(minutes=0.5, factor=3.0, vocabulary=7680)
    figures = measure(f"{OURS} --model bundled", given)
    assert broken_promises(KEPT | {name: figures[name] for name in COUNTED}) == []
    assert figures["statuses"][200] > 10


@pytest.mark.parametrize(
    ("field", "value", "broken"),
    [
        ("ttft_seconds", {"p95": 10.4}, "TTFT p95 is 10.4 s"),
        ("goodput_ratio", 0.8, "goodput is 0.8 of the closed loop's"),
        ("first_return_served", 0.5, "0.5 were served at the first return"),
        ("statuses", {200: 90, 500: 1}, "statuses [200, 500]"),
        ("without_retry_after", 1, "1 refusals had no Retry-After"),
        ("terminal_events", {1: 89, 0: 1}, "terminal events {1: 89, 0: 1}"),
        ("broken_off", 2, "2 answers broke off"),
        ("ended_by_the_servers_count", 91, "90 answers, the server counted 91"),
    ],
)
def test_each_broken_promise_is_told(field: str, value: Any, broken: str) -> None:
    assert broken_promises(KEPT) == []
    assert broken_promises(KEPT | {field: value}) == [broken]
