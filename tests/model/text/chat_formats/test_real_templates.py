"""The router over the chat templates of real checkpoints.

They have terms of their own, so they are not part of this repository: `make real-models` fetches those that the source
package of llama-cpp-python carries.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from model.text.chat_formats import atem, harmony
from model.text.chat_formats.atem import AtemFormat
from model.text.chat_formats.chat_format import ChatFormat, PromptEnd
from model.text.chat_formats.detection import chat_format
from model.text.chat_formats.harmony import HarmonyFormat
from model.text.chat_formats.reader import markers
from model.text.chat_formats.tagged_format import TaggedFormat
from model.text.chat_template import ChatTemplate
from tests.model.text.chat_formats.answers import CALLS, SCHEMAS, TOOLS, Answer, cut, read
from tests.real_models import LLAMA_CPP, needs_llama_cpp

TEMPLATES = sorted((LLAMA_CPP / "templates").glob("*.jinja"))
QUESTION = [{"role": "user", "content": "What is it?"}]
WITHOUT_NULL = ("MiniMax-M3",)  # its template writes null as an empty text
MIN_TEMPLATES = 40

pytestmark = needs_llama_cpp


@dataclass(frozen=True)
class Rendered:
    """A turn of the assistant as a template writes it, after a prompt that ends with `end`."""

    form: ChatFormat
    template: ChatTemplate
    message: dict[str, Any]
    text: str
    end: PromptEnd

    def read(self, text: str | None = None, places: Sequence[int] = (), *, truncated: bool = False) -> Answer:
        return read(self.form, cut(self.text if text is None else text, places), self.end, truncated=truncated)


def messages(arguments_of: Callable[[Any], Any]) -> list[dict[str, Any]]:
    """Turns with less and less in them: templates refuse some of it."""
    calls = [
        {"id": f"abcdefgh{number}", "type": "function", "function": {"name": name, "arguments": arguments_of(values)}}
        for number, (name, values) in enumerate(CALLS)
    ]
    full = {"role": "assistant", "content": "I look: a < b.", "tool_calls": calls}
    thought = {"reasoning_content": "First <this>, then {that}."}
    return [
        full | thought | {"thinking": thought["reasoning_content"]},
        full | thought,
        full | {"content": ""} | {"thinking": thought["reasoning_content"]},
        full | {"content": ""},
        full | {"content": "", "tool_calls": calls[:1], "thinking": thought["reasoning_content"]},
        full | {"content": "", "tool_calls": calls[:1]},
    ]


def without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_null(each) for name, each in value.items()}
    if isinstance(value, list):
        return [without_null(each) for each in value]
    return "" if value is None else value


def rendered(path: Path) -> Rendered | None:
    """None where the template cannot write calls."""
    source = path.read_text(encoding="utf-8")
    template = ChatTemplate(source, {"bos_token": "<bos>", "eos_token": "<eos>"})
    special = {token: number for number, token in enumerate(harmony.MARKERS)} if "gpt-oss" in path.name else {}
    form = chat_format(source, special)
    for message in messages(without_null if path.name.startswith(WITHOUT_NULL) else dict):
        try:
            prompt = template.render(QUESTION, True, TOOLS)
            whole = template.render([*QUESTION, message], False, TOOLS)
        except ValueError:
            continue
        if CALLS[0][0] in whole[len(prompt) - 40 :]:
            return trimmed(Rendered(form, template, message, *divided(form, prompt, whole)))
    return None


def divided(form: ChatFormat, prompt: str, whole: str) -> tuple[str, PromptEnd]:
    """The turn, and the prompt before it. Histories often lack the thought that the prompt opens, or its marker."""
    same = next(
        (place for place, pair in enumerate(zip(prompt, whole, strict=False)) if pair[0] != pair[1]), len(prompt)
    )
    if same == len(prompt) or not isinstance(form, TaggedFormat) or form.reasoning is None:
        return whole[same:], PromptEnd(prompt[:same])
    start = markers(*form.family.calls.markers, form.reasoning.open, form.reasoning.close).held(prompt[:same], 0)
    is_open = form.reasoning.close in whole[start:] and form.reasoning.open not in whole[start:]
    return whole[start:], PromptEnd(form.reasoning.open if is_open else prompt[:start])


def trimmed(turn: Rendered) -> Rendered:
    """The turn without what the template writes after the last call, such as the end of the message."""
    router = turn.form.router(SCHEMAS, turn.end)
    assert router is not None
    router.feed(turn.text)
    router.finish()
    return replace(turn, text=turn.text[: router.call_ends[-1][1]] if router.call_ends else turn.text)


def all_markers(form: ChatFormat) -> list[str]:
    if isinstance(form, HarmonyFormat | AtemFormat):
        found: tuple[str, ...] = harmony.MARKERS if isinstance(form, HarmonyFormat) else atem.MARKERS
        return [marker for marker in found if len(marker) > 3]
    assert isinstance(form, TaggedFormat)
    reasoning = (form.reasoning.open, form.reasoning.close) if form.reasoning else ()
    return [marker for marker in (*form.family.calls.markers, *reasoning, *form.ignored) if len(marker) > 3]


WRITTEN = {path: turn for path in TEMPLATES if (turn := rendered(path))}


@pytest.fixture(params=WRITTEN, ids=lambda path: path.stem)
def turn(request: pytest.FixtureRequest) -> Rendered:
    return WRITTEN[request.param]


def test_there_are_many() -> None:
    assert len(WRITTEN) >= MIN_TEMPLATES, sorted(path.name for path in set(TEMPLATES) - set(WRITTEN))


def test_the_fields_are_what_the_template_was_given(turn: Rendered) -> None:
    answer = turn.read()
    expected = [(call["function"]["name"], call["function"]["arguments"]) for call in turn.message["tool_calls"]]
    assert answer.call_values == expected[: len(answer.calls)]
    assert len(answer.calls) == sum(f"{name}" in turn.text for name, _ in expected)
    for field in ("content", "reasoning_content"):
        text = turn.message.get(field)
        if text and text in turn.text:
            assert text in answer.content + answer.reasoning


def test_every_way_to_cut_the_text_gives_the_same_fields(turn: Rendered) -> None:
    whole, rng = turn.read(), random.Random(1)
    assert turn.read(places=range(len(turn.text))) == whole
    for place in range(len(turn.text)):
        assert turn.read(places=[place]) == whole, turn.text[:place]
    for _ in range(100):
        assert turn.read(places=[rng.randrange(len(turn.text)) for _ in range(8)]) == whole


def test_nothing_of_a_marker_is_in_a_field_wherever_the_text_is_cut_off(turn: Rendered) -> None:
    whole, found = turn.read(), all_markers(turn.form)
    for end in range(len(turn.text)):
        part = turn.read(turn.text[:end], truncated=True)
        for marker in found:
            assert marker not in part.content + part.reasoning, turn.text[:end]
        for (name, arguments), (found_name, found_arguments) in zip(whole.calls, part.calls, strict=False):
            assert found_name == name
            assert arguments.startswith(found_arguments)


def test_what_was_read_and_rendered_again_reads_the_same(turn: Rendered) -> None:
    first = turn.read()
    calls = [
        call | {"function": {"name": name, "arguments": json.loads(arguments)}}
        for call, (name, arguments) in zip(turn.message["tool_calls"], first.calls, strict=False)
    ]
    again = turn.template.render([*QUESTION, turn.message | {"tool_calls": calls}], False, TOOLS)
    assert turn.text in again
    assert turn.read(again[again.index(turn.text) :]).calls == first.calls
