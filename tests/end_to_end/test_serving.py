"""The bundled model over HTTP: every endpoint answers, prefixes are reused, clients that leave leave nothing behind."""

import asyncio
import gc
import random

import httpx
import pytest

from server.engine.sequence import Sequence
from server.generation.stream import Generation
from tests.end_to_end.conftest import RunningServer

pytestmark = pytest.mark.slow


def test_chat_and_completions_through_the_official_client(server: RunningServer) -> None:
    whole = server.openai.chat.completions.create(
        model="routelm", messages=[{"role": "user", "content": "How are you?"}], temperature=0, max_tokens=32
    )
    streamed = server.openai.chat.completions.create(
        model="routelm", messages=[{"role": "user", "content": "How are you?"}], temperature=0, max_tokens=32,
        stream=True, stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(streamed)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert text.strip()
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    completion = server.openai.completions.create(model="routelm", prompt="Once upon a time", max_tokens=16)
    assert completion.choices[0].text
    assert [model.id for model in server.openai.models.list()] == ["routelm"]


@pytest.mark.parametrize(
    ("text", "target"), [("I like this book.", "de"), ("I like this book.", "fr"), ("I like this book.", "zh")]
)
def test_translations_are_in_the_right_language(server: RunningServer, text: str, target: str) -> None:
    from model.text.language_detection import detect_language

    answer = server.http.post("/v1/translate", json={"text": text, "target_lang": target}).raise_for_status().json()
    (translation,) = answer["translations"]
    assert translation["source_lang"] == "en"
    assert translation["finish_reason"] == "stop"
    assert detect_language(translation["text"]) == target


def test_the_other_tasks_answer(server: RunningServer) -> None:
    text = "The city council voted on Monday to close the old bridge until next spring. Nobody spoke against it."
    summary = server.http.post("/v1/summarize", json={"text": text, "length": "short"}).raise_for_status().json()
    assert 0 < len(summary["summary"]) < len(text)
    own_words = {"text": text, "length": "short", "method": "generate"}
    assert server.http.post("/v1/summarize", json=own_words).raise_for_status().json()["summary"] not in ("", text)
    body = {"text": ["What a wonderful film!", "This is terrible, I hate it."], "labels": ["positive", "negative"]}
    results = server.http.post("/v1/analyze", json=body).raise_for_status().json()["results"]
    assert [result["label"] for result in results] == ["positive", "negative"]
    assert all(sum(result["scores"].values()) == pytest.approx(1) for result in results)
    story = server.http.post("/v1/generate", json={"prompt": "One day a cat", "max_tokens": 20}).raise_for_status()
    assert story.json()["usage"]["completion_tokens"] == 20
    ids = server.http.post("/v1/tokenize", json={"prompt": "Hello 世界"}).json()["tokens"]
    assert server.http.post("/v1/detokenize", json={"tokens": ids}).json()["prompt"] == "Hello 世界"


def test_a_shared_prefix_is_computed_once(server: RunningServer) -> None:
    draw = random.Random(5)
    prefix = [draw.randrange(100, 5000) for _ in range(300)]
    questions = [[draw.randrange(100, 5000) for _ in range(9)] for _ in range(3)]

    def ask(question: list[int]) -> tuple[str, int]:
        body = {"prompt": prefix + question, "max_tokens": 8, "temperature": 0, "ignore_eos": True}
        answer = server.http.post("/v1/completions", json=body).raise_for_status().json()
        return answer["choices"][0]["text"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]

    hits = server.metric("vllm:prefix_cache_hits_total")
    answers = [ask(question) for question in questions]
    cached = [count for _, count in answers]
    assert cached[0] == 0
    assert cached[1] >= 256  # the snapshot before the place where the two prompts part
    assert cached[2] >= 288  # that place itself, remembered when the second request came
    assert server.metric("vllm:prefix_cache_hits_total") - hits == sum(cached)
    assert [ask(question)[0] for question in questions] == [text for text, _ in answers]


def test_a_shared_system_message_is_reused_exactly(server: RunningServer) -> None:
    system = " ".join(f"Rule {n}: be kind to everyone and answer in one short sentence." for n in range(22))

    def cached(question: str) -> tuple[int, int]:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        body = {"messages": messages, "max_tokens": 4, "temperature": 0}
        usage = server.http.post("/v1/chat/completions", json=body).raise_for_status().json()["usage"]
        return usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"]

    assert cached("Who are you?")[0] == 0
    hit, total = cached("What is the time?")
    assert 300 < hit < total < hit + 30  # all but the question


async def _cancelled_load(url: str, count: int) -> int:
    """`count` streams, a third of them dropped at a random moment; returns how many ran to their end."""
    draw, finished = random.Random(11), 0
    limits = httpx.Limits(max_connections=40)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        gate = asyncio.Semaphore(40)

        async def one(number: int) -> None:
            nonlocal finished
            leave_after = draw.randrange(0, 12) if number % 3 == 0 else None
            prompt = [draw.randrange(100, 5000) for _ in range(draw.randrange(4, 60))]
            body = {"prompt": prompt, "max_tokens": 16, "ignore_eos": True, "stream": True}
            async with gate, client.stream("POST", "/v1/completions", json=body) as response:
                assert response.status_code == 200
                seen = 0
                async for line in response.aiter_lines():
                    seen += line.startswith("data: {")
                    if leave_after is not None and seen >= leave_after:
                        return
                finished += 1

        await asyncio.gather(*(one(number) for number in range(count)))
    return finished


def test_cancelled_requests_leave_nothing_behind(server: RunningServer) -> None:
    ended = "vllm:request_success_total"
    before = server.metric(ended)
    finished = asyncio.run(_cancelled_load(server.url, 500))
    server.wait_until_idle()
    assert finished >= 333
    assert server.metric(ended) - before == 500  # exactly one end for each
    assert server.metric("routelm:kv_blocks_used") == 0
    assert server.metric("routelm:state_slots_used") == 0
    gc.collect()
    assert [thing for thing in gc.get_objects() if type(thing) in (Sequence, Generation)] == []
    assert server.http.get("/health/ready").status_code == 200
    assert server.metric("routelm:engine_step_failures_total") == 0
