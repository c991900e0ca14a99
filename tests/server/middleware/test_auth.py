"""The API key: every route of the application is closed, but for the public list."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from starlette.testclient import TestClient

from server.middleware.auth import MAX_SECRETS
from tests.server.applications import Server, client_of, make_server

KEY = "sésame-key"
PUBLIC = {"/health", "/health/live", "/health/ready", "/page"}


def all_routes(routes: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """(path, method) of every route; a kind of route that this does not know is an error, not a gap."""
    for route in routes:
        if hasattr(route, "path"):
            yield from ((route.path, method) for method in route.methods)
        else:
            yield from all_routes(route.original_router.routes)


ROUTES = sorted(set(all_routes(make_server().app().routes)))


@pytest.fixture(scope="module")
def closed() -> Iterator[TestClient]:
    with client_of(make_server(api_key=KEY)) as client:
        yield client


def authorization(value: str) -> dict[bytes, bytes]:
    return {b"Authorization": value.encode()}


def test_the_routes_are_really_found() -> None:
    assert {
        ("/v1/chat/completions", "POST"),
        ("/metrics", "GET"),
        ("/docs", "GET"),
        ("/openapi.json", "GET"),
        ("/health/live", "GET"),
    } <= set(ROUTES)


@pytest.mark.parametrize(("path", "method"), ROUTES, ids=lambda value: value)
def test_every_route_is_closed_or_on_the_public_list(closed: TestClient, path: str, method: str) -> None:
    response = closed.request(method, path.replace("{model_id:path}", "x"))
    if path in PUBLIC:
        assert response.status_code == 200
        return
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    if method != "HEAD":
        assert "API key" in str(response.json()["error"])


@pytest.mark.parametrize(
    "path", ["/nothing", "/health/live/", "//v1/models", "/v1/models/../../health/live", "/health/live/x", "/"]
)
def test_what_does_not_exist_is_closed_too(closed: TestClient, path: str) -> None:
    assert closed.get(path).status_code in (200, 401)
    if closed.get(path).status_code == 200:
        assert closed.get(path).json() == {"status": "alive"}


@pytest.mark.parametrize(
    "value",
    [
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        "Bearer",
        "Bearer ",
        KEY,
        f"Basic {KEY}",
        f"Bearer {KEY} {KEY}",
        "Bearer \u0131",
    ],
)
def test_wrong_keys_are_refused(closed: TestClient, value: str) -> None:
    assert closed.get("/v1/models", headers=authorization(value)).status_code == 401


@pytest.mark.parametrize("value", [f"Bearer {KEY}", f"bearer {KEY}", f"Bearer  {KEY}"])
def test_the_key_opens(closed: TestClient, value: str) -> None:
    assert closed.get("/v1/models", headers=authorization(value)).status_code == 200


@pytest.mark.parametrize("key", ["clé-à", "Grüße-ą…", "\u00e0", "a\u00a0b"])
def test_keys_of_any_letters_open(key: str) -> None:
    """Sent as UTF-8: the last bytes of these are spaces in Latin-1 (A0, 85), which must not be stripped."""
    with client_of(make_server(api_key=key)) as client:
        for value in (f"Bearer {key}", f"Bearer  {key} "):
            assert client.get("/v1/models", headers=authorization(value)).status_code == 200
        assert client.get("/v1/models", headers=authorization(f"Bearer {key[:-1]}")).status_code == 401


def test_metrics_can_be_made_public() -> None:
    with client_of(make_server(api_key=KEY, metrics_public=True)) as client:
        assert client.get("/metrics").status_code == 200
        assert client.get("/docs").status_code == 401


def test_without_a_key_everything_is_open(client: TestClient, server: Server) -> None:
    assert server.settings.api_key is None
    assert client.get("/v1/models").status_code == 200


@pytest.mark.parametrize(("key", "status"), [(KEY, 200), (KEY + "x", 401), ("", 401)])
def test_the_header_of_anthropic_s_clients_opens(closed: TestClient, key: str, status: int) -> None:
    assert closed.get("/v1/models", headers={b"x-api-key": key.encode()}).status_code == status


@pytest.mark.parametrize(("wrong", "status"), [(MAX_SECRETS - 1, 200), (MAX_SECRETS, 401)])
def test_few_keys_of_a_request_are_looked_up(closed: TestClient, wrong: int, status: int) -> None:
    """Each is compared with every key there is, and nobody has shown a key yet."""
    headers = [(b"x-api-key", b"wrong")] * wrong + [(b"authorization", f"Bearer {KEY}".encode())]
    assert closed.get("/v1/models", headers=headers).status_code == status
