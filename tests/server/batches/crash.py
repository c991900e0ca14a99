"""A server process with a real engine and a batch directory, which a test kills at any moment.

Processes come from a fork server that has imported everything, so that a start takes a moment and not half a minute.
"""

import json
import multiprocessing
import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from model.training.train_tokenizer import CHAT_TEMPLATE
from server.batches.directory import open_batch_directory
from server.engine.client.async_llm import AsyncLLM
from server.engine.engine import Engine
from server.engine.grammar.compiler import GrammarCompiler
from server.generation.grammar_tokenizer import open_grammar_tokenizer
from server.settings import Settings
from server.startup.app import Backend
from server.startup.listeners import bind_tcp, url_of
from server.startup.uvicorn_server import run
from tests.server.applications import backend_on, byte_tokenizer
from tests.server.engine.tiny import MAX_LEN, engine_config, tiny_config, tiny_network

VOCAB = 288  # the tokenizer's, rounded up
FORKED = multiprocessing.get_context("forkserver")
FINAL = ("completed", "failed", "expired", "cancelled")
VARIABLE = ("id", "created", "request_id")


def serve(directory: Path, listener: socket.socket) -> None:
    """In a process of its own: serve the tiny network until the process is killed."""
    settings = Settings(batch_dir=directory, batch_max_num_seqs=4)
    tokenizer = byte_tokenizer()

    def open_backend() -> Backend:
        config = engine_config(eos_token_ids=frozenset(tokenizer.eos_token_ids))
        engine = Engine(tiny_network(tiny_config(vocab_size=VOCAB)), config)
        grammars = GrammarCompiler(partial(open_grammar_tokenizer, tokenizer, VOCAB))
        return backend_on(AsyncLLM(engine), tokenizer, grammars, CHAT_TEMPLATE, MAX_LEN)

    with open_batch_directory(settings) as batch_directory:
        run(settings, open_backend, [listener], batch_directory)


class Life:
    """One process, from its start to SIGKILL."""

    def __init__(self, directory: Path, listener: socket.socket) -> None:
        self._process = FORKED.Process(target=serve, args=(directory, listener), daemon=True)
        self._process.start()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


class Client:
    """Speaks to whichever process accepts the connection; the listening socket outlives them."""

    def __init__(self, url: str) -> None:
        limits = httpx.Limits(max_keepalive_connections=0)  # the process at the other end may be gone
        self._http = httpx.Client(base_url=url, timeout=60, trust_env=False, limits=limits)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def create(self, content: bytes, endpoint: str) -> str:
        form = {"data": {"purpose": "batch"}, "files": {"file": ("in.jsonl", content)}}
        file_id = self._http.post("/v1/files", **form).raise_for_status().json()["id"]  # type: ignore[arg-type]
        body = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h"}
        return str(self._http.post("/v1/batches", json=body).raise_for_status().json()["id"])

    def batch(self, batch_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self._http.get(f"/v1/batches/{batch_id}").raise_for_status().json()
        return found

    def finished(self, batch_id: str, seconds: float = 120) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while (batch := self.batch(batch_id))["status"] not in FINAL:
            assert time.monotonic() < deadline, batch
            time.sleep(0.05)
        return batch

    def lines(self, file_id: str) -> list[dict[str, Any]]:
        text = self._http.get(f"/v1/files/{file_id}/content").raise_for_status().text
        return [json.loads(line) for line in text.splitlines()]


@contextmanager
def listening() -> Iterator[tuple[socket.socket, Client]]:
    FORKED.set_forkserver_preload([__name__])
    with bind_tcp("127.0.0.1", 0)[0] as listener, Client(url_of(listener)) as client:
        listener.listen()  # connections wait while there is no process
        yield listener, client


def requests(count: int, url: str = "/v1/completions") -> bytes:
    """Prompts of many lengths, greedy and sampled with a seed."""
    draw = random.Random(7)
    lines = []
    for number in range(count):
        prompt = "".join(draw.choices("abc déf", k=draw.randrange(1, 60)))
        body = {"prompt": prompt, "max_tokens": draw.randrange(1, 40), "temperature": number % 2, "seed": number}
        lines.append(json.dumps({"custom_id": f"r{number}", "method": "POST", "url": url, "body": body}))
    return "\n".join(lines).encode()


def answers(lines: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """What must not depend on crashes: not the ids, the times, and what the prefix cache had."""
    return [(line["custom_id"], _stable(line["response"])) for line in lines]


def _stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _stable(inner) for name, inner in value.items() if name not in (*VARIABLE, "prompt_tokens_details")
        }
    return [_stable(inner) for inner in value] if isinstance(value, list) else value
