"""Random requests at the edges of what is allowed, on a real engine: each has one end, and nothing is left behind."""

import json
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from model.training.train_tokenizer import CHAT_TEMPLATE
from server.engine.client.async_llm import AsyncLLM
from server.engine.engine import Engine
from server.engine.grammar.compiler import GrammarCompiler
from server.engine.types import EngineStats
from server.generation.grammar_tokenizer import open_grammar_tokenizer
from server.settings import Settings
from server.startup.app import Backend, create_app
from tests.server.applications import backend_on, byte_tokenizer, events_of
from tests.server.engine.tiny import MAX_LEN, engine_config, tiny_config, tiny_network

TOKENIZER = byte_tokenizer()
VOCAB = 288  # the tokenizer's, rounded up
TEXTS = st.text(st.sampled_from("ab é你\n<|im_end|>. "), max_size=40)
SAMPLING: dict[str, st.SearchStrategy[Any]] = {
    "max_tokens": st.sampled_from([-1, 1, 2, 7, 7.0, 10**6]),
    "temperature": st.sampled_from([0, 1e-6, 1, 5]),
    "top_p": st.sampled_from([0, 1e-9, 0.5, 1]),
    "top_k": st.sampled_from([-1, 0, 1, 10**7]),
    "min_p": st.sampled_from([0, 1e-9, 1]),
    "repetition_penalty": st.sampled_from([0.01, 1, 10]),
    "presence_penalty": st.sampled_from([-2, 2]),
    "frequency_penalty": st.sampled_from([-2, 2]),
    "logit_bias": st.dictionaries(st.sampled_from(["0", "2", "40", "260"]), st.sampled_from([-100, 100]), max_size=4),
    "stop": st.lists(st.sampled_from(["a", "\n", "你", ""]), max_size=3),
    "include_stop_str_in_output": st.booleans(),
    "skip_special_tokens": st.booleans(),
    "allowed_token_ids": st.lists(st.sampled_from([0, 2, 40, 260]), max_size=4),
    "bad_words": st.lists(st.sampled_from(["a", " b", "你", "abc"]), max_size=3),
    "stop_token_ids": st.lists(st.sampled_from([0, 40, 260]), max_size=3),
    "min_tokens": st.sampled_from([0, 1, 300]),
    "ignore_eos": st.booleans(),
    "seed": st.sampled_from([0, -1, -(2**63), 2**63 - 1]),
    "stream": st.booleans(),
}
GRAMMARS = {
    "guided_json": st.sampled_from([{"type": "integer"}, {"properties": {"a": {"enum": ["你", 1]}}}, {"not": {}}]),
    "guided_regex": st.sampled_from(["[ab]{1,9}", "a*", "("]),
    "guided_choice": st.lists(st.sampled_from(["a", "ab", "你"]), max_size=3),
    "response_format": st.sampled_from([{"type": "text"}, {"type": "json_object"}]),
}
COMPLETION = {
    "n": st.integers(1, 3),
    "echo": st.booleans(),
    "logprobs": st.sampled_from([0, 20, True, False]),
    "prompt_logprobs": st.sampled_from([None, 0, 3]),
    "return_token_ids": st.booleans(),
    "truncate_prompt_tokens": st.sampled_from([-1, 1, 5]),
    "parse_special": st.booleans(),
    "add_special_tokens": st.booleans(),
    "max_tokens": st.integers(0, 3),
}
MESSAGES = st.builds(lambda text: [{"role": "user", "content": text}], TEXTS)
OWN: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "/v1/completions": {"prompt": TEXTS | st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=MAX_LEN + 1)},
    "/v1/generate": {"prompt": TEXTS},
    "/v1/translate": {"text": TEXTS, "target_lang": st.sampled_from(["en", "zh"]), "beam_width": st.integers(1, 4)},
    "/v1/summarize": {"text": TEXTS},
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/messages": {"messages": MESSAGES},
    "/v1/responses": {"input": TEXTS},
    "/api/chat": {"messages": MESSAGES},
    "/api/generate": {"prompt": TEXTS, "raw": st.booleans()},
}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    network = tiny_network(tiny_config(vocab_size=VOCAB))

    def open_backend() -> Backend:
        config = engine_config(max_num_seqs=4, max_queue=200, eos_token_ids=frozenset(TOKENIZER.eos_token_ids))
        grammars = GrammarCompiler(partial(open_grammar_tokenizer, TOKENIZER, VOCAB))
        engine = AsyncLLM(Engine(network, config, grammars=grammars))
        return backend_on(engine, TOKENIZER, grammars, CHAT_TEMPLATE, MAX_LEN)

    with TestClient(create_app(Settings(), open_backend), raise_server_exceptions=False) as made:
        yield made


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    path = draw(st.sampled_from(sorted(OWN)))
    more = SAMPLING | (COMPLETION if path == "/v1/completions" else {})
    more |= {} if path in ("/v1/translate", "/v1/summarize") else GRAMMARS
    chosen = draw(st.sets(st.sampled_from(sorted(more)), max_size=5))
    body = {name: draw(strategy) for name, strategy in OWN[path].items()}
    fields = {name: draw(more[name]) for name in sorted(chosen)}
    if path.startswith("/api/"):
        return path, body | {"stream": fields.pop("stream", False), "options": fields}
    return path, body | fields


def stats_of(client: TestClient) -> EngineStats:
    stats: EngineStats = client.app.state.service.engine.stats()  # type: ignore[attr-defined]
    return stats


def left_over(client: TestClient) -> int:
    """Requests that are still there after a while: what a stop string ended is gone a step later."""
    for _ in range(200):
        stats = stats_of(client)
        if stats.running + stats.waiting + stats.kv_blocks_used + stats.state_slots_used == 0:
            return 0
        time.sleep(0.01)
    return stats.running + stats.waiting


def ends_well(path: str, stream: str) -> bool:
    """Whether the stream has no error, and the end that its API has."""
    if path.startswith("/api/"):
        return bool(json.loads(stream.splitlines()[-1]).get("done"))
    if path == "/v1/messages":
        return '"type":"error"' not in stream and stream.endswith('data: {"type":"message_stop"}\n\n')
    if path == "/v1/responses":
        last = stream.split("\n\n")[-2]
        return last.startswith(("event: response.completed\n", "event: response.incomplete\n"))
    return all("error" not in event for event in events_of(stream))


def check(client: TestClient, path: str, body: dict[str, Any]) -> None:
    response = client.post(path, json=body)
    assert response.status_code in (200, 400), (path, body, response.text)
    if response.status_code == 200 and body.get("stream"):
        assert ends_well(path, response.text), (path, body, response.text)
    elif response.status_code == 200 and path.startswith("/v1/") and path not in ("/v1/messages", "/v1/responses"):
        assert response.json()["usage"]["completion_tokens"] >= 0
    assert left_over(client) == 0, (path, body)
    assert stats_of(client).step_failures == 0
    assert client.get("/health/ready").status_code == 200


def test_every_request_has_one_end_and_leaves_nothing(client: TestClient) -> None:
    @settings(max_examples=40)
    @given(requests())
    def check_each(asked: tuple[str, dict[str, Any]]) -> None:
        check(client, *asked)

    check_each()
    assert stats_of(client).generation_tokens > 100  # they are not all refused
