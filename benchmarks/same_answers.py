"""Whether two versions of the server give the same answers to the last bit: record with one, compare with the other.

    python -m benchmarks.same_answers record answers.json --model model/bundled
    python -m benchmarks.same_answers compare answers.json --model model/bundled

Fifty requests to a server that the script starts: chat, completions, translation, summaries and analyses, greedy and
sampled with seeds, with penalties, stop strings, several choices and log-probabilities; first one at a time, then all
at once. Tokens, texts and log-probabilities are compared as the JSON they are sent in, so a difference in the last bit
of a float32 shows. Recordings are valid for one machine and one instruction set.
"""

import argparse
import asyncio
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import httpx

from benchmarks.servers import OURS, started

Request = tuple[str, dict[str, Any]]  # path and body
TEXTS = (
    "Once upon a time there was a little boat that wanted to see the sea.",
    "The city council voted on Monday to close the old bridge. Nobody spoke. The bridge was built a century ago.",
    "Where is the station?",
    "我想买一张去北京的火车票。",
    "Le chat dort sur la table et ne veut pas descendre.",
)
VOLATILE = ("id", "created", "request_id", "system_fingerprint", "warnings")


def requests() -> list[Request]:
    """The fifty requests. Every sampling parameter is given, so that changed defaults make no difference."""
    found: list[Request] = []
    for number, text in enumerate(TEXTS):
        greedy: dict[str, Any] = {"temperature": 0.0, "max_tokens": 24, "repetition_penalty": 1.0, "top_p": 1.0}
        greedy |= {"min_p": 0.0, "top_k": 0, "frequency_penalty": 0.0, "presence_penalty": 0.0}
        sampled = {**greedy, "temperature": 0.9, "seed": 7 + number}
        chat: dict[str, Any] = {"messages": [{"role": "user", "content": text}]}
        found += [
            ("/v1/completions", {"prompt": text, "logprobs": 3, **greedy}),
            ("/v1/completions", {"prompt": text, "logprobs": 1, "echo": True, **sampled}),
            ("/v1/completions", {"prompt": text, **sampled, "top_p": 0.8, "top_k": 40, "min_p": 0.02, "n": 2}),
            ("/v1/completions", {"prompt": text * 12, "logprobs": 0, **sampled, "presence_penalty": 0.5}),
            ("/v1/chat/completions", {**chat, "logprobs": True, "top_logprobs": 4, **greedy}),
            ("/v1/chat/completions", {**chat, **sampled, "repetition_penalty": 1.2, "logit_bias": {"300": 2.0}}),
            ("/v1/chat/completions", {**chat, **sampled, "stop": ["a"], "frequency_penalty": 0.4}),
            ("/v1/translate", {"text": text, "target_lang": ("fr", "de", "zh", "en", "en")[number]}),
            ("/v1/summarize", {"text": f"{text} {TEXTS[1]}", "length": "short"}),
            ("/v1/analyze", {"text": text, "labels": ["travel", "animals", "politics"]}),
        ]
    return found


async def answers(url: str) -> list[Any]:
    """What the server says to each of them alone, then to each of them among the others."""
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=httpx.Limits(max_connections=None)) as client:
        alone = [await _ask(client, request) for request in requests()]
        together = await asyncio.gather(*(_ask(client, request) for request in requests()))
    return [*alone, *together]


async def _ask(client: httpx.AsyncClient, request: Request) -> Any:
    path, body = request
    response = await client.post(path, json=body)
    return _lasting(response.json()) if response.is_success else {"error": response.text}


def _lasting(value: Any) -> Any:
    """Without what differs from one request to the next, and without what only describes it."""
    if isinstance(value, dict):
        return {key: _lasting(inner) for key, inner in value.items() if key not in VOLATILE}
    return [_lasting(inner) for inner in value] if isinstance(value, list) else value


def differences(before: list[Any], after: list[Any]) -> list[str]:
    """One line for each request whose answer differs; cached tokens are not compared."""
    names = [f"{path} {json.dumps(body, ensure_ascii=False)[:90]}" for path, body in requests()] * 2
    return [name for name, old, new in zip(names, before, after, strict=True) if _tokens(old) != _tokens(new)]


def _tokens(answer: Any) -> Any:
    return {key: value for key, value in answer.items() if key != "usage"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", default="model/bundled")
    parser.add_argument("--options", default="", help="further options of routelm serve")
    given = parser.parse_args()
    with started(f"{OURS} --model {shlex.quote(given.model)} {given.options}") as server:
        found = asyncio.run(answers(server.url))
    if given.what == "record":
        given.file.write_text(json.dumps(found, ensure_ascii=False))
        print(f"recorded {len(found)} answers, {sum('error' in answer for answer in found)} of them errors")
        return
    changed = differences(json.loads(given.file.read_text()), found)
    print("\n".join([*changed, f"{len(found) - len(changed)} of {len(found)} answers are the same to the last bit"]))
    sys.exit(bool(changed))


if __name__ == "__main__":
    main()
