"""Applications around a FakeEngine, in process and behind a real uvicorn."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import tokenizers
from fastapi import FastAPI
from starlette.testclient import TestClient
from tokenizers import decoders, models, pre_tokenizers

from model.text.chat_template import ChatTemplate
from model.text.special_tokens import END_OF_TEXT, MESSAGE_END, SPECIAL_TOKENS
from model.text.task_prompts import prompts_for
from model.text.tokenizer import Tokenizer
from model.training.train_tokenizer import CHAT_TEMPLATE
from server.batches.directory import BatchDirectory, open_batch_directory
from server.engine.client.base import EngineClient
from server.engine.grammar.compiler import GrammarCompiler
from server.engine.types import EngineRequest
from server.generation.grammar_tokenizer import open_grammar_tokenizer
from server.generation.service import GenerationService
from server.metrics import Metrics
from server.settings import Settings
from server.startup.app import Backend, create_app
from server.startup.uvicorn_server import in_background
from tests.server.fake_engine import FakeEngine

MODEL = "test-model"
MAX_MODEL_LEN = 400


@cache
def byte_tokenizer() -> Tokenizer:
    """One token per byte, after the special tokens of the bundled model."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL_TOKENS, *alphabet])}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend.to_str(), eos_tokens=(MESSAGE_END, END_OF_TEXT))


@dataclass
class Server:
    """One application and what stands behind it."""

    settings: Settings
    engine: FakeEngine
    tokenizer: Tokenizer
    service: GenerationService
    metrics: Metrics

    def open_backend(self) -> Backend:
        return Backend(self.service, self.metrics)

    def app(self, batch_directory: BatchDirectory | None = None) -> FastAPI:
        return create_app(self.settings, self.open_backend, batch_directory)

    def answer_with(self, text: str) -> None:
        tokens = self.tokenizer.encode(text)
        self.engine.answer = lambda _: tokens


def backend_on(
    engine: EngineClient, tokenizer: Tokenizer, grammars: GrammarCompiler, template: str, max_model_len: int
) -> Backend:
    """The backend of an engine that serves MODEL."""
    metrics = Metrics(MODEL, engine.stats)
    service = GenerationService(
        engine,
        tokenizer,
        _template(template),
        prompts_for(tokenizer.special_tokens),
        model_id=MODEL,
        max_model_len=max_model_len,
        observer=metrics,
        grammars=grammars,
    )
    return Backend(service, metrics)


@cache
def _template(source: str) -> ChatTemplate:
    return ChatTemplate(source)


def make_server(template: str = CHAT_TEMPLATE, **settings: Any) -> Server:
    tokenizer = byte_tokenizer()

    def echo(request: EngineRequest) -> list[int]:
        return [token for token in request.prompt_token_ids if token not in tokenizer.special_ids]

    engine = FakeEngine(echo)
    grammars = GrammarCompiler(partial(open_grammar_tokenizer, tokenizer, tokenizer.vocab_size))
    backend = backend_on(engine, tokenizer, grammars, template, MAX_MODEL_LEN)
    return Server(Settings(**settings), engine, tokenizer, backend.service, backend.metrics)


@contextmanager
def client_of(server: Server) -> Iterator[TestClient]:
    with (
        open_batch_directory(server.settings) as batch_directory,
        TestClient(server.app(batch_directory), raise_server_exceptions=False) as client,
    ):
        yield client


@contextmanager
def listening(server: Server) -> Iterator[str]:
    """Run the application under a real uvicorn on a free port; yield its base URL."""
    with (
        open_batch_directory(server.settings) as batch_directory,
        in_background(server.settings, server.open_backend, batch_directory=batch_directory) as url,
    ):
        yield url


@contextmanager
def listening_on(server: Server, listener: socket.socket) -> Iterator[str]:
    """The same on a socket that is bound already."""
    with in_background(server.settings, server.open_backend, listener) as url:
        yield url


def events_of(body: str) -> list[dict[str, Any]]:
    """The JSON events of a stream that ends as it must."""
    *events, end = [line.removeprefix("data: ") for line in body.split("\n\n") if line]
    assert end == "[DONE]"
    return [json.loads(event) for event in events]
