"""Secrets in the prompts of two API keys: they are in nobody else's answers, in no log, no trace and no metric."""

import asyncio
import json
import os
import random
import string
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.middleware.api_keys import hash_key
from tests.deploy.servers import free_port, running, wait_until
from tests.end_to_end.collector import Collector, collecting

pytestmark = pytest.mark.slow

REQUESTS = 200  # of all kinds together; also seen to pass with 1,000
CONCURRENCY = 16
KEYS = ("alice", "bob")  # their secrets are their names
SECRET_LENGTH, PIECE_LENGTH = 16, 8  # characters; a piece of a secret betrays it

Answer = dict[str, Any]


class Secrets:
    """Random letters by number, found again by any piece of them."""

    def __init__(self, count: int) -> None:
        draw = random.Random(7)
        self.texts = ["".join(draw.choices(string.ascii_lowercase, k=SECRET_LENGTH)) for _ in range(count)]
        self._owners = {
            text[start : start + PIECE_LENGTH]: number
            for number, text in enumerate(self.texts)
            for start in range(SECRET_LENGTH - PIECE_LENGTH + 1)
        }

    def found_in(self, text: str) -> set[int]:
        """The numbers of the secrets that a text betrays."""
        pieces = (text[start : start + PIECE_LENGTH] for start in range(len(text) - PIECE_LENGTH + 1))
        return {self._owners[piece] for piece in pieces if piece in self._owners}


@dataclass(frozen=True)
class Server:
    url: str
    log: Path
    collector: Collector

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=120, trust_env=False)


@contextmanager
def serving(directory: Path) -> Iterator[Server]:
    """A process with two keys of clients and one for metrics, which logs and traces as much as it can."""
    entries: list[dict[str, Any]] = [{"name": key, "sha256": hash_key(key.encode())} for key in KEYS]
    entries.append({"name": "metrics", "sha256": hash_key(b"metrics"), "scopes": ["metrics"]})
    (directory / "keys.json").write_text(json.dumps({"keys": entries}))
    port = free_port()
    command = [sys.executable, "-m", "server", "serve", "--port", str(port), "--keys-file", "keys.json"]
    command += ["--cache-salt-per-key", "--log-requests", "--log-format", "json", "--log-level", "debug"]
    command += ["--max-queue-wait", "600"]  # nothing is refused on a slow machine
    url, log = f"http://127.0.0.1:{port}", directory / "log"
    with collecting() as collector:
        environment = os.environ | collector.environment | {"PYTHONPATH": str(Path.cwd())}
        with running(command, log, f"{url}/health/ready", environment):
            yield Server(url, log, collector)


async def post(client: httpx.AsyncClient, key: str, path: str, body: Answer, status: int = 200) -> str:
    """The text of an answer, with the texts of tokens joined, so that a secret is found if it is cut into tokens."""
    answer = await client.post(path, json=body, headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == status, answer.text
    return answer.text + "".join(_token_texts(answer)) if status == 200 else answer.text


def _token_texts(answer: httpx.Response) -> Iterator[str]:
    if answer.headers["content-type"] != "application/json":
        for line in answer.text.splitlines():
            if line.startswith("data: {"):
                for choice in json.loads(line.removeprefix("data: "))["choices"]:
                    yield choice["delta"].get("content") or ""
        return
    for choice in answer.json().get("choices", ()):
        if "text" in choice:
            yield from choice["logprobs"]["tokens"]


def parsed(answer: str) -> Answer:
    value: Answer = json.JSONDecoder().raw_decode(answer)[0]
    return value


def cached_tokens(answer: str) -> int:
    found: int = parsed(answer)["usage"]["prompt_tokens_details"]["cached_tokens"]
    return found


def choices(answer: str) -> list[Answer]:
    """Texts and log-probabilities."""
    found: list[Answer] = parsed(answer)["choices"]
    return found


async def conversation(client: httpx.AsyncClient, number: int, secret: str) -> tuple[list[str], str]:
    """Seven requests about one secret. Returns the answers to those that contain it, and the one to that without it.

    The other key guesses the owner's prompt and hits nothing in the prefix cache. The owner does, for the same answer.
    """
    owner, other = KEYS[number % 2], KEYS[1 - number % 2]
    story = {"prompt": f"{secret} is my secret. " + "Keep it well. " * 30, "max_tokens": 8, "logprobs": 5, "seed": 1}
    chat = {"messages": [{"role": "user", "content": f"{secret}: what is that?"}], "stream": True, "user": secret}
    plain = {"prompt": f"The secret of {number} is", "max_tokens": 24, "logprobs": 5, "seed": number}
    first = await post(client, owner, "/v1/completions", story)
    echo = await post(client, owner, "/v1/completions", story | {"echo": True})
    streamed = await post(client, owner, "/v1/chat/completions", chat | {"max_tokens": 24})
    refused = await post(client, owner, "/v1/completions", {"prompt": secret, "max_tokens": secret}, status=400)
    guess = await post(client, other, "/v1/completions", story)
    again = await post(client, owner, "/v1/completions", story)
    assert cached_tokens(guess) <= 1  # the first token of all prompts
    assert cached_tokens(again) > 64
    assert choices(first) == choices(guess) == choices(again)
    assert secret in echo
    return [first, echo, streamed, refused, guess, again], await post(client, other, "/v1/completions", plain)


async def all_conversations(server: Server, secrets: Secrets) -> None:
    """Interleaved, in all orders."""
    gate = asyncio.Semaphore(CONCURRENCY)
    async with server.client() as client:

        async def one(number: int, secret: str) -> None:
            async with gate:
                with_it, without = await conversation(client, number, secret)
            assert all(secrets.found_in(answer) <= {number} for answer in with_it)
            assert not secrets.found_in(without)

        await asyncio.gather(*(one(number, secret) for number, secret in enumerate(secrets.texts)))


def metrics(server: Server) -> str:
    headers = {"Authorization": "Bearer metrics"}
    return httpx.get(f"{server.url}/metrics", headers=headers, timeout=30, trust_env=False).raise_for_status().text


def test_secrets_stay_with_their_key(tmp_path: Path) -> None:
    secrets = Secrets(REQUESTS // 7 + 1)
    with serving(tmp_path) as server:
        asyncio.run(all_conversations(server, secrets))
        answered = len(secrets.texts) * 6
        wait_until(lambda: spans(server) >= answered, 30, "the spans of all generations")
        log, exports, series = server.log.read_text(), server.collector.received.decode("latin-1"), metrics(server)
        assert log.count("/v1/completions") >= answered - len(secrets.texts)
        assert 'key="alice"' in series
        assert secrets.found_in(log) == secrets.found_in(exports) == secrets.found_in(series) == set()

        # Negative control: a secret that does get into a line of the log and into a trace, in a path, is found there.
        httpx.get(
            f"{server.url}/v1/models/{secrets.texts[3]}", headers={"x-api-key": "alice"}, timeout=30, trust_env=False
        )
        wait_until(lambda: bool(secrets.found_in(server.collector.received.decode("latin-1"))), 30, "its span")
        assert secrets.found_in(server.log.read_text()) == {3}


def spans(server: Server) -> int:
    return sum(span.name.startswith("text_completion") for span in server.collector.spans)


def test_a_secret_is_found_wherever_it_is() -> None:
    secrets = Secrets(5)
    line = json.dumps({"level": "info", "message": f"prompt: {secrets.texts[2][3:14]}..."})
    assert secrets.found_in(line) == {2}
    assert secrets.found_in(line.replace(secrets.texts[2][5], "?")) == set()
