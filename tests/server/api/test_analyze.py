"""POST /v1/analyze: likelihoods of labels become scores."""

import math
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.server import fake_engine
from tests.server.applications import Server
from tests.server.fake_engine import logprob_of


def analyze(client: TestClient, **fields: Any) -> Any:
    response = client.post("/v1/analyze", json=fields)
    assert response.status_code == 200, response.text
    return response.json()


def test_scores_are_the_softmax_of_summed_log_likelihoods(client: TestClient, server: Server) -> None:
    labels = ["positive", "negative", "neutral"]
    answer = analyze(client, text="a fine day", labels=labels)
    shared = server.engine.submitted[0].boundaries[-1]
    weights = {}
    for label, request in zip(labels, server.engine.submitted, strict=True):
        answer_ids = request.prompt_token_ids[shared:]
        assert answer_ids == (*server.tokenizer.encode(label), 2)
        weights[label] = math.exp(math.fsum(logprob_of(t, shared + i) for i, t in enumerate(answer_ids)))
    [result] = answer["results"]
    assert result["scores"] == pytest.approx({label: w / sum(weights.values()) for label, w in weights.items()})
    assert result["label"] == max(weights, key=lambda label: weights[label])
    assert sum(result["scores"].values()) == pytest.approx(1)


def test_labels_that_are_all_very_unlikely_still_have_scores(
    client: TestClient, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their likelihoods are too small for a float."""
    monkeypatch.setattr(fake_engine, "logprob_of", lambda token, position: -1000.0)
    [result] = analyze(client, text="one", labels=["a", "b", "ccc"])["results"]
    assert result["scores"] == {"a": 0.5, "b": 0.5, "ccc": 0.0}


def test_labels_share_the_prompt_and_nothing_is_generated(client: TestClient, server: Server) -> None:
    answer = analyze(client, text=["one", "two"], labels=["a", "b", "c"])
    assert len(answer["results"]) == 2
    requests = server.engine.submitted
    assert len(requests) == 6
    assert len({request.prompt_token_ids[: request.boundaries[-1]] for request in requests}) == 2
    assert all(request.sampling.max_tokens == 0 and request.sampling.prompt_logprobs for request in requests)
    assert server.tokenizer.decode(requests[0].prompt_token_ids, skip_special=False).startswith(
        "<|im_start|>system\n<|task:analyze|>a, b, c<|im_end|>"
    )
    assert answer["usage"]["completion_tokens"] == 0
    assert answer["usage"]["prompt_tokens"] == sum(len(request.prompt_token_ids) for request in requests)


def test_the_first_label_goes_ahead_so_that_the_others_find_the_prompt(client: TestClient, server: Server) -> None:
    running: list[int] = []
    server.engine.answer = lambda _: running.append(server.engine.running) or ()  # type: ignore[func-returns-value]
    analyze(client, text="one", labels=["a", "b", "c"])
    assert running == [1, 2, 2] or running == [1, 2, 1]


def test_a_label_cannot_bring_special_tokens(client: TestClient, server: Server) -> None:
    analyze(client, text="one", labels=["<|im_end|>", "b"])
    shared = server.engine.submitted[0].boundaries[-1]
    assert list(server.engine.submitted[0].prompt_token_ids[shared:]).count(2) == 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"text": "a", "labels": ["one"]}, "labels"),
        ({"text": "a", "labels": [str(n) for n in range(33)]}, "labels"),
        ({"text": "a", "labels": ["x", " x "]}, "labels"),
        ({"text": "a", "labels": ["x", " "]}, "labels.1"),
        ({"text": "a", "labels": ["x", "y" * 129]}, "labels.1"),
        ({"text": "a"}, "labels"),
        ({"text": ["a"] * 16, "labels": [str(n) for n in range(9)]}, "text"),
        ({"text": "a", "labels": ["x", "y"], "grammar": "x"}, "grammar"),
        ({"text": "a", "response_format": {"type": "text"}}, "labels"),
        ({"text": "a", "guided_regex": "x"}, "guided_regex"),
        ({"text": "a", "json_schema": {"not": {}}}, "json_schema.not"),
        ({"text": "a" * 500, "json_schema": {"type": "object"}}, None),
    ],
)
def test_what_cannot_be_is_refused(client: TestClient, server: Server, fields: dict[str, Any], param: str) -> None:
    response = client.post("/v1/analyze", json=fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert server.engine.submitted == []


def test_the_most_scores_fit_a_small_server(client: TestClient, server: Server) -> None:
    server.engine.capacity = 40
    answer = analyze(client, text=["one", "two", "three", "four"], labels=[f"label {n}" for n in range(32)])
    assert len(answer["results"]) == 4
    assert len(server.engine.submitted) == 128


SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "description": "where"}}, "required": ["city"]}


def test_a_schema_is_filled_in_for_each_text(client: TestClient, server: Server) -> None:
    server.answer_with('{"city": "Bonn"}')
    answer = analyze(client, text=["I live in Bonn.", "So do I."], json_schema=SCHEMA)
    assert answer["results"] == [{"data": {"city": "Bonn"}, "finish_reason": "stop"}] * 2
    assert answer["usage"]["completion_tokens"] > 0
    first, second = server.engine.submitted
    assert first.sampling.grammar == second.sampling.grammar
    assert first.sampling.grammar is not None
    assert first.sampling.temperature == 0
    prompt = server.tokenizer.decode(first.prompt_token_ids)
    assert '"description": "where"' in prompt
    assert "I live in Bonn." in prompt


def test_a_value_that_is_cut_off_is_null(client: TestClient, server: Server) -> None:
    server.answer_with('{"city": "Bonn"}')
    answer = analyze(client, text="I live in Bonn.", json_schema=SCHEMA, max_tokens=5)
    assert answer["results"] == [{"data": None, "finish_reason": "length"}]


def test_sampling_fields_have_no_effect_on_labels(client: TestClient) -> None:
    answer = analyze(client, text="one", labels=["a", "b"], temperature=1, seed=None, ignore_eos=False)
    assert [warning.split(":")[0] for warning in answer["warnings"]] == ["temperature"]
