"""POST /v1/completions, also as evaluation harnesses use it."""

import math
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.server import fake_engine
from tests.server.applications import Server, events_of
from tests.server.fake_engine import logprob_of


def complete(client: TestClient, **fields: Any) -> Any:
    response = client.post("/v1/completions", json=fields)
    assert response.status_code == 200, response.text
    return response.json()


def refused(client: TestClient, **fields: Any) -> Any:
    response = client.post("/v1/completions", json=fields)
    assert response.status_code == 400, response.text
    return response.json()["error"]


def test_a_text_is_continued_after_the_start_token(client: TestClient, server: Server) -> None:
    server.answer_with(" and so on")
    answer = complete(client, prompt="once")
    assert answer["object"] == "text_completion"
    assert answer["id"].startswith("cmpl-")
    [choice] = answer["choices"]
    assert choice == {"index": 0, "text": " and so on", "logprobs": None, "finish_reason": "stop"}
    [request] = server.engine.submitted
    assert request.prompt_token_ids == (0, *server.tokenizer.encode("once"))
    assert request.sampling.max_tokens == 16


def test_the_four_forms_of_a_prompt(client: TestClient, server: Server) -> None:
    [a, b, c] = server.tokenizer.encode("abc")
    for prompt in ("abc", ["ab", "c"], [a, b, c], [[a], [b, c]]):
        complete(client, prompt=prompt)
    prompts = [request.prompt_token_ids for request in server.engine.submitted]
    assert prompts == [(0, a, b, c), (0, a, b), (0, c), (a, b, c), (a,), (b, c)]


def test_prompts_and_choices_are_in_order(client: TestClient, server: Server) -> None:
    server.engine.answer = lambda request: request.prompt_token_ids[-1:]
    server.engine.cached_tokens = 1
    answer = complete(client, prompt=["a", "b"], n=2)
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [
        (0, "a"),
        (1, "a"),
        (2, "b"),
        (3, "b"),
    ]
    assert answer["usage"]["prompt_tokens"] == 4
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}


def test_echo_puts_the_prompt_before_the_text(client: TestClient, server: Server) -> None:
    server.answer_with("cd")
    assert complete(client, prompt="ab", echo=True)["choices"][0]["text"] == "abcd"
    [a, b] = server.tokenizer.encode("ab")
    assert complete(client, prompt=[a, b], echo=True)["choices"][0]["text"] == "abcd"


@pytest.mark.parametrize("stream", [False, True])
def test_every_choice_echoes_its_own_prompt(client: TestClient, server: Server, stream: bool) -> None:
    server.answer_with("!")
    body = {"prompt": ["a", "b"], "n": 2, "echo": True}
    texts = [""] * 4
    if stream:
        for event in events_of(client.post("/v1/completions", json=body | {"stream": True}).text):
            texts[event["choices"][0]["index"]] += event["choices"][0]["text"]
    else:
        for choice in complete(client, **body)["choices"]:
            texts[choice["index"]] = choice["text"]
    assert texts == ["a!", "a!", "b!", "b!"]


def test_logprobs_columns(client: TestClient, server: Server) -> None:
    server.answer_with("xäy")
    logprobs = complete(client, prompt="ab", logprobs=2)["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["x", "bytes:\\xc3", "bytes:\\xa4", "y"]
    assert logprobs["text_offset"] == [0, 1, 1, 2]
    for token, chosen, top in zip(
        logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
    ):
        assert top[token] == chosen
        assert len(top) in (2, 3)


def test_the_likeliest_token_comes_first_in_top_logprobs(client: TestClient, server: Server) -> None:
    """A harness that asks whether the greedy choice was another token takes the first of equals."""
    server.engine.answer = lambda _: [40, 60]
    second, last = complete(client, prompt="ab", logprobs=2)["choices"][0]["logprobs"]["top_logprobs"]
    text = server.tokenizer.decode
    assert list(second) == [text([41]), text([40])], "the chosen one is the less likely of the two"
    assert list(last)[-1] == text([60])


@pytest.mark.parametrize("stream", [False, True])
def test_an_impossible_token_has_a_number_that_json_knows(
    client: TestClient, server: Server, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr(fake_engine, "logprob_of", lambda token, position: -math.inf)
    server.answer_with("x")
    response = client.post("/v1/completions", json={"prompt": "a", "logprobs": 0, "stream": stream})
    choice = (events_of(response.text) if stream else [response.json()])[0]["choices"][0]
    assert choice["logprobs"]["token_logprobs"] == [-9999.0]
    assert choice["logprobs"]["top_logprobs"] == [{"x": -9999.0}]


def test_the_requests_of_an_evaluation_harness(client: TestClient, server: Server) -> None:
    """Log-likelihood of a continuation: token ids, echo, one token more than asked about."""
    prompt = server.tokenizer.encode("context answer")
    context_length = len(server.tokenizer.encode("context"))
    body = {"temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    answer = complete(client, prompt=[prompt, prompt], **body)
    for choice in sorted(answer["choices"], key=lambda choice: choice["index"]):
        logprobs = choice["logprobs"]
        assert logprobs["token_logprobs"][0] is None
        assert logprobs["top_logprobs"][0] is None
        assert len(logprobs["token_logprobs"]) == len(prompt) + 1
        scored = logprobs["token_logprobs"][context_length:-1]
        assert scored == [logprob_of(token, place) for place, token in enumerate(prompt)][context_length:]
        for chosen, top in zip(scored, logprobs["top_logprobs"][context_length:-1], strict=True):
            assert chosen in top.values()
            assert max(top.values()) >= chosen


def test_a_prompt_can_be_scored_without_generating(client: TestClient, server: Server) -> None:
    answer = complete(client, prompt="abc", echo=True, logprobs=0, max_tokens=0)
    [choice] = answer["choices"]
    assert choice["text"] == "abc"
    assert choice["finish_reason"] == "length"
    assert len(choice["logprobs"]["token_logprobs"]) == 3
    assert None not in choice["logprobs"]["token_logprobs"], "the start token stands before the first"
    assert answer["usage"]["completion_tokens"] == 0
    assert server.engine.submitted[0].sampling.prompt_logprobs


def test_an_echo_alone_needs_no_token(client: TestClient, server: Server) -> None:
    answer = complete(client, prompt="abc", echo=True, max_tokens=0)
    [choice] = answer["choices"]
    assert choice == {"index": 0, "text": "abc", "logprobs": None, "finish_reason": "length"}
    assert server.engine.submitted[0].sampling.prompt_logprobs, "the engine takes max_tokens=0 to score a prompt"


def test_only_who_asks_pays_for_prompt_scores(client: TestClient, server: Server) -> None:
    complete(client, prompt="abc", echo=True)
    complete(client, prompt="abc", logprobs=1)
    assert [request.sampling.prompt_logprobs for request in server.engine.submitted] == [False, False]


@pytest.mark.parametrize("logprobs", [None, 0, 1])
@pytest.mark.parametrize("n", [1, 2])
def test_a_stream_is_the_whole_in_pieces(client: TestClient, server: Server, n: int, logprobs: int | None) -> None:
    server.answer_with("cdä")
    server.engine.cached_tokens = 1
    body: dict[str, Any] = {"prompt": ["ab", "x"], "n": n, "echo": True, "logprobs": logprobs}
    whole = complete(client, **body)
    response = client.post("/v1/completions", json=body | {"stream": True, "stream_options": {"include_usage": True}})
    *events, last = events_of(response.text)
    assert last["usage"] == whole["usage"]
    for choice in whole["choices"]:
        pieces: list[Any] = [event["choices"][0] for event in events if event["choices"][0]["index"] == choice["index"]]
        assert "".join(piece["text"] for piece in pieces) == choice["text"]
        assert pieces[-1]["finish_reason"] == choice["finish_reason"]
        if logprobs is not None:
            for column in choice["logprobs"]:
                joined = [entry for piece in pieces if piece["logprobs"] for entry in piece["logprobs"][column]]
                assert joined == choice["logprobs"][column]


def test_what_cannot_be_is_refused(client: TestClient, server: Server) -> None:
    assert refused(client, prompt="a", max_tokens=0)["param"] == "max_tokens"
    assert refused(client, prompt=[])["param"] == "prompt"
    assert refused(client, prompt=[[]])["param"] == "prompt.0"
    assert refused(client, prompt=[288])["param"] == "prompt"
    assert refused(client, prompt=["a", 1])["param"] == "prompt.1"
    assert refused(client, prompt=["a"] * 64, n=3)["param"] == "prompt"
    assert refused(client, prompt="a", best_of=4)["code"] == "unsupported_parameter"
    assert refused(client, prompt="a", suffix="b")["code"] == "unsupported_parameter"
    assert refused(client)["code"] == "missing_required_parameter"
    assert server.engine.submitted == []


def test_all_prompts_are_started_or_none(client: TestClient, server: Server) -> None:
    server.engine.occupied = server.engine.capacity - 2
    server.engine.step_seconds = 0.01
    response = client.post("/v1/completions", json={"prompt": ["a", "b", "c"]})
    assert response.status_code == 429
    assert len(server.engine.aborted) == 2


def test_more_than_the_server_ever_holds_is_no_matter_of_waiting(client: TestClient, server: Server) -> None:
    server.engine.capacity = 3
    response = client.post("/v1/completions", json={"prompt": ["a", "b", "c", "d"], "max_tokens": 1})
    assert response.status_code == 400
    assert "4 generations at once, and this server holds 3" in response.json()["error"]["message"]


def test_choices_count_as_generations_that_the_server_must_hold(client: TestClient, server: Server) -> None:
    server.engine.capacity = 3
    response = client.post("/v1/completions", json={"prompt": ["a", "b"], "n": 2, "max_tokens": 1})
    assert response.status_code == 400
    assert "4 generations at once, and this server holds 3" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": [[40] * 300] * 64, "n": 2, "echo": True, "max_tokens": 0, "logprobs": 20},
        {"prompt": ["abc"] * 64, "n": 2, "max_tokens": 400, "logprobs": 20},
    ],
    ids=["scored", "written"],
)
def test_more_log_probabilities_than_memory_holds_are_refused(
    client: TestClient, server: Server, fields: dict[str, Any]
) -> None:
    """Each field is in its bounds, but not their product."""
    response = client.post("/v1/completions", json=fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "logprobs"
    assert server.engine.submitted == []
    fewer = fields | {"logprobs": 1, "max_tokens": 0, "echo": True}
    assert client.post("/v1/completions", json=fewer).status_code == 200


def test_a_refused_request_counts_no_client_that_left(client: TestClient, server: Server) -> None:
    server.engine.occupied = server.engine.capacity - 3
    assert client.post("/v1/completions", json={"prompt": "abc", "n": 6}).status_code == 429
    assert len(server.engine.aborted) == 3
    counted = server.metrics.registry.get_sample_value
    assert counted("routelm:requests_aborted_total") == 0
    assert counted("routelm:requests_rejected_total", {"reason": "queue_full"}) == 1
