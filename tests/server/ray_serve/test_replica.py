"""A replica without Ray: it answers and tells its health."""

import pytest

from server.ray_serve.forwarding import ForwardedRequest
from server.ray_serve.replica import EngineReplica, load_app
from tests.server.applications import make_server

pytestmark = pytest.mark.anyio


async def test_a_replica_lives_as_long_as_serve_wants() -> None:
    server = make_server()
    replica = EngineReplica.__new__(EngineReplica)
    await replica.__init__(server.app)  # type: ignore[misc]  # as Serve does, which awaits it
    await replica.check_health()
    request = ForwardedRequest("GET", "/health/ready", b"/health/ready", b"", [])
    messages = [message async for some in replica(request) for message in some]
    assert messages[0]["status"] == 200
    assert messages[-1]["body"] == b'{"status":"ready"}'

    server.engine.healthy = False
    with pytest.raises(RuntimeError, match="steps"):
        await replica.check_health()


def test_batches_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTELM_BATCH_DIR", "/somewhere")
    with pytest.raises(ValueError, match="ROUTELM_BATCH_DIR"):
        load_app()
