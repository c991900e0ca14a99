"""The tasks on models that think: the reasoning is neither waited for nor shown."""

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.server.applications import Server, client_of, events_of, make_server

TURNS = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
OPENED = TURNS + "{{ '<think>\n' }}"
SWITCHED = TURNS + "{{ '<think>\n\n</think>\n\n' if enable_thinking is false else '<think>\n' }}"
UNPROMPTED = TURNS + "{{ '' }}"
CLOSED = "<think>\n\n</think>\n\n"
ENDS = {OPENED: CLOSED, SWITCHED: CLOSED, UNPROMPTED: ""}
TASKS: dict[str, dict[str, Any]] = {
    "/v1/translate": {"text": "Good day.", "source_lang": "en", "target_lang": "de"},
    "/v1/summarize": {"text": "A day. A good day. A very good day.", "method": "generate"},
    "/v1/analyze": {"text": "Good day.", "json_schema": {"type": "string"}},
}


@pytest.fixture(params=ENDS, ids=["opened", "switched", "unprompted"])
def server(request: pytest.FixtureRequest) -> Server:
    return make_server(request.param)


@pytest.fixture
def client(server: Server) -> Iterator[TestClient]:
    with client_of(server) as client:
        yield client


def text_of(answer: dict[str, Any]) -> str:
    if "translations" in answer:
        return str(answer["translations"][0]["text"])
    return str(answer["summary"] if "summary" in answer else answer["results"][0]["data"])


def prompt_end(server: Server) -> str:
    prompt = server.tokenizer.decode(server.engine.submitted[-1].prompt_token_ids, skip_special=False)
    return prompt[prompt.index("<|im_start|>assistant") :].removeprefix("<|im_start|>assistant\n")


@pytest.mark.parametrize("path", TASKS)
@pytest.mark.parametrize("reasoning", ["", "<think>\nWell.\n</think>\n\n"], ids=["none", "some"])
def test_a_task_has_the_content_alone(client: TestClient, server: Server, path: str, reasoning: str) -> None:
    server.answer_with(f'{reasoning}"Guten Tag."')
    response = client.post(path, json=TASKS[path])
    assert response.status_code == 200, response.text
    assert text_of(response.json()).strip('"') == "Guten Tag."
    template = server.service.chat_template
    assert template is not None
    assert prompt_end(server) == ENDS[template.source]


def test_a_chat_shows_the_reasoning(client: TestClient, server: Server) -> None:
    """Negative control."""
    server.answer_with("<think>\nWell.\n</think>\n\nGuten Tag.")
    body = {"messages": [{"role": "user", "content": "Good day."}]}
    message = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
    assert "Well." in message["reasoning_content"]


def test_labels_are_scored_after_the_reasoning(client: TestClient, server: Server) -> None:
    response = client.post("/v1/analyze", json={"text": "Good day.", "labels": ["good", "bad"]})
    assert response.status_code == 200
    template = server.service.chat_template
    assert template is not None
    assert prompt_end(server) == f"{ENDS[template.source]}bad<|im_end|>"


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings_of_a_task_are_those_of_its_content(client: TestClient, server: Server, stream: bool) -> None:
    server.answer_with("<think>Stop, or not?</think>Guten Tag. Stop.")
    body = TASKS["/v1/summarize"] | {"stop": "Stop", "stream": stream}
    answer = client.post("/v1/summarize", json=body)
    if stream:
        assert "".join(event.get("delta", "") for event in events_of(answer.text)) == "Guten Tag. "
    else:
        assert answer.json()["summary"] == "Guten Tag. "


def test_generated_text_has_no_reasoning_of_the_model(client: TestClient, server: Server) -> None:
    server.answer_with("<think>What then?</think> and so on. <think>")
    answer = client.post("/v1/generate", json={"prompt": "Once <think> upon"}).json()
    assert answer["text"] == "and so on. <think>"
