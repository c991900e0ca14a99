"""Grammars that are made to be slow, sent to a server of its own: it answers each, and stays alive for all others."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.end_to_end.conftest import server_process

Body = dict[str, Any]
CLIENTS = 4
MIB = 2**20


def nested(levels: int) -> Body:
    schema: Body = {"type": "null"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema, "minItems": 1}
    return schema


def doubled(count: int) -> str:
    return "start: r0\n" + "".join(f"r{n}: r{n + 1} r{n + 1}\n" for n in range(count)) + f'r{count}: "a"'


HOSTILE: dict[str, Body] = {
    "deep schema": {"json_schema": nested(60)},
    "too deep a schema": {"json_schema": json.dumps({"const": 0})[:-2] + "[" * 100_000},
    "20,000 values": {"json_schema": {"enum": [f"value {n}" for n in range(20_000)]}},
    "500 properties": {"json_schema": {"properties": {f"name {n}": {"type": "string"} for n in range(500)}}},
    "product of alternatives": {"json_schema": {"allOf": [{"anyOf": [{"minimum": n} for n in range(10)]}] * 8}},
    "many items": {"json_schema": {"items": {"type": "null"}, "minItems": 10**9}},
    "itself": {"json_schema": {"$ref": "#"}},
    "wrong in many places": {"json_schema": {"anyOf": [{"pattern": f"(?={n})"} for n in range(400)]}},
    "pattern": {"json_schema": {"type": "string", "pattern": "^(a|b)*a(a|b){200}$"}},
    "backtracking": {"structured_outputs": {"regex": "(x+x+)+y"}},
    "exponential automaton": {"structured_outputs": {"regex": "(a|b)*a(a|b){200}"}},
    "nested repetition": {"structured_outputs": {"regex": "((a{1,1000}){1,1000}){1,1000}"}},
    "deep expression": {"structured_outputs": {"regex": "(" * 8000 + "a" + ")" * 8000}},
    "deep groups": {"grammar": "start: " + "(" * 20_000 + '"a"' + ")" * 20_000},
    "doubled rules": {"grammar": doubled(40)},
    "ambiguity": {"grammar": 'start: (a | b)*\na: "x"*\nb: "x"* a'},
    "4,096 choices": {"guided_choice": [f"choice {n} " * 20 for n in range(4096)]},
    "2 MB of values": {"json_schema": {"enum": ["x" * 1000] * 1900}},
    "2 MB of text": {"grammar": 'start: "' + "x" * 1900 * 1000 + '"'},
    "2 MB of names": {"json_schema": {"properties": {f"{n:0100}": {} for n in range(17_000)}}},
    "10 MB": {"grammar": 'start: "' + "x" * 10 * MIB + '"'},
}


@contextmanager
def polled(url: str) -> Iterator[list[tuple[int, float]]]:
    """Asks for /health/live all the time; the statuses, and the seconds until each."""
    answers: list[tuple[int, float]] = []
    has_ended = threading.Event()

    def poll() -> None:
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            while not has_ended.wait(0.02):
                started = time.monotonic()
                status = client.get("/health/live").status_code
                answers.append((status, time.monotonic() - started))

    poller = threading.Thread(target=poll)
    poller.start()
    try:
        yield answers
    finally:
        has_ended.set()
        poller.join()


@pytest.mark.slow
def test_a_server_lives_on_among_hostile_grammars() -> None:
    asked = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 30}
    bodies = {name: json.dumps(asked | fields).encode() for name, fields in HOSTILE.items()}
    with server_process() as (url, _), polled(url) as answers:

        def ask(name: str) -> int:
            chat, headers = f"{url}/v1/chat/completions", {"Content-Type": "application/json"}
            return httpx.post(chat, content=bodies[name], headers=headers, timeout=300, trust_env=False).status_code

        time.sleep(2)
        idle = max(seconds for _, seconds in answers)  # how long others keep the processors
        with ThreadPoolExecutor(CLIENTS) as clients:
            statuses = dict(zip(HOSTILE, clients.map(ask, HOSTILE), strict=True))
        assert ask("deep schema") == 200, "it still serves"
    assert set(statuses.values()) == {200, 400, 413}, f"some are followed, some refused: {statuses}"
    assert {status for status, _ in answers} == {200}
    assert len(answers) > 20
    assert max(seconds for _, seconds in answers) < 1 + 10 * idle
