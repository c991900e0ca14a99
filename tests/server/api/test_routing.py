"""GET /v1/routing."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from model.loading.routing_baseline import RoutingBaseline
from server.engine.types import LabelLoad
from server.generation.model_facts import ModelFacts, RouterFacts
from server.middleware.api_keys import hash_key
from tests.server.applications import Server, client_of, make_server

LOADS = (
    LabelLoad("chat/completions", 1000, ((1500, 500, 0, 0), (0, 1000, 500, 500))),
    LabelLoad("translate", 2000, ((500, 1500, 2000, 0), (3000, 0, 500, 500))),
)
BY_KEY = LabelLoad("user", 4, ((1, 3, 0, 0), (0, 0, 0, 0)))
USUAL = {0: (0.25,) * 4, 2: (0.5, 0.1666, 0.1666, 0.1668)}


def facts(shares: Mapping[int, tuple[float, ...]] | None = None, number: int | None = 2) -> ModelFacts:
    baseline = None if shares is None else RoutingBaseline(50_000, shares)
    return ModelFacts(router=RouterFacts("SoftmaxTopK", {0: 4, 2: 4}, number, baseline))


def test_shares_entropy_and_imbalance_by_hand(client: TestClient, server: Server) -> None:
    server.service.facts, server.engine.loads = facts(USUAL), LOADS
    report = client.get("/v1/routing?minutes=2").json()
    assert (report["num_tokens"], report["minutes"], report["router"]) == (3000, 2, "SoftmaxTopK")
    assert report["experts_per_token"] == {"default": 2, "min": 1, "max": 2, "current": 2}
    first, second = report["layers"]
    assert (first["layer"], second["layer"]) == (0, 2)
    assert first["share"] == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
    assert first["entropy"] == pytest.approx(1.5849625)
    assert first["imbalance"] == pytest.approx(1 / 3)
    assert first["idle_experts"] == [3]
    assert first["experts_per_token"] == 2
    assert first["drift"] > 0.1 > second["drift"]
    assert report["tasks"][1] == {
        "task": "translate", "num_tokens": 2000, "share": [[0.125, 0.375, 0.5, 0.0], [0.75, 0.0, 0.125, 0.125]],
    }  # fmt: skip
    assert report["baseline"]["num_tokens"] == 50_000
    assert report["baseline"]["alarm"].startswith("The experts of layer 0 are not used as in the baseline")


def test_keys_are_told_to_admins(tmp_path: Path) -> None:
    keys = [
        {"name": name, "sha256": hash_key(name.encode()), "scopes": scopes}
        for name, scopes in (("user", ["inference"]), ("boss", ["inference", "admin"]))
    ]
    (tmp_path / "keys.json").write_text(json.dumps({"keys": keys}))
    server = make_server(keys_file=str(tmp_path / "keys.json"))
    server.service.facts, server.engine.loads, server.engine.by_tenant = facts(), LOADS, (BY_KEY,)
    with client_of(server) as client:
        user, boss = (
            client.get("/v1/routing", headers={"Authorization": f"Bearer {name}"}).json() for name in ("user", "boss")
        )
    assert boss["keys"] == [{"key": "user", "num_tokens": 4, "share": [[0.25, 0.75, 0.0, 0.0], [0.0] * 4]}]
    assert user == {name: value for name, value in boss.items() if name != "keys"}


def test_without_keys_there_are_none(client: TestClient, server: Server) -> None:
    server.service.facts = facts()
    assert "keys" not in client.get("/v1/routing").json()


def test_few_tokens_raise_no_alarm(client: TestClient, server: Server) -> None:
    server.service.facts, server.engine.loads = facts(USUAL), LOADS
    report = client.get("/v1/routing?minutes=1").json()
    assert report["num_tokens"] == 1000
    assert report["baseline"]["alarm"] is None


def test_before_any_request_shares_are_zero(client: TestClient, server: Server) -> None:
    server.service.facts = facts(USUAL, number=None)
    report = client.get("/v1/routing").json()
    assert [layer["share"] for layer in report["layers"]] == [[0.0] * 4] * 2
    assert report["experts_per_token"] is None
    assert report["baseline"] == {"num_tokens": 50_000, "drift": None, "alarm": None}


def test_a_model_without_experts_has_no_layers(client: TestClient) -> None:
    report = client.get("/v1/routing").json()
    assert (report["layers"], report["tasks"], report["router"], report["baseline"]) == ([], [], None, None)


@pytest.mark.parametrize("minutes", ["0", "16", "x"])
def test_minutes_are_bounded(minutes: str, client: TestClient) -> None:
    assert client.get(f"/v1/routing?minutes={minutes}").status_code == 400
