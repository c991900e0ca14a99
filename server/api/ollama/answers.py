"""The lines of Ollama's answers: pieces, and a last one with counts and times in nanoseconds."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from server.api.sse import Event, StreamFormat, json_line
from server.chat.answer import ChatFinishReason
from server.chat.request import ToolCall
from server.generation.logprobs import DecodedLogprobs, DecodedToken
from server.generation.stream import Usage

NDJSON = StreamFormat("application/x-ndjson", json_line, lambda error: error.body("/api/"))


@dataclass(slots=True)
class Answer:
    """Makes the lines of one answer and measures its times."""

    model: str
    started: int = field(default_factory=time.monotonic_ns)
    first_text: int | None = None

    def line(self, fields: Event) -> Event:
        """A piece of the answer."""
        if self.first_text is None:
            self.first_text = time.monotonic_ns()
        return {"model": self.model, "created_at": now(), **fields, "done": False}

    def last(self, fields: Event, reason: str, usage: Usage) -> Event:
        """The end of the answer, or all of it."""
        end = time.monotonic_ns()
        first = self.first_text or end
        return {
            "model": self.model,
            "created_at": now(),
            **fields,
            "done": True,
            "done_reason": reason,
            "total_duration": end - self.started,
            "load_duration": 0,
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": first - self.started,
            "eval_count": usage.completion_tokens,
            "eval_duration": end - first,
        }

    def without_prompt(self, fields: Event, reason: str) -> Event:
        """The answer to a request without a prompt, which asks Ollama to load the model or to unload it."""
        return {"model": self.model, "created_at": now(), **fields, "done": True, "done_reason": reason}


def now() -> str:
    return written(datetime.now(UTC))


def written(moment: datetime) -> str:
    """A time in UTC as Go writes it."""
    return moment.isoformat().replace("+00:00", "Z")


def done_reason(reason: ChatFinishReason) -> str:
    return reason.value if reason.is_cut_off else "stop"


def shown_calls(calls: Sequence[ToolCall]) -> Event:
    """The field of tool calls, if there are any. Ollama's arguments are objects."""
    shown = [
        {"id": call.id, "function": {"index": index, "name": call.name, "arguments": call.arguments_object}}
        for index, call in enumerate(calls)
    ]
    return {"tool_calls": shown} if shown else {}


def shown_logprobs(entries: tuple[DecodedLogprobs, ...]) -> Event:
    """The field of log-probabilities, if there are any."""
    if not entries:
        return {}
    return {
        "logprobs": [_token(entry.chosen) | {"top_logprobs": [_token(top) for top in entry.top]} for entry in entries]
    }


def _token(token: DecodedToken) -> Event:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.data)}
