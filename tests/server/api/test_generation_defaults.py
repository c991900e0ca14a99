"""What a request leaves out, the checkpoint's generation_config.json says; tasks with one best answer stay greedy."""

from typing import Any

import pytest

from server.engine.types import SamplingParams
from server.generation.defaults import GenerationDefaults
from tests.server.applications import Server, client_of, make_server

DEFAULTS = GenerationDefaults(temperature=0.6, top_p=0.9, top_k=20, min_p=0.1, repetition_penalty=1.1)
PLAIN_TEXT = GenerationDefaults(temperature=0.8, top_p=0.95, top_k=30, min_p=0.05, repetition_penalty=1.2)
NAMES = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}


@pytest.fixture
def server() -> Server:
    made = make_server()
    made.service.defaults = DEFAULTS
    made.service.plain_text_defaults = PLAIN_TEXT
    return made


def sampling(server: Server, path: str, body: dict[str, Any]) -> SamplingParams:
    with client_of(server) as client:
        assert client.post(path, json=body).status_code == 200
    return server.engine.submitted[-1].sampling


@pytest.mark.parametrize(
    ("path", "body", "recommended"),
    [
        ("/v1/chat/completions", CHAT, DEFAULTS),
        ("/v1/completions", {"prompt": "x"}, PLAIN_TEXT),
        ("/v1/generate", {"prompt": "x"}, PLAIN_TEXT),
    ],
)
def test_open_endpoints_sample_as_recommended(
    server: Server, path: str, body: dict[str, Any], recommended: GenerationDefaults
) -> None:
    chosen = sampling(server, path, body)
    assert [getattr(chosen, name) for name in NAMES] == [getattr(recommended, name) for name in NAMES]


def test_what_a_request_names_wins(server: Server) -> None:
    named = {"temperature": 0, "top_p": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1}
    chosen = sampling(server, "/v1/chat/completions", CHAT | named)
    assert [getattr(chosen, name) for name in NAMES] == [0, 1, 0, 0, 1]


def test_tasks_with_one_best_answer_stay_greedy(server: Server) -> None:
    chosen = sampling(server, "/v1/translate", {"text": "x", "target_lang": "de", "beam_width": 1})
    assert [getattr(chosen, name) for name in NAMES] == [0, 1, 0, 0, 1]
