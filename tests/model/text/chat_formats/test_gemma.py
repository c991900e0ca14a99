"""Calls of Gemma: their notation becomes JSON while it comes, whatever the model leaves out."""

import json
from typing import Any

import pytest

from model.text.chat_formats.chat_format import PromptEnd
from model.text.chat_formats.detection import chat_format
from model.text.chat_formats.json_values import MAX_DEPTH, is_deeper
from tests.model.text.chat_formats.answers import SCHEMAS, cut, joined, read

GEMMA = "<|tool_call>call: <|channel> <channel|>"
TOKENS = {token: number for number, token in enumerate(("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>"))}


def arguments(written: str) -> Any:
    """Of one call of `f`, which reads the same whole and character by character."""
    text = f"<|tool_call>call:f{written}<tool_call|>"
    answer = read(chat_format(GEMMA, {}), [text], PromptEnd())
    assert read(chat_format(GEMMA, {}), text, PromptEnd()) == answer
    assert (answer.content, [name for name, _ in answer.calls]) == ("", ["f"])
    return answer.call_values[0][1]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{}", {}),
        ("{a:1,b:-2.5e3,c:true,d:false,e:null}", {"a": 1, "b": -2500.0, "c": True, "d": False, "e": None}),
        ("{a:None,b:True}", {"a": None, "b": True}),
        ('{a:<|"|>x,}]:"\\\n{<|"|>}', {"a": 'x,}]:"\\\n{'}),
        ('{a:<|"|><|"|>,b:[],c:{}}', {"a": "", "b": [], "c": {}}),
        ('{a:[1,[<|"|>b<|"|>],{c:{d:2}}]}', {"a": [1, ["b"], {"c": {"d": 2}}]}),
        ("{ a : 1 , b : [ 1 , 2 ] }", {"a": 1, "b": [1, 2]}),
    ],
)
def test_values(written: str, expected: dict[str, Any]) -> None:
    assert arguments(written) == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{city:Köln am Rhein,url:https://a.b/c}", {"city": "Köln am Rhein", "url": "https://a.b/c"}),
        ('{"a": "x, y}", "b": {"c": [1]}}', {"a": "x, y}", "b": {"c": [1]}}),
        ('{<|"|>a<|"|>:1}', {"a": 1}),
        ("{a:[1,2}", {"a": [1, 2]}),
        ("{a:[{b:1", {"a": [{"b": 1}]}),
        ('{a:<|"|>open', {"a": "open"}),
        ("{a:,b:1,}", {"a": None, "b": 1}),
        ("{a:NaN,b:1e999,c:01}", {"a": "NaN", "b": "1e999", "c": "01"}),
        ("{a}", {"a": None}),
        ("{a,b:1,,}", {"a": None, "b": 1}),
        ('{<|"|>a:1}', {"a:1}": None}),
    ],
)
def test_slips_of_models(written: str, expected: dict[str, Any]) -> None:
    assert arguments(written) == expected


@pytest.mark.parametrize("key", ["a:b", "https://a.b/c", "a b", "a,b", "{a}", 'a"b', "", ":"])
@pytest.mark.parametrize("value", [1, "x:y", ["a", {"c:d": "e:f"}], {"g:h": {"a:b": None}}])
@pytest.mark.parametrize("sign", [GEMMA, "<start_function_call> <escape>"])
def test_keys_may_have_any_characters(sign: str, key: str, value: Any) -> None:
    form, values = chat_format(sign, {}), {key: value, "z": 1}
    text = form.write_calls([("f", values)])
    for pieces in ([text], list(text)):
        assert read(form, pieces, PromptEnd()).call_values == [("f", values)]


@pytest.mark.parametrize("text", ['{"a:b": 1, "c": {"d:e": "f"}}', '{<|"|>a:b<|"|> : 1,c:{<|"|>d:e<|"|>:<|"|>f<|"|>}}'])
def test_keys_may_have_quotes(text: str) -> None:
    assert arguments(text) == {"a:b": 1, "c": {"d:e": "f"}}


def test_keys_of_the_schema_need_no_quotes() -> None:
    inner = {"type": "object", "properties": {"c:d": {}, "c": {}}}
    schemas = {"f": {"properties": {"a:b": inner, "a": {}, "l": {"type": "array", "items": inner}}}}
    text = "<|tool_call>call:f{a:b:{c:d:1,c:2},a:b:c,l:[{c:d:3}]}<tool_call|>"
    for pieces in ([text], list(text)):
        router = chat_format(GEMMA, {}).router(schemas, PromptEnd())
        assert router is not None
        [(_, found)] = joined([delta for piece in pieces for delta in router.feed(piece)] + router.finish()).call_values
        assert found == {"a:b": "c", "l": [{"c:d": 3}]}


def test_a_text_is_streamed_while_it_is_written() -> None:
    router = chat_format(GEMMA, {}).router(SCHEMAS, PromptEnd())
    assert router is not None
    router.feed('<|tool_call>call:get_weather{city:<|"|>K')
    assert [delta.text for delta in router.feed('ö"ln')] == ['ö\\"ln']


def test_deep_values_end_somewhere() -> None:
    depth = 5 * MAX_DEPTH
    text = f"<|tool_call>call:f{{a:{'[' * depth}{']' * depth}}}<tool_call|>"
    name, found = read(chat_format(GEMMA, {}), [text], PromptEnd()).calls[0]
    assert (name, is_deeper(json.loads(found), MAX_DEPTH)) == ("f", False)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("<|tool_call>no call<tool_call|>", "<|tool_call>no call"),
        ("<|tool_call>call:<tool_call|> x", "<|tool_call>call:<tool_call|> x"),
    ],
)
def test_what_is_no_call_is_text(text: str, content: str) -> None:
    answer = read(chat_format(GEMMA, {}), [text], PromptEnd())
    assert (answer.calls, answer.content) == ((), content)


@pytest.mark.parametrize("thought", ["<|channel>thought\n<channel|>", "<|channel>thought<channel|>", ""])
@pytest.mark.parametrize("end", ["", "<channel|>", "<|channel>thought\n<channel|>"])
def test_empty_thoughts_before_and_after_the_content_are_left_out(thought: str, end: str) -> None:
    text = f"{thought}Hello.{end}"
    for pieces in ([text], list(text), *(cut(text, [place]) for place in range(len(text)))):
        answer = read(chat_format(GEMMA, TOKENS), pieces, PromptEnd())
        assert (answer.content, answer.reasoning) == ("Hello.", "")


def test_the_prompt_may_have_the_empty_thought() -> None:
    router = chat_format(GEMMA, TOKENS).router(SCHEMAS, PromptEnd("<|turn>model\n<|channel>thought\n<channel|>"))
    assert router is not None
    assert joined([*router.feed("Hello."), *router.finish()]).content == "Hello."


def test_the_token_before_the_results_of_calls_ends_an_answer() -> None:
    assert chat_format(GEMMA, {"<|tool_response>": 50}).end_ids == {50}
    assert chat_format(GEMMA, {}, {"<|tool_response>": 50}).end_ids == {50}
    assert chat_format("<start_function_call> <escape>", {"<start_function_response>": 48}).end_ids == {48}
