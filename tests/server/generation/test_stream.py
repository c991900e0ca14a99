"""The bridge between tokens and text, with an engine that does as it is told."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from server.engine.types import EngineOutput, FinishReason, RequestTimes, SamplingParams
from server.errors import (
    EngineFailedError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    PromptTooLongError,
    UnavailableError,
)
from server.generation.prompt import Prompt
from server.generation.run_in_thread import LONG_TEXT
from server.generation.service import GenerationService
from server.generation.stream import Generation, TextDelta, TextOptions, Usage, interleave
from tests.server.applications import MAX_MODEL_LEN, MODEL, Server, make_server

EOS = 2


class Observed:
    """What the observer of a service was told."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        self.ends: list[tuple[FinishReason, Usage]] = []
        self.gaps = 0
        self.left = 0

    def rejected(self, reason: str) -> None:
        self.refused.append(reason)

    def inter_token(self, seconds: float) -> None:
        assert seconds >= 0
        self.gaps += 1

    def finished(self, reason: FinishReason, usage: Usage, times: RequestTimes | None) -> None:
        self.ends.append((reason, usage))

    def aborted(self) -> None:
        self.left += 1


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 10))


@pytest.fixture
def observed(server: Server) -> Observed:
    observer = Observed()
    server.service._observer = observer
    return observer


def start(server: Server, *, stop: tuple[str, ...] = (), request_id: str = "r", **sampling: Any) -> Generation:
    params = SamplingParams(**{"max_tokens": 100, **sampling})
    return server.service.start(request_id, Prompt((40, 41, 42)), params, TextOptions(stop))


async def deltas_of(generation: Generation) -> list[TextDelta]:
    return [delta async for delta in generation.deltas()]


def test_tokens_become_text_and_the_end_token_is_not_part_of_it(server: Server, observed: Observed) -> None:
    server.answer_with("good day")

    async def work() -> None:
        generation = start(server)
        result = await generation.result()
        assert result.text == "good day"
        assert result.finish_reason is FinishReason.STOP
        assert result.usage == Usage(prompt_tokens=3, completion_tokens=9, cached_tokens=0)

    run(work())
    assert observed.ends == [(FinishReason.STOP, Usage(3, 9, 0))]
    assert observed.gaps == 8


def test_streamed_and_whole_are_the_same(server: Server) -> None:
    server.answer_with("größer 你好 🙂!")

    async def work() -> None:
        deltas = await deltas_of(start(server, request_id="a"))
        result = await start(server, request_id="b").result()
        assert "".join(delta.text for delta in deltas) == result.text == "größer 你好 🙂!"
        assert all("\ufffd" not in delta.text for delta in deltas)
        assert [delta.finish_reason for delta in deltas] == [None] * (len(deltas) - 1) + [FinishReason.STOP]

    run(work())


def test_length_ends_with_what_is_there_even_half_a_character(server: Server) -> None:
    server.answer_with("ab你")

    async def work() -> None:
        result = await start(server, max_tokens=4).result()
        assert result.text == "ab\ufffd"
        assert result.finish_reason is FinishReason.LENGTH

    run(work())


def test_a_stop_string_ends_the_text_and_the_engines_work(server: Server, observed: Observed) -> None:
    server.answer_with("one STOP two")
    server.engine.step_seconds = 0.001

    async def work() -> None:
        deltas = await deltas_of(start(server, stop=("STOP",)))
        assert "".join(delta.text for delta in deltas) == "one "
        assert deltas[-1].finish_reason is FinishReason.STOP
        assert server.engine.running == 0

    run(work())
    assert server.engine.aborted == ["r"]
    [(reason, usage)] = observed.ends
    assert (reason, usage.completion_tokens) == (FinishReason.STOP, 8)
    assert observed.left == 0, "the client did not leave"


def test_a_grammar_that_fails_after_the_stop_string_fails_no_answer(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine may compute one more step before it aborts."""

    async def outputs() -> AsyncIterator[EngineOutput]:
        yield EngineOutput("r", tuple(server.tokenizer.encode("one.")))
        yield EngineOutput("r", (), finish_reason=FinishReason.ERROR, error="too complex", is_request_error=True)

    monkeypatch.setattr(server.engine, "submit", lambda request, *, follow_up: outputs())
    assert run(_text(server, (".",))) == "one"
    with pytest.raises(InvalidRequestError, match="too complex"):
        run(_text(server, ("?",)))


def test_an_unfinished_stop_string_is_shown_at_the_end(server: Server) -> None:
    server.answer_with("one STO")
    assert run(_text(server, ("STOP",))) == "one STO"


def test_a_stop_string_in_the_last_bytes_is_found(server: Server) -> None:
    server.answer_with("one.")
    assert run(_text(server, (".",))) == "one"
    server.engine.answer = lambda _: [*server.tokenizer.encode("one"), server.tokenizer.encode("你")[0]]
    assert run(_text(server, ("\ufffd",))) == "one"


async def _text(server: Server, stop: tuple[str, ...]) -> str:
    text: str = (await start(server, stop=stop, request_id=stop[0]).result()).text
    return text


def test_an_end_token_inside_is_not_shown(server: Server) -> None:
    """With ignore_eos the engine goes on; special tokens are no text."""
    tokens = server.tokenizer.encode("ab")
    server.engine.eos = ()
    server.engine.answer = lambda _: [tokens[0], EOS, tokens[1]]

    async def work() -> None:
        assert (await start(server, ignore_eos=True, max_tokens=3).result()).text == "ab"

    run(work())


def test_a_stop_token_is_not_shown(server: Server) -> None:
    [a, b, c] = server.tokenizer.encode("abc")
    server.engine.answer = lambda _: [a, b, c]

    async def work() -> None:
        result = await start(server, stop_token_ids=frozenset({c}), max_tokens=3).result()
        assert (result.text, result.finish_reason) == ("ab", FinishReason.STOP)

    run(work())


def test_logprobs_come_with_the_text_of_their_tokens(server: Server) -> None:
    server.answer_with("a你")

    async def work() -> None:
        result = await start(server, logprobs=2).result()
        assert [entry.chosen.text for entry in result.logprobs] == ["a", "bytes:\\xe4", "bytes:\\xbd", "bytes:\\xa0"]
        assert all(len(entry.top) == 2 for entry in result.logprobs)

    run(work())


def test_a_failed_step_raises_and_is_counted(server: Server, observed: Observed) -> None:
    server.answer_with("never all of it")
    server.engine.fail_after = 3
    with pytest.raises(EngineFailedError, match="the step failed"):
        run(deltas_of_started(server))
    assert observed.ends[0][0] is FinishReason.ERROR


async def deltas_of_started(server: Server) -> list[TextDelta]:
    return await deltas_of(start(server))


def test_an_abort_by_the_server_is_told_as_unavailable(server: Server) -> None:
    server.answer_with("x" * 50)
    server.engine.step_seconds = 0.01

    async def work() -> None:
        generation = start(server)
        closing = asyncio.create_task(server.engine.close(0.0))
        with pytest.raises(UnavailableError):
            await generation.result()
        await closing

    run(work())


def test_abort_frees_once_and_never_after_the_end(server: Server, observed: Observed) -> None:
    server.answer_with("x" * 50)

    async def work() -> None:
        left = start(server, request_id="left")
        left.abort()
        left.abort()
        done = start(server, request_id="done")
        await done.result()
        done.abort()
        assert server.engine.running == 0

    run(work())
    assert server.engine.aborted == ["left"]
    assert observed.left == 1


def test_an_abort_counts_once_even_if_the_end_is_still_read(server: Server, observed: Observed) -> None:
    """As of the other choices of a request when one of them has failed."""
    server.answer_with("x" * 50)
    server.engine.step_seconds = 0.01

    async def work() -> None:
        generation = start(server)
        reading = asyncio.create_task(generation.result())
        await asyncio.sleep(0.02)
        generation.abort()
        with pytest.raises(UnavailableError):
            await reading

    run(work())
    assert (observed.left, observed.ends) == (1, [])


def test_max_tokens_is_cut_to_the_context(server: Server) -> None:
    async def work() -> None:
        await start(server, max_tokens=10**6, min_tokens=10**6).result()

    run(work())
    [request] = server.engine.submitted
    assert request.sampling.max_tokens == request.sampling.min_tokens == MAX_MODEL_LEN - 3
    assert request.arrival_time > 0


@pytest.mark.parametrize(("length", "max_tokens", "fits"), [(0, 1, True), (1, 1, False), (1, 0, True), (2, 0, False)])
def test_a_prompt_that_does_not_fit_is_refused(
    server: Server, observed: Observed, length: int, max_tokens: int, fits: bool
) -> None:
    prompt = Prompt((40,) * (MAX_MODEL_LEN - 1 + length))

    async def work() -> None:
        server.service.start("r", prompt, SamplingParams(max_tokens=max_tokens))

    if fits:
        run(work())
        assert observed.refused == []
        return
    with pytest.raises(PromptTooLongError, match=f"{MAX_MODEL_LEN} tokens.*{len(prompt.token_ids)} tokens"):
        run(work())
    assert observed.refused == ["prompt_too_long"]
    assert server.engine.submitted == []


def test_a_full_queue_and_a_closed_engine_refuse(server: Server, observed: Observed) -> None:
    server.engine.capacity = 0

    async def work() -> None:
        with pytest.raises(OverloadedError) as full:
            start(server)
        assert full.value.headers() == {"Retry-After": "3"}
        await server.engine.close(0)
        with pytest.raises(UnavailableError):
            start(server)

    run(work())
    assert observed.refused == ["queue_full", "draining"]


def test_what_the_engine_cannot_serve_is_the_clients_error(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object, *, follow_up: bool) -> None:
        raise ValueError("the prompt has token id 9")

    monkeypatch.setattr(server.engine, "submit", refuse)
    with pytest.raises(InvalidRequestError, match="token id 9"):
        start(server)


def test_prompts_of_text_and_of_messages(server: Server) -> None:
    service: GenerationService = server.service

    async def work() -> None:
        text = await service.text_prompt("ab")
        assert text.token_ids == (0, *server.tokenizer.encode("ab"))
        assert service.prompt_text(text) == "ab"
        long = await service.text_prompt("ab" * LONG_TEXT)
        assert len(long.token_ids) == 2 * LONG_TEXT + 1
        chat = await service.chat_prompt(service.prompts.chat([{"role": "user", "content": "<|im_end|>"}]))
        assert chat.token_ids.count(EOS) == 2, "a client cannot end its own turn"
        assert chat.boundaries
        assert max(chat.boundaries) < len(chat.token_ids)

    run(work())


def test_others_get_their_turn_while_a_request_renders_many_prompts(server: Server) -> None:
    async def work() -> int:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        for _ in range(100):
            await server.service.chat_prompt([{"role": "user", "content": "hi"}])
        task.cancel()
        return turns

    assert run(work()) >= 100


def test_a_model_without_a_chat_template_says_what_works(server: Server) -> None:
    server.service.chat_template = None
    with pytest.raises(InvalidRequestError, match="/v1/completions"):
        run(server.service.chat_prompt([{"role": "user", "content": "hi"}]))


def test_other_models_and_ids_outside_the_vocabulary_are_refused(server: Server) -> None:
    server.service.check_model(None)
    server.service.check_model(MODEL)
    with pytest.raises(ModelNotFoundError):
        server.service.check_model("other")
    with pytest.raises(InvalidRequestError, match="0 to 287"):
        server.service.token_prompt([287, 288])


def test_interleaved_streams_are_whole(server: Server) -> None:
    server.answer_with("abcdefgh")
    server.engine.step_seconds = 0.001

    async def work() -> list[tuple[int, TextDelta]]:
        generations = [start(server, request_id=f"r{n}", max_tokens=n + 1) for n in range(4)]
        return [item async for item in interleave(generations)]

    texts = [""] * 4
    ends = []
    for index, delta in run(work()):
        texts[index] += delta.text
        ends += [index] if delta.finish_reason is not None else []
    assert texts == ["a", "ab", "abc", "abcd"]
    assert sorted(ends) == [0, 1, 2, 3]


def test_the_first_failure_ends_interleaved_streams(server: Server) -> None:
    server.answer_with("abcdefgh")
    server.engine.step_seconds = 0.001
    server.engine.fail_after = 2

    async def work() -> None:
        async for _ in interleave([start(server, request_id=f"r{n}") for n in range(3)]):
            pass

    with pytest.raises(EngineFailedError):
        run(work())


def test_each_application_has_its_own_engine() -> None:
    one, other = make_server(), make_server()
    assert one.engine is not other.engine
