"""A server in the process of a command: it has one client, which waits for its answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from server.commands.common import api_client
from server.settings import Settings
from server.startup import uvicorn_server


@pytest.mark.parametrize(("given", "expected"), [({}, 86_400.0), ({"max_queue_wait": 5.0}, 5.0)])
def test_its_queue_is_not_bounded_in_seconds_and_its_speed_not_measured(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], expected: float
) -> None:
    seen: list[Settings] = []
    measured: list[bool] = []

    @contextmanager
    def in_background(settings: Settings, backend: object) -> Iterator[str]:
        seen.append(settings)
        yield "http://own"

    monkeypatch.setattr(uvicorn_server, "in_background", in_background)
    monkeypatch.setattr(api_client, "load_backend", lambda settings, *, measure: measured.append(measure))
    with api_client.server_url("", "bundled", **given) as url:
        assert url == "http://own"
    assert seen[0].max_queue_wait == expected
    assert measured == [False]
