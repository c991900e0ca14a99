"""Minutes of faults, shortened to one; and that what remains of them would be seen."""

from typing import Any

import pytest

from benchmarks.chaos import broken_promises, measure

WHOLE: dict[str, Any] = {
    "clients": {"1 terminal events": 90, "reads_all": 100, "status 200": 90, "status 429": 8, "status 500": 2},
    "health_failures": [],
    "slow_health_probes": [{"seconds": 1.5, "waited_for_processor": 0.9}],
    "left": {"routelm:kv_blocks_used": 0, "process_open_fds": -2},
}


@pytest.mark.slow
def test_a_server_stays_whole_through_a_minute_of_chaos() -> None:
    figures = measure(1.0)
    assert broken_promises(figures) == []
    assert figures["stops"] > 0
    assert figures["engine_step_failures_total"] > 0
    assert all(figures["clients"].get(kind) for kind in ("reads_all", "cancels", "resets", "reads_slowly"))


@pytest.mark.parametrize(
    ("field", "name", "value", "broken"),
    [
        ("left", "process_open_fds", 3, "process_open_fds: 3 left"),
        ("clients", "0 terminal events", 1, "1 streams had 0 terminal events"),
        ("clients", "status 502", 1, "1 answers with status 502"),
        ("clients", "reads_all: ConnectionError", 1, "1 answers broke off: reads_all: ConnectionError"),
    ],
)
def test_each_broken_promise_is_told(field: str, name: str, value: int, broken: str) -> None:
    assert broken_promises(WHOLE) == []
    assert broken_promises(WHOLE | {field: WHOLE[field] | {name: value}}) == [broken]


def test_a_health_probe_may_take_a_second_beside_the_time_that_others_had_the_processors() -> None:
    slow = {"seconds": 1.5, "waited_for_processor": 0.4}
    assert broken_promises(WHOLE | {"slow_health_probes": [slow]}) == ["/health/live took 1.5 s"]
