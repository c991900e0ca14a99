"""Of a broken call a client gets what was generated: nothing is lost, no arguments are silently empty."""

from typing import Any

import pytest

from model.text.chat_formats.chat_format import ChatFormat, PromptEnd
from model.text.chat_formats.detection import chat_format
from model.text.chat_formats.families import CALL_FAMILIES, PLAIN_JSON, CallFamily
from model.text.chat_formats.harmony import MARKERS
from model.text.chat_formats.tagged_format import TaggedFormat
from tests.model.text.chat_formats.answers import Answer, cut, read

Calls = list[tuple[str, dict[str, Any]]]
END = PromptEnd()
ROWS = [*CALL_FAMILIES, PLAIN_JSON]
ONE: Calls = [("get_weather", {"city": "Köln", "note": "Rhein"})]
TWO: Calls = [("get_weather", {"city": "Köln"}), ("get_weather", {"note": "Rhein"})]
HERMES, TAGGED, KIMI = "<tool_call>", "<tool_call><function=<parameter=", "<|tool_calls_section_begin|>"
GLM, DEEPSEEK, MISTRAL = "<tool_call><arg_key>", "<｜tool▁calls▁begin｜>", "[TOOL_CALLS][ARGS]"


def fields_of(answer: Answer) -> str:
    return answer.content + answer.reasoning + "".join(name + arguments for name, arguments in answer.calls)


def check_that_nothing_is_lost(form: ChatFormat, text: str) -> None:
    fields = fields_of(read(form, [text], END))
    assert read(form, text, END) == read(form, [text], END), text
    for word in ("Köln", "Rhein"):
        assert (word in fields) == (word in text), text


@pytest.mark.parametrize("calls", [ONE, TWO], ids=["one", "two"])
@pytest.mark.parametrize("family", ROWS, ids=lambda family: family.name)
def test_nothing_is_lost_wherever_the_model_ends_a_call(family: CallFamily, calls: Calls) -> None:
    form, text = TaggedFormat(family), family.calls.write(calls)
    for place in range(len(text)):
        check_that_nothing_is_lost(form, text[:place])


@pytest.mark.parametrize("calls", [ONE, TWO], ids=["one", "two"])
@pytest.mark.parametrize("family", ROWS, ids=lambda family: family.name)
def test_nothing_is_lost_whichever_character_is_left_out(family: CallFamily, calls: Calls) -> None:
    form, text = TaggedFormat(family), family.calls.write(calls)
    for place in range(len(text)):
        check_that_nothing_is_lost(form, text[:place] + text[place + 1 :])


@pytest.mark.parametrize(
    ("sign", "text", "arguments"),
    [
        (HERMES, '<tool_call>{"name": "f", "arguments": {city: "Rom"}}</tool_call>', '{city: "Rom"}}'),
        (HERMES, '<tool_call>{"name": "f", "arguments": {"city": Rom}}</tool_call>', '{"city": Rom}}'),
        (HERMES, '<tool_call>{"name": "f", "arguments": Rom}</tool_call>', "Rom}"),
        (HERMES, '<tool_call>{"name": "f", "arguments": "{\\"city\\": \\"Rom', '"{\\"city\\": \\"Rom'),
        (HERMES, '<tool_call>{"name": "f", arguments: {"city": "Rom"}}</tool_call>', 'arguments: {"city": "Rom"}}'),
        (HERMES, '<tool_call>{"name": "f", "Rom"}</tool_call>', '"Rom"}'),
        (HERMES, '<tool_call>{"name": "f", "arguments": false}</tool_call>', "false"),
        (TAGGED, "<tool_call><function=f><parameter=city>Rom", "<parameter=city>Rom"),
        (TAGGED, "<tool_call><function=f><parameter=city\nRom", "<parameter=city\nRom"),
        (TAGGED, "<tool_call><function=f>city=Rom</function></tool_call>", "city=Rom"),
        (TAGGED, '<tool_call><function=f>{"city": "Rom"}</function></tool_call>', '{"city": "Rom"}'),
        (TAGGED, "<tool_call><function=f><parameter=a>1</parameter><parameter=b>Rom", '{"a": 1<parameter=b>Rom'),
        (GLM, "<tool_call>f\n<arg_key>city</arg_key>\n<arg_value>Rom", "<arg_key>city</arg_key>\n<arg_value>Rom"),
        (KIMI, f"{KIMI}<|tool_call_begin|>f<|tool_call_argument_begin|>Rom<|tool_call_end|>", "Rom"),
        (KIMI, f"{KIMI}<|tool_call_begin|>f<|tool_call_argument_begin|>{{x: 1}}<|tool_call_end|>", "{x: 1}"),
        (DEEPSEEK, f"{DEEPSEEK}<｜tool▁call▁begin｜>f<｜tool▁sep｜>Rom<｜tool▁call▁end｜>", "Rom"),
        (MISTRAL, "[TOOL_CALLS]f[ARGS]{city: Rom}", "{city: Rom}"),
        ("python_tag", '{"name": "get_weather", "parameters": {city: "Rom"}}', '{city: "Rom"}}'),
    ],
)
def test_broken_arguments_are_passed_on_as_they_were_written(sign: str, text: str, arguments: str) -> None:
    for pieces in ([text], list(text), *(cut(text, [place]) for place in range(len(text)))):
        answer = read(chat_format(sign, {}), pieces, END)
        assert [found for _, found in answer.calls] == [arguments]
        assert answer.content == ""


def test_broken_arguments_of_harmony() -> None:
    form = chat_format("", {marker: number for number, marker in enumerate(MARKERS)})
    header = "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
    after = "<|end|><|start|>assistant<|channel|>final<|message|>a"
    for written in ("city=Rom", "{city: Rom}", '{"city": Rom}', '{"city": "Rom"', '"city": "Rom"'):
        answer = read(form, f"{header}{written}{after}", PromptEnd("<|start|>assistant"))
        assert (answer.calls, answer.content) == ((("get_weather", written),), "a")


@pytest.mark.parametrize("text", ["<function=f>", "<function=f>\n", "<function=f></function></tool_call>"])
def test_a_call_without_arguments_has_none(text: str) -> None:
    assert read(chat_format(TAGGED, {}), f"<tool_call>{text}", END).calls == (("f", "{}"),)
    assert read(chat_format(TAGGED, {}), ["<tool_call><function=f>"], END, truncated=True).calls == (("f", ""),)


def test_a_call_that_is_not_closed_ends_with_the_calls() -> None:
    def call(name: str, value: str, close: str = "") -> str:
        return f"<tool_call>\n<function={name}>\n<parameter=x>\n{value}\n</parameter>\n{close}</tool_call>"

    form = chat_format(TAGGED, {})
    for text in (f"{call('f', 'a')}\n{call('g', 'b')}", f"{call('f', 'a')}\n{call('g', 'b', '</function>')}\n"):
        assert read(form, text, END).calls == (("f", '{"x": "a"}'), ("g", '{"x": "b"}'))
    inner = "a\n</parameter>\n</tool_call> b"
    assert read(form, call("f", inner, "</function>\n"), END).call_values == [("f", {"x": inner})]


def test_a_list_of_python_calls_that_is_not_closed_is_read_at_the_end() -> None:
    form, text = chat_format("<|tool_call_start|>", {}), "<|tool_call_start|>[f(x='Rom')]"
    assert read(form, [text], END).calls == (("f", '{"x": "Rom"}'),)
    assert read(form, [text], END, truncated=True) == Answer("", "", ())
    assert read(form, [text[:-3]], END).content == text[:-3]
