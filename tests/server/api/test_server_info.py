"""GET /, /version, /props and /tokenizer_info."""

import re

from starlette.testclient import TestClient

from model.text.chat_template import UnusableChatTemplate
from server.version import package_version
from tests.server.applications import MAX_MODEL_LEN, MODEL, Server


def test_the_page_says_what_this_is_and_how_to_ask(client: TestClient) -> None:
    response = client.get("/")
    assert response.headers["content-type"].startswith("text/html")
    assert MODEL in response.text
    assert "http://testserver/v1/chat/completions" in response.text
    links = re.findall(r'href="([^"]+)"', response.text)
    assert len(links) >= 4
    for link in links:
        assert client.get(f"/{link}").status_code == 200, link


def test_the_page_cannot_be_made_to_run_scripts(client: TestClient, server: Server) -> None:
    server.service.model_id = "<script>alert(1)</script>"
    response = client.get("/", headers={"Host": 'x"><script>alert(2)</script>'})
    assert "<script>" not in response.text


def test_version(client: TestClient) -> None:
    assert client.get("/version").json() == {"version": package_version("routelm")}


def test_props(client: TestClient, server: Server) -> None:
    props = client.get("/props").json()
    assert props["default_generation_settings"]["n_ctx"] == MAX_MODEL_LEN
    assert props["total_slots"] == server.engine.capacity
    assert "messages" in props["chat_template"]
    assert props["model_alias"] == MODEL


def test_tokenizer_info(client: TestClient, server: Server) -> None:
    info = client.get("/tokenizer_info").json()
    assert info["model_max_length"] == MAX_MODEL_LEN
    assert "messages" in info["chat_template"]
    server.service.chat_template = None
    assert client.get("/tokenizer_info").json()["chat_template"] is None
    assert client.get("/props").json()["chat_template"] == ""
    server.service.chat_template = UnusableChatTemplate("it is broken")
    assert client.get("/tokenizer_info").json()["chat_template"] is None
