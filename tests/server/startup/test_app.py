"""Which web pages may call."""

import pytest

from tests.server.applications import client_of, make_server

PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang,x-stainless-os,x-title",
}


def preflight(origin: str, **settings: str) -> tuple[int, str | None]:
    """Status, and the origin that may call, of the request that a browser sends before another one."""
    with client_of(make_server(api_key="secret", **settings)) as client:
        response = client.options("/v1/chat/completions", headers={"Origin": origin, **PREFLIGHT})
        actual = client.get("/v1/models", headers={"Origin": origin})
    assert actual.status_code == 401
    allowed = response.headers.get("access-control-allow-origin")
    assert actual.headers.get("access-control-allow-origin") == allowed
    if response.status_code == 200:
        assert response.headers["access-control-allow-headers"] == PREFLIGHT["Access-Control-Request-Headers"]
        exposed = actual.headers["access-control-expose-headers"]
        assert {"Retry-After", "X-Request-Id", "X-RouteLM-Warnings"} <= set(exposed.split(", "))
    return response.status_code, allowed


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1", "https://[::1]:8080"])
def test_pages_of_this_machine_may_call_with_any_header(origin: str) -> None:
    assert preflight(origin) == (200, origin)


@pytest.mark.parametrize(
    "origin", ["https://a.example", "http://localhost.a.example", "http://localhost:3000.a.example", "null"]
)
def test_other_pages_may_not(origin: str) -> None:
    assert preflight(origin) == (400, None)


def test_origins_that_are_named_may_call_and_only_they() -> None:
    assert preflight("https://a.example", cors_origins="https://a.example") == (200, "https://a.example")
    assert preflight("https://b.example", cors_origins="https://a.example") == (400, None)
    assert preflight("http://localhost:3000", cors_origins="https://a.example") == (400, None)
    both = "https://a.example, localhost"
    assert preflight("http://localhost:3000", cors_origins=both) == (200, "http://localhost:3000")


def test_all_pages_or_none() -> None:
    assert preflight("https://a.example", cors_origins="*") == (200, "*")
    assert preflight("http://localhost:3000", cors_origins="none") == (400, None)
