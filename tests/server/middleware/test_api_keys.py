"""Several API keys: their scopes and limits, their hashes in a file, and its reload while the server runs."""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from server.middleware.api_keys import ApiKey, ApiKeys, KeyScope, hash_key, read_api_keys
from tests.server.applications import Server, client_of, make_server

GENERATE = {"prompt": "hello", "max_tokens": 3}


def entry(name: str, **fields: Any) -> dict[str, Any]:
    """The entry of a key whose secret is its name."""
    return {"name": name, "sha256": hash_key(name.encode()), **fields}


def write(path: Path, *entries: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"keys": entries}))
    return path


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    return write(
        tmp_path / "keys.json",
        entry("inference"),
        entry("all", scopes=[*KeyScope]),
        *(entry(scope, scopes=[scope]) for scope in ("batches", "metrics", "admin")),
    )


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def generate(client: TestClient, key: str) -> Any:
    return client.post("/v1/generate", json=GENERATE, headers=bearer(key))


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# The file


def test_toml_and_json_say_the_same(tmp_path: Path) -> None:
    digest = hash_key(b"secret")
    toml = tmp_path / "keys.toml"
    toml.write_text(f'[[keys]]\nname = "a"\nsha256 = "{digest}"\nscopes = ["inference", "metrics"]\npriority = 3\n')
    same = write(
        tmp_path / "keys.json",
        {"name": "a", "sha256": digest, "scopes": ["metrics", "inference"], "priority": 3},
    )
    assert read_api_keys(toml) == read_api_keys(same)
    assert read_api_keys(toml)[0].scopes == {KeyScope.INFERENCE, KeyScope.METRICS}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "cannot be used"),
        (f'[[keys]]\nname = "a b"\nsha256 = "{hash_key(b"x")}"', "keys.0.name"),
        ('[[keys]]\nname = "a"\nsha256 = "secret"', "keys.0.sha256"),
        ('[[keys]]\nname = "a"', "keys.0.sha256: Field required"),
        (f'[[keys]]\nname = "a"\nsha256 = "{hash_key(b"x")}"\nscopes = ["root"]', "keys.0.scopes.0"),
        (f'[[keys]]\nname = "a"\nsha256 = "{hash_key(b"x")}"\nrequest_per_minute = 1', "request_per_minute"),
        (f'[[keys]]\nname = "a"\nsha256 = "{hash_key(b"x")}"\ntokens_per_minute = 0', "tokens_per_minute"),
        (f'[[keys]]\nname = "a"\nsha256 = "{hash_key(b"x")}"\n' * 2, "two keys have the name a"),
    ],
)
def test_a_bad_file_is_refused_by_the_field(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_api_keys(path)


def test_a_file_that_is_not_there_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"keys.toml cannot be used"):
        make_server(keys_file=str(tmp_path / "keys.toml")).app()


def test_secrets_are_in_no_representation() -> None:
    keys = ApiKeys(fixed=[ApiKey(name="a", sha256=hash_key(b"hunter2"))])
    assert keys.find(b"hunter2") is not None
    assert "hunter2" not in repr(vars(keys))


# Scopes

SCOPED = [
    ("POST", "/v1/generate", "inference"),
    ("POST", "/generate", "inference"),
    ("POST", "/v1/tokenize/", "inference"),
    ("POST", "/api/chat", "inference"),
    ("POST", "/nothing", "inference"),
    ("GET", "/metrics", "metrics"),
    ("GET", "/v1/batches", "batches"),
    ("POST", "/batches/", "batches"),
    ("GET", "/v1/files/x/content", "batches"),
]


@pytest.mark.parametrize(("method", "path", "scope"), SCOPED)
def test_a_key_opens_what_its_scopes_say(keys_file: Path, method: str, path: str, scope: str) -> None:
    with client_of(make_server(keys_file=str(keys_file))) as client:
        statuses = {key: client.request(method, path, headers=bearer(key)).status_code for key in [*KeyScope, "all"]}
        assert client.request(method, path, headers=bearer("wrong")).status_code == 401
        assert client.request(method, path).status_code == 401
    assert {key for key, status in statuses.items() if status != 403} == {scope, "all"}


def test_every_key_may_read_what_is_served(keys_file: Path) -> None:
    with client_of(make_server(keys_file=str(keys_file))) as client:
        for key in KeyScope:
            assert client.get("/v1/models", headers=bearer(key)).status_code == 200


def test_the_error_names_key_and_scope(keys_file: Path) -> None:
    with client_of(make_server(keys_file=str(keys_file))) as client:
        error = generate(client, "metrics").json()["error"]
    assert error["type"] == "permission_error"
    assert error["message"] == "The API key 'metrics' does not have the scope inference, which this needs."


def test_the_single_key_keeps_working_beside_the_file(keys_file: Path) -> None:
    with client_of(make_server(keys_file=str(keys_file), api_key="single")) as client:
        for key in ("single", "inference"):
            assert generate(client, key).status_code == 200
        assert client.get("/metrics", headers=bearer("single")).status_code == 200


def test_the_name_of_the_single_key_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Files, batches and limits belong to names: a key of the file must not get those of the single key."""
    single = ApiKey(name="default", sha256=hash_key(b"single"))
    path = write(tmp_path / "keys.json", entry("default"))
    with pytest.raises(ValueError, match="ROUTELM_API_KEY has the name 'default'"):
        ApiKeys(path, [single])
    keys = ApiKeys(write(path, entry("a")), [single])
    write(path, entry("default"))
    keys.reload()
    assert "stay in force" in caplog.messages[-1]
    assert keys.find(b"default") is None
    assert keys.find(b"a") is not None


def test_an_empty_file_opens_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.touch()
    with client_of(make_server(keys_file=str(path))) as client:
        assert client.get("/v1/models", headers=bearer("")).status_code == 401
        assert client.get("/health/live").status_code == 200


# Reload


def test_a_changed_file_is_reloaded(keys_file: Path) -> None:
    with client_of(make_server(keys_file=str(keys_file))) as client:
        assert generate(client, "new").status_code == 401
        write(keys_file, entry("new"))
        eventually(lambda: generate(client, "new").status_code == 200)
        assert generate(client, "inference").status_code == 401


def test_the_log_counts_the_keys_of_the_file_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "keys.json", entry("a"))
    keys = ApiKeys(path, [ApiKey(name="default", sha256=hash_key(b"single"))])
    with caplog.at_level(logging.INFO):
        keys.reload()
    assert caplog.messages == [f"keys file {path} was reloaded: 1 keys"]


def test_a_broken_file_changes_nothing(keys_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = ApiKeys(keys_file)
    for breaking in (lambda: keys_file.write_text("{"), keys_file.unlink):
        breaking()
        with caplog.at_level(logging.ERROR):
            keys.reload()
        assert "stay in force" in caplog.messages[-1]
        assert keys.find(b"inference") is not None


# Limits


def limited(tmp_path: Path, **limits: int) -> Server:
    path = write(tmp_path / "keys.json", entry("limited", **limits), entry("other"))
    return make_server(keys_file=str(path))


def test_requests_per_minute_are_limited_per_key(tmp_path: Path) -> None:
    with client_of(limited(tmp_path, requests_per_minute=2)) as client:
        assert [generate(client, "limited").status_code for _ in range(3)] == [200, 200, 429]
        refused = generate(client, "limited")
        assert generate(client, "other").status_code == 200
        assert client.get("/v1/models", headers=bearer("limited")).status_code == 200
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert "'limited' is limited to 2 requests per minute" in refused.json()["error"]["message"]
    assert 25 <= int(refused.headers["retry-after"]) <= 30


def test_tokens_per_minute_are_limited(tmp_path: Path) -> None:
    with client_of(limited(tmp_path, tokens_per_minute=12)) as client:
        assert [generate(client, "limited").status_code for _ in range(3)] == [200, 200, 429]
        refused = generate(client, "limited")
    assert 30 < int(refused.headers["retry-after"]) <= 35, "two requests of 9 tokens: 7 too many, 5 seconds each"


def test_concurrent_requests_are_limited(tmp_path: Path) -> None:
    server = limited(tmp_path, max_concurrent_requests=1)
    server.engine.step_seconds = 0.01
    with client_of(server) as client:
        usage = client.app.state.api_keys.usage_of(client.app.state.api_keys.find(b"limited"))  # type: ignore[attr-defined]
        usage.running = 1
        refused = generate(client, "limited")
        usage.running = 0
        assert generate(client, "limited").status_code == 200
        assert usage.running == 0
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")


def test_usage_per_key_is_in_the_metrics(tmp_path: Path) -> None:
    with client_of(limited(tmp_path, requests_per_minute=1)) as client:
        for key in ("limited", "limited", "other", "wrong"):
            generate(client, key)
        client.post("/v1/chat/completions", json={"messages": [], "stream": True}, headers=bearer("other"))
        text = client.app.state.metrics.exposition("")[0].decode()  # type: ignore[attr-defined]
    for name, key, value in (
        ("requests_total", "limited", 1),
        ("requests_refused_total", "limited", 1),
        ("requests_total", "other", 2),
        ("prompt_tokens_total", "other", 6),
        ("generation_tokens_total", "other", 3),
    ):
        assert f'routelm:key_{name}{{key="{key}"}} {value}.0' in text
    assert "wrong" not in text


# The prefix cache


@pytest.mark.parametrize("separate", [True, False])
def test_keys_share_prefixes_unless_told_not_to(keys_file: Path, separate: bool) -> None:
    server = make_server(keys_file=str(keys_file), cache_salt_per_key=separate)
    with client_of(server) as client:
        for key in ("inference", "all", "all"):
            assert generate(client, key).status_code == 200
    salts = [request.cache_salt for request in server.engine.submitted]
    assert len(set(salts)) == (2 if separate else 1)
    assert salts[1] == salts[2]


def test_a_salt_of_the_request_cannot_reach_those_of_another_key(keys_file: Path) -> None:
    server = make_server(keys_file=str(keys_file), cache_salt_per_key=True)
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    with client_of(server) as client:
        for key, salt in (("all", "x"), ("inference", "x"), ("inference", "all\nx")):
            body = {**chat, "cache_salt": salt}
            assert client.post("/v1/chat/completions", json=body, headers=bearer(key)).status_code == 200
    assert len({request.cache_salt for request in server.engine.submitted}) == 3
