"""An accepted request as text: the engine's tokens become text deltas, with stop strings and usage.

Streaming and whole answers use the same generator: `Generation.result()` folds `Generation.deltas()`.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol, TypeVar

from model.text.chat_formats.router import AnswerParser, ContentDetokenizer
from model.text.tokenizer import Tokenizer
from server.engine.client.base import EngineClient
from server.engine.types import EngineOutput, EngineRequest, FinishReason, GenerateRequest, RequestTimes
from server.errors import (
    DeadlineExceededError,
    EngineFailedError,
    InvalidRequestError,
    RequestCancelledError,
    UnavailableError,
)
from server.generation.logprobs import DecodedLogprobs, decode_logprobs
from server.generation.stop_strings import StopStringMatcher
from server.generation.token_routing import RoutedToken, routed_tokens


@dataclass(frozen=True, slots=True)
class TextOptions:
    """How generated tokens become text. `include_stop`: the text ends with the stop string, not before it.

    `kept_special_tokens` are written even if special tokens are skipped.
    """

    stop: tuple[str, ...] = ()
    include_stop: bool = False
    skip_special_tokens: bool = True
    kept_special_tokens: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one generation; `cached_tokens` of the prompt came from the prefix cache.

    `reasoning_tokens` of the completion are reasoning, as far as the answer is read so. `experts_per_token` is there if
    the request asked for a number, or the engine chose one.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int = 0
    experts_per_token: int | None = None


def fewest_experts(usages: Iterable[Usage]) -> int | None:
    """The smallest number of experts per token, of the generations that have one."""
    return min((usage.experts_per_token for usage in usages if usage.experts_per_token is not None), default=None)


@dataclass(slots=True)  # not frozen: that would take five times as long to create, for every token
class TextDelta:
    """The next piece of a generation. The last one, and no other, has a `finish_reason`."""

    text: str
    logprobs: tuple[DecodedLogprobs, ...] = ()
    prompt_logprobs: tuple[DecodedLogprobs, ...] = ()
    finish_reason: FinishReason | None = None
    token_ids: tuple[int, ...] = ()  # those that end the text included
    embedding: tuple[float, ...] = ()  # in place of text
    routing: tuple[RoutedToken, ...] = ()  # of the generated tokens, if asked for
    prompt_routing: tuple[RoutedToken, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """A whole generation."""

    text: str
    logprobs: tuple[DecodedLogprobs, ...]
    prompt_logprobs: tuple[DecodedLogprobs, ...]
    finish_reason: FinishReason
    usage: Usage
    token_ids: tuple[int, ...] = ()
    embedding: tuple[float, ...] = ()
    routing: tuple[RoutedToken, ...] = ()
    prompt_routing: tuple[RoutedToken, ...] = ()


def fold(deltas: Sequence[TextDelta], usage: Usage) -> GenerationResult:
    """Join all deltas of a generation."""
    reason = deltas[-1].finish_reason
    assert reason is not None
    return GenerationResult(
        text="".join(delta.text for delta in deltas),
        logprobs=tuple(entry for delta in deltas for entry in delta.logprobs),
        prompt_logprobs=tuple(entry for delta in deltas for entry in delta.prompt_logprobs),
        finish_reason=reason,
        usage=usage,
        token_ids=tuple(token_id for delta in deltas for token_id in delta.token_ids),
        embedding=deltas[-1].embedding,
        routing=tuple(token for delta in deltas for token in delta.routing),
        prompt_routing=tuple(token for delta in deltas for token in delta.prompt_routing),
    )


class Ending(Protocol):
    """A delta, of which the last one has a finish reason."""

    @property
    def finish_reason(self) -> StrEnum | None: ...


Delta = TypeVar("Delta", bound=Ending, covariant=True)
Result = TypeVar("Result", covariant=True)


class Streaming(Protocol[Delta, Result]):
    """A generation of text, or what is made of one, such as the answer of a chat."""

    @property
    def usage(self) -> Usage: ...

    def deltas(self) -> AsyncIterator[Delta]: ...

    async def result(self) -> Result: ...


class RunningGeneration(Protocol):
    """A generation, or several that make one text (see segments.py)."""

    @property
    def usage(self) -> Usage: ...

    @property
    def stop_string(self) -> str | None: ...

    def abort(self) -> None: ...

    def withdraw(self) -> None: ...

    def stop(self) -> None: ...

    def cancel(self) -> None: ...

    def deltas(self) -> AsyncIterator[TextDelta]: ...

    async def result(self) -> GenerationResult: ...


@dataclass(frozen=True, slots=True)
class FinishedGeneration:
    """A finished text with the interface of a running generation. It counts no tokens of its own."""

    text: str
    usage: Usage = Usage(0, 0, 0)
    stop_string: str | None = None

    def abort(self) -> None:
        """Nothing runs."""

    def withdraw(self) -> None:
        """Nothing runs."""

    def stop(self) -> None:
        """Nothing runs."""

    def cancel(self) -> None:
        """Nothing runs."""

    async def deltas(self) -> AsyncIterator[TextDelta]:
        yield TextDelta(self.text, finish_reason=FinishReason.STOP)

    async def result(self) -> GenerationResult:
        return fold([delta async for delta in self.deltas()], self.usage)


class GenerationObserver(Protocol):
    """Gets the events of generations: the metrics."""

    def rejected(self, reason: str) -> None:
        """A request was refused: `queue_full`, `draining` or `prompt_too_long`."""

    def inter_token(self, seconds: float) -> None:
        """The time between two outputs of one generation, measured where they become text."""

    def finished(self, reason: FinishReason, usage: Usage, times: RequestTimes | None) -> None:
        """A generation has ended without being aborted."""

    def aborted(self) -> None:
        """A generation was aborted because the client left."""


class Generation:
    """One accepted request. Iterate `deltas()` or await `result()`, once; `abort()` it when the client has left."""

    def __init__(
        self,
        request: EngineRequest,
        options: TextOptions,
        *,
        continues_text: bool = False,
        content_parser: AnswerParser | None = None,
        follow_up: bool = False,
        engine: EngineClient,
        tokenizer: Tokenizer,
        observer: GenerationObserver,
    ) -> None:
        """Submits to the engine. Raises what EngineClient.submit raises.

        `continues_text` and `content_parser`: see Prompt; `follow_up`: see EngineClient.submit.
        """
        self._request_id, self._prompt_tokens = request.request_id, len(request.prompt_token_ids)
        self._prompt_token_ids = request.prompt_token_ids  # until the end: tasks keep their finished generations
        self._engine = engine
        self._tokenizer = tokenizer
        self._observer = observer
        self._options = options
        self._matcher = StopStringMatcher(options.stop, include_stop=options.include_stop)
        self._detokenizer = tokenizer.stream(
            options.skip_special_tokens,
            prompt_ids=request.prompt_token_ids,
            continues=continues_text,
            kept=options.kept_special_tokens,
        )
        if content_parser is not None:
            self._detokenizer = ContentDetokenizer(self._detokenizer, content_parser)
        self._ends = frozenset(tokenizer.eos_token_ids) | request.sampling.stop_token_ids
        self._unsent_ids: tuple[int, ...] = ()  # of tokens that have made no text yet
        self._completion_tokens = 0
        self._cached_tokens = 0
        self._experts_per_token = request.routing.experts_per_token
        self._last_output: float | None = None
        self._finished = False
        self._is_stopped = False
        self._is_cancelled = False
        self._has_text = isinstance(request, GenerateRequest)
        self._outputs = engine.submit(request, follow_up=follow_up)

    @property
    def usage(self) -> Usage:
        """Counts so far."""
        return Usage(
            self._prompt_tokens,
            self._completion_tokens,
            self._cached_tokens,
            experts_per_token=self._experts_per_token,
        )

    @property
    def stop_string(self) -> str | None:
        """The stop string that has ended the text, if one did."""
        return self._matcher.matched

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found, or `stop` was called."""
        return self._is_stopped or self._matcher.matched is not None

    def stop(self) -> None:
        """End the generation because its text is complete: it ends with STOP, and has no more text."""
        if not self.stopped and not self._finished:
            self._is_stopped = True
            self._engine.abort(self._request_id)

    def cancel(self) -> None:
        """End the generation because it was asked for: it ends with ABORT and the text so far."""
        if not self.stopped and not self._finished:
            self._is_cancelled = True
            self._engine.abort(self._request_id)

    def abort(self) -> None:
        """End the generation because the client has left. Does nothing if it has ended."""
        if not self._finished:
            self.withdraw()
            self._observer.aborted()

    def withdraw(self) -> None:
        """End the generation for a reason of the server's own, which does not count as an abort."""
        if not self._finished:
            self._finished = True
            self._engine.abort(self._request_id)

    async def deltas(self) -> AsyncIterator[TextDelta]:
        """Yield the text as it grows.

        Raises EngineFailedError, UnavailableError or, for a grammar that cannot be followed, InvalidRequestError if the
        engine ends it early; DeadlineExceededError or RequestCancelledError if it was to have no text.
        """
        async for output in self._outputs:
            self._count(output)
            delta = self._delta(output)
            if output.finish_reason is not None:
                yield self._close(output, delta)
                return
            self._unsent_ids = delta.token_ids
            if delta.text or delta.logprobs or delta.prompt_logprobs or delta.routing or delta.prompt_routing:
                self._unsent_ids = ()
                yield delta
        raise EngineFailedError("The engine ended this request without a reason.")

    async def result(self) -> GenerationResult:
        """Wait for the end and return the whole text. Raises what `deltas` raises."""
        deltas = [delta async for delta in self.deltas()]
        return fold(deltas, self.usage)

    def _count(self, output: EngineOutput) -> None:
        now = time.monotonic()
        if output.token_ids and self._last_output is not None:
            self._observer.inter_token(now - self._last_output)
        if output.token_ids:
            self._last_output = now
        if not self.stopped:
            self._completion_tokens += len(output.token_ids)
        self._cached_tokens = max(self._cached_tokens, output.num_cached_tokens)
        self._experts_per_token = output.experts_per_token or self._experts_per_token

    def _delta(self, output: EngineOutput) -> TextDelta:
        if self.stopped:
            return TextDelta("", token_ids=self._unsent_ids)
        shown = len(output.token_ids)
        ended = output.finish_reason is FinishReason.STOP and shown and output.token_ids[-1] in self._ends
        if ended and not self._options.include_stop:
            shown -= 1  # the token that ended the text is not part of it
        text = self._matcher.push(self._detokenizer.push(output.token_ids[:shown]))
        if self._matcher.matched is not None and output.finish_reason is None:
            self._engine.abort(self._request_id)
        return TextDelta(
            text,
            decode_logprobs(self._tokenizer, output.logprobs[:shown]),
            decode_logprobs(self._tokenizer, output.prompt_logprobs),
            token_ids=self._unsent_ids + output.token_ids,
            embedding=output.embedding,
            routing=routed_tokens(self._tokenizer, output.token_ids, output.routing),
            prompt_routing=routed_tokens(self._tokenizer, self._prompt_token_ids, output.prompt_routing),
        )

    def _close(self, output: EngineOutput, delta: TextDelta) -> TextDelta:
        reason = output.finish_reason
        assert reason is not None
        text = delta.text
        if not self.stopped:
            text += self._matcher.push(self._detokenizer.finish())
        if not self.stopped:
            text += self._matcher.finish()
        else:
            reason = FinishReason.STOP
        if not self._finished:  # what was aborted has been counted
            self._observer.finished(reason, self.usage, output.times)
        self._finished, self._prompt_token_ids = True, ()
        if reason is FinishReason.ERROR and output.is_request_error:
            raise InvalidRequestError(output.error or "This request cannot be completed.")
        if reason is FinishReason.ERROR:
            raise EngineFailedError(output.error or "The step that held this request failed.")
        if reason is FinishReason.ABORT and not self._is_cancelled:
            raise UnavailableError("The server is stopping; this answer was cut off.", retry_after=1)
        if not self._has_text:
            _check_complete(reason)
        return replace(delta, text=text, finish_reason=reason)


def _check_complete(reason: FinishReason) -> None:
    """Raise an error for scores or vectors that were not computed to the end: a part of them is of no use."""
    if reason is FinishReason.TIMEOUT:
        raise DeadlineExceededError
    if reason is FinishReason.ABORT:
        raise RequestCancelledError


async def all_results(generations: Sequence[Streaming[Delta, Result]]) -> list[Result]:
    """Wait for all generations. Raises what the first that fails raises; the others are not read any more then."""
    if len(generations) == 1:
        return [await generations[0].result()]
    tasks = [asyncio.create_task(generation.result()) for generation in generations]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def interleave(generations: Sequence[Streaming[Delta, Result]]) -> AsyncGenerator[tuple[int, Delta], None]:
    """Yield (index, delta) of several generations in the order of arrival. The first failure ends them all."""
    if len(generations) == 1:
        async for delta in generations[0].deltas():
            yield 0, delta
        return
    arrived: asyncio.Queue[tuple[int, Delta | Exception]] = asyncio.Queue()

    async def pump(index: int, generation: Streaming[Delta, Result]) -> None:
        try:
            async for delta in generation.deltas():
                arrived.put_nowait((index, delta))
        except Exception as error:
            arrived.put_nowait((index, error))

    pumps = [asyncio.create_task(pump(index, generation)) for index, generation in enumerate(generations)]
    running = len(pumps)
    try:
        while running:
            index, item = await arrived.get()
            if isinstance(item, Exception):
                raise item
            running -= item.finish_reason is not None
            yield index, item
    finally:
        for task in pumps:
            task.cancel()
