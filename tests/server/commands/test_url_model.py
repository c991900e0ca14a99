"""Models behind HTTP, on a real server: with task endpoints, with chat alone, full, and broken."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from model.evaluation.progress import SilentProgress
from model.evaluation.requests import (
    Analyze,
    Continue,
    GenerationRequest,
    NotSupportedError,
    Reply,
    ReplyLikelihood,
    Summarize,
    TextLikelihood,
    Translate,
)
from server.commands.endpoints import ServerError
from server.commands.url_model import UrlModel

Answer = dict[str, Any] | int  # an int is the status of an error
Endpoint = Callable[[dict[str, Any]], Answer]

ADVANCE = SilentProgress().stage("", 0)
HELLO = ({"role": "user", "content": "Hello"},)


class Server(ThreadingHTTPServer):
    """Answers what the test says; remembers what was asked and how many requests ran at once."""

    daemon_threads = True

    def __init__(self, endpoints: dict[str, Endpoint]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.endpoints = {"/v1/models": lambda body: {"data": [{"id": "tiny"}]}} | endpoints
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.keys: list[str | None] = []
        self.lock = threading.Lock()
        self.running = self.most_running = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        with server.lock:
            server.asked.append((self.path, body))
            server.keys.append(self.headers.get("Authorization"))
            server.running += 1
            server.most_running = max(server.most_running, server.running)
        try:
            endpoint = server.endpoints.get(self.path)
            self._answer(404 if endpoint is None else endpoint(body))
        finally:
            with server.lock:
                server.running -= 1

    def _answer(self, answer: Answer) -> None:
        status, content = (answer, {"error": {"message": "no"}}) if isinstance(answer, int) else (200, answer)
        payload = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(payload)))
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def serving(**endpoints: Endpoint) -> Iterator[Server]:
    """`chat__completions` stands for /v1/chat/completions."""
    with Server({f"/v1/{name.replace('__', '/')}": endpoint for name, endpoint in endpoints.items()}) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def says(text: str) -> Endpoint:
    return lambda body: {"choices": [{"message": {"content": text}}]}


def completes(body: dict[str, Any]) -> Answer:
    """A model with a token per character, each with log-probability -1, that always goes on with "!"."""
    prompt = body["prompt"]
    if not body.get("echo"):
        return {"choices": [{"text": f" and {body['max_tokens']} more"}]}
    size = len(prompt) + 1
    logprobs = {"token_logprobs": [None, *[-1.0] * (size - 1)], "text_offset": list(range(size))}
    return {"choices": [{"text": "!", "logprobs": logprobs}]}


def test_task_endpoints_are_asked_by_meaning() -> None:
    with (
        serving(
            translate=lambda body: {"translations": [{"text": f"{body['source_lang']}>{body['target_lang']}"}]},
            summarize=lambda body: {"summary": f"{body['language']} {body['length']}"},
            analyze=lambda body: {"results": [{"label": "a", "scores": {"a": 0.75, "b": 0.25}}]},
            completions=completes,
            chat__completions=says("Hi!"),
        ) as server,
        UrlModel(server.url) as model,
    ):
        requests: list[GenerationRequest] = [
            Translate("x", "en", "de"),
            Summarize("x", "zh", "long"),
            Continue("Once", 5),
            Reply(HELLO, 9, temperature=0.5, seed=3),
        ]
        assert model.generate(requests, ADVANCE) == ["en>de", "zh long", " and 5 more", "Hi!"]
        assert model.classify([Analyze("x", ("a", "b"))], ADVANCE) == [{"a": 0.75, "b": 0.25}]
        assert model.name == "tiny"
        chat = next(body for path, body in server.asked if path == "/v1/chat/completions")
        assert chat == {"model": "tiny", "messages": list(HELLO), "max_tokens": 9, "temperature": 0.5, "seed": 3}


def test_without_task_endpoints_chat_is_asked_in_english() -> None:
    with serving(chat__completions=says(" Der Hund \n")) as server, UrlModel(server.url, concurrency=1) as model:
        requests = [Translate(text, "en", "de") for text in ("The dog", "The cat")]
        assert model.generate(requests, ADVANCE) == ["Der Hund", "Der Hund"]
        assert model.generate([Summarize("long text", "en", "short")], ADVANCE) == ["Der Hund"]
        paths = [path for path, _ in server.asked]
        assert paths.count("/v1/translate") == 1  # not tried again
        asked = next(body for path, body in server.asked if path == "/v1/chat/completions")
        assert "from English to German" in asked["messages"][0]["content"]
        assert asked["temperature"] == 0


@pytest.mark.parametrize(
    ("said", "label"),
    [("negative", "negative"), ("Negative.", "negative"), ("It is positive, not negative", "positive"), ("hm", "")],
)
def test_labels_of_a_chat_model_are_found_in_what_it_says(said: str, label: str) -> None:
    with serving(chat__completions=says(said)) as server, UrlModel(server.url) as model:
        [scores] = model.classify([Analyze("x", ("positive", "negative"))], ADVANCE)
        assert max(scores, key=lambda name: scores[name]) == label
        assert sum(scores.values()) == 1


def test_a_label_inside_another_is_not_mistaken_for_it() -> None:
    with serving(chat__completions=says("very good")) as server, UrlModel(server.url) as model:
        [scores] = model.classify([Analyze("x", ("very", "very good"))], ADVANCE)
        assert scores["very good"] == 1


def test_text_likelihood_leaves_out_what_was_not_scored() -> None:
    with serving(completions=completes) as server, UrlModel(server.url) as model:
        [found] = model.score([TextLikelihood("Häuser")], ADVANCE)
        # "H" has nothing before it; "!" was generated. The other five characters are six bytes.
        assert (found.log_likelihood, found.tokens, found.bytes) == (-5.0, 5, 6)


def test_reply_likelihood_scores_the_answers_tokens_alone() -> None:
    def tokenize(body: dict[str, Any]) -> Answer:
        return {"tokens": [1, 2, 3, 4] if "messages" in body else [7, 8]}

    with serving(tokenize=tokenize, completions=completes) as server, UrlModel(server.url) as model:
        [found] = model.score([ReplyLikelihood(HELLO, "Hi!")], ADVANCE)
        assert (found.log_likelihood, found.tokens, found.bytes) == (-2.0, 2, 3)
        assert server.asked[-1][1]["prompt"] == [1, 2, 3, 4, 7, 8]


@pytest.mark.parametrize("request_", [TextLikelihood("text"), ReplyLikelihood(HELLO, "Hi!")])
@pytest.mark.parametrize("completions", [404, 400, {"choices": [{"text": "x", "logprobs": None}]}])
def test_likelihoods_that_cannot_be_had_are_told(request_: Any, completions: Answer) -> None:
    with (
        serving(completions=lambda body: completions, tokenize=lambda body: {"tokens": [1]}) as server,
        UrlModel(server.url) as model,
        pytest.raises(NotSupportedError, match="tiny"),
    ):
        model.score([request_], ADVANCE)


def test_a_full_server_is_asked_again() -> None:
    answers: list[Answer] = [429, 503, {"summary": "done"}]
    with serving(summarize=lambda body: answers.pop(0)) as server, UrlModel(server.url, concurrency=1) as model:
        assert model.generate([Summarize("x", "en", "short")], ADVANCE) == ["done"]
        assert answers == []


def test_a_failing_server_ends_the_evaluation() -> None:
    with (
        serving(summarize=lambda body: 500) as server,
        UrlModel(server.url) as model,
        pytest.raises(ServerError, match="/v1/summarize answered 500"),
    ):
        model.generate([Summarize("x", "en", "short")] * 3, ADVANCE)


def test_answers_keep_their_order_and_concurrency_is_bounded() -> None:
    barrier = threading.Barrier(3, timeout=5)

    def slow(body: dict[str, Any]) -> Answer:
        barrier.wait()
        return {"summary": body["text"]}

    done = list[int]()
    with serving(summarize=slow) as server, UrlModel(server.url, concurrency=3) as model:
        texts = [f"text {n}" for n in range(9)]
        assert model.generate([Summarize(text, "en", "short") for text in texts], done.append) == texts
        assert server.most_running == 3
        assert sum(done) == 9


def test_key_and_model_are_sent() -> None:
    with (
        serving(chat__completions=says("x")) as server,
        UrlModel(f"{server.url}/v1/", model="big", api_key="secret") as model,
    ):
        model.generate([Reply(HELLO, 1)], ADVANCE)
        assert server.asked == [
            (
                "/v1/chat/completions",
                {"model": "big", "messages": list(HELLO), "max_tokens": 1, "temperature": 0.0, "seed": 0},
            )
        ]
        assert server.keys == ["Bearer secret"]


def test_wrong_urls_are_refused() -> None:
    with pytest.raises(ValueError, match="no scheme"):
        UrlModel("localhost:8000")
    with serving() as server:
        dead = server.url
    with pytest.raises(ServerError, match="no model at"):
        UrlModel(dead)
    with serving(models=lambda body: {"data": []}) as server, pytest.raises(ServerError, match="no model at"):
        UrlModel(server.url)
