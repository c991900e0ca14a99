"""`return_routing`, `experts_per_token`, `mask_experts` and `force_experts` on all endpoints that have them."""

import functools
import json
import operator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from server.engine.types import ReturnedRouting, RoutingParams
from server.generation.model_facts import ModelFacts, RouterFacts
from server.generation.token_routing import MAX_CHOICES
from server.middleware.api_keys import hash_key
from tests.server.applications import Server, client_of, events_of, make_server
from tests.server.fake_engine import routed

LAYERS = (0, 2, 3)
ROUTER = RouterFacts("SoftmaxTopK", dict.fromkeys(LAYERS, 4), experts_per_token=2)
FACTS = ModelFacts(router=ROUTER)
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
    "/v1/completions": {"prompt": "Hi", "max_tokens": 20},
    "/v1/generate": {"prompt": "Hi"},
    "/v1/translate": {"text": "Hallo. Wie geht es?", "source_lang": "de", "target_lang": "en"},
}
PATHS = pytest.mark.parametrize("path", BODIES)


@pytest.fixture
def server() -> Server:
    server = make_server()
    server.service.facts = FACTS
    server.answer_with("Good day, 你好")
    return server


def routing_of(answer: dict[str, Any]) -> dict[str, Any]:
    """The routing of a whole answer, or of a chunk of one; empty where it has none."""
    part = next((answer[name][0] for name in ("choices", "translations") if answer.get(name)), answer)
    found: dict[str, Any] = part.get("routing", {})
    return found


@PATHS
def test_every_token_has_its_experts_and_streams_join_to_the_same(
    path: str, client: TestClient, server: Server
) -> None:
    body = BODIES[path] | {"return_routing": {"prompt": True}}
    whole = routing_of(client.post(path, json=body).json())
    requests = list(server.engine.submitted)
    assert whole["layers"] == list(LAYERS)
    assert [token["id"] for token in whole["prompt"]] == [t for r in requests for t in r.prompt_token_ids]
    answer = [*server.tokenizer.encode("Good day, 你好"), server.engine.eos[0]]
    assert [token["id"] for token in whole["tokens"]] == answer * len(requests)
    for token in (*whole["prompt"], *whole["tokens"]):
        (expected,) = routed(token["id"], ReturnedRouting(LAYERS))
        assert token["experts"] == [list(experts) for experts in expected.experts]
        assert token["gates"] == [[0.75, 0.25]] * len(LAYERS)
    assert whole["tokens"][0]["token"] == "G"
    assert whole["tokens"][-2]["token"].startswith("bytes:\\x")

    chunks = [routing_of(event) for event in events_of(client.post(path, json=body | {"stream": True}).text)]
    assert functools.reduce(operator.iadd, (chunk.get("tokens", []) for chunk in chunks), []) == whole["tokens"]
    assert functools.reduce(operator.iadd, (chunk.get("prompt", []) for chunk in chunks), []) == whole["prompt"]
    assert {tuple(chunk["layers"]) for chunk in chunks if chunk} == {LAYERS}


@PATHS
def test_without_the_field_nothing_is_said(path: str, client: TestClient, server: Server) -> None:
    for body in (BODIES[path], BODIES[path] | {"return_routing": False}):
        answer = client.post(path, json=body)
        assert "routing" not in answer.text
        assert "experts_per_token" not in answer.text
    assert {request.routing for request in server.engine.submitted} == {RoutingParams(task=path.removeprefix("/v1/"))}


def test_layers_and_top_are_chosen(client: TestClient) -> None:
    body = BODIES["/v1/generate"] | {"return_routing": {"layers": [3, 0], "top": 1}}
    routing = client.post("/v1/generate", json=body).json()["routing"]
    assert routing["layers"] == [3, 0]
    assert "prompt" not in routing
    assert all([len(layer) for layer in token["experts"]] == [1, 1] for token in routing["tokens"])


def test_an_answer_has_a_bounded_number_of_choices(client: TestClient, server: Server) -> None:
    """Divided among its generations."""
    body = {"prompt": ["a", "b"], "n": 3, "return_routing": True}
    client.post("/v1/completions", json=body)
    returned = [request.routing.returned for request in server.engine.submitted]
    assert [one.max_tokens for one in returned if one] == [MAX_CHOICES // (3 * 2) // 6] * 6


@pytest.mark.parametrize(
    ("most", "forced", "choices"),
    [(None, {}, 2), (3, {}, 3), (None, {"0": [0, 1, 2, 3]}, 4), (3, {"0": [1]}, 3)],
)
def test_more_choices_a_token_are_fewer_tokens(most: int | None, forced: dict[str, list[int]], choices: int) -> None:
    server = make_server(allow_expert_masks=True)
    server.service.facts = ModelFacts(router=replace(ROUTER, adaptive_most=most))
    with client_of(server) as client:
        body = {"prompt": "Hi", "return_routing": True, "force_experts": forced}
        assert client.post("/v1/generate", json=body).status_code == 200
    [request] = server.engine.submitted
    assert request.routing.returned is not None
    assert request.routing.returned.max_tokens == MAX_CHOICES // (3 * choices)


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"return_routing": {"layers": [1]}}, "return_routing.layers", "those that have are 0, 2, 3"),
        ({"return_routing": {"top": 0}}, "return_routing.top", "greater than or equal to 1"),
        ({"return_routing": 3}, "return_routing", "object"),
        ({"return_routing": {"depth": 1}}, "return_routing.depth", "not"),
        ({"experts_per_token": 3}, "experts_per_token", "this server takes 1 to 2"),
        ({"experts_per_token": 0}, "experts_per_token", "greater than or equal to 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(fields: dict[str, Any], param: str, words: str, client: TestClient) -> None:
    response = client.post("/v1/generate", json={"prompt": "Hi"} | fields)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"].startswith(param.split(".")[0])
    assert words in error["message"]


@pytest.mark.parametrize("fields", [{"return_routing": True}, {"experts_per_token": 1}])
def test_a_model_without_experts_refuses(fields: dict[str, Any], client: TestClient, server: Server) -> None:
    server.service.facts = ModelFacts()
    response = client.post("/v1/generate", json={"prompt": "Hi"} | fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, next(iter(fields)))


def test_a_router_that_chooses_the_number_takes_none(client: TestClient, server: Server) -> None:
    server.service.facts = ModelFacts(router=RouterFacts("TopP", {0: 4}))
    response = client.post("/v1/generate", json={"prompt": "Hi", "experts_per_token": 1})
    assert response.status_code == 400
    assert "TopP" in response.json()["error"]["message"]


@pytest.mark.parametrize("path", [*BODIES, "/v1/summarize"])
def test_the_number_of_experts_is_passed_on_and_told(path: str, client: TestClient, server: Server) -> None:
    body = BODIES.get(path, {"text": "One. Two. Three.", "method": "generate"})
    asked = body | {"experts_per_token": 1, "adaptive_experts": False}
    assert client.post(path, json=asked).json()["usage"]["experts_per_token"] == 1
    assert {(r.routing.experts_per_token, r.routing.adaptive) for r in server.engine.submitted} == {(1, False)}
    stream = asked | {"stream": True} | ({"stream_options": {"include_usage": True}} if "complet" in path else {})
    assert events_of(client.post(path, json=stream).text)[-1]["usage"]["experts_per_token"] == 1


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_the_last_chunk_tells_it_without_usage_too(path: str, client: TestClient) -> None:
    events = events_of(client.post(path, json=BODIES[path] | {"experts_per_token": 1, "stream": True}).text)
    assert [event.get("experts_per_token") for event in events] == [None] * (len(events) - 1) + [1]


def test_what_an_adaptive_engine_chose_is_told(client: TestClient, server: Server) -> None:
    server.engine.experts_per_token = 1
    assert client.post("/v1/generate", json={"prompt": "Hi"}).json()["usage"]["experts_per_token"] == 1


def test_masks_need_a_setting() -> None:
    body = {"prompt": "Hi", "mask_experts": {"2": [3, 0, 3], "0": [1]}}
    for allowed, status in ((False, 403), (True, 200)):
        server = make_server(allow_expert_masks=allowed)
        server.service.facts = FACTS
        with client_of(server) as client:
            assert client.post("/v1/generate", json=body).status_code == status
            masks = [request.routing.masked_experts for request in server.engine.submitted]
        assert masks == ([((0, (1,)), (2, (0, 3)))] if allowed else [])


def test_forced_experts_need_the_setting_too() -> None:
    body = {"prompt": "Hi", "force_experts": {"2": [3, 0], "0": [1]}}
    for allowed, status in ((False, 403), (True, 200)):
        server = make_server(allow_expert_masks=allowed)
        server.service.facts = FACTS
        with client_of(server) as client:
            response = client.post("/v1/generate", json=body)
            assert response.status_code == status
            if not allowed:
                assert response.json()["error"]["param"] == "force_experts"
            forced = [request.routing.forced_experts for request in server.engine.submitted]
        assert forced == ([((0, (1,)), (2, (0, 3)))] if allowed else [])


def test_what_the_server_may_give_by_itself_may_be_asked_for(client: TestClient, server: Server) -> None:
    server.service.facts = ModelFacts(router=replace(ROUTER, adaptive_most=3))
    assert client.get("/v1/routing").json()["experts_per_token"]["max"] == 3
    for number, status in ((3, 200), (4, 400)):
        body = {"prompt": "Hi", "experts_per_token": number}
        assert client.post("/v1/generate", json=body).status_code == status


def test_of_several_keys_only_an_admin_s_may_mask(tmp_path: Path) -> None:
    body = {"prompt": "Hi", "mask_experts": {"0": [1]}}
    keys = [
        {"name": name, "sha256": hash_key(name.encode()), "scopes": scopes}
        for name, scopes in (("user", ["inference"]), ("boss", ["inference", "admin"]))
    ]
    (tmp_path / "keys.json").write_text(json.dumps({"keys": keys}))
    server = make_server(allow_expert_masks=True, keys_file=str(tmp_path / "keys.json"))
    server.service.facts = FACTS
    with client_of(server) as client:
        for name, status in (("user", 403), ("boss", 200)):
            headers = {"Authorization": f"Bearer {name}"}
            assert client.post("/v1/generate", json=body, headers=headers).status_code == status
