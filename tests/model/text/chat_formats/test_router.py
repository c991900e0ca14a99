"""However an answer is cut into pieces, its fields are the same; nothing of a marker is in them, nothing is lost."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.text.chat_formats.chat_format import ChatFormat, PromptEnd
from model.text.chat_formats.detection import chat_format
from model.text.chat_formats.families import CALL_FAMILIES, PLAIN_JSON, CallFamily, ReasoningMarkers
from model.text.chat_formats.tagged_format import TaggedFormat
from tests.model.text.chat_formats.answers import CALLS, SCHEMAS, cut, joined, read

THINK = ReasoningMarkers("<think>", "</think>")
ROWS = [*CALL_FAMILIES, PLAIN_JSON]
END = PromptEnd()


def form_of(family: CallFamily) -> TaggedFormat:
    return TaggedFormat(family, THINK)


def answer_of(family: CallFamily, reasoning: str = "hm <b> {1}", content: str = "Let me look: 5 < 6.") -> str:
    written = family.calls.write(CALLS if family.calls.opens else CALLS[:1])
    before = f"{content}\n" if content and family.calls.opens else ""
    return f"<think>\n{reasoning}\n</think>\n\n{before}{written}"


@pytest.mark.parametrize("family", ROWS, ids=lambda family: family.name)
def test_every_way_to_cut_an_answer_gives_the_same_fields(family: CallFamily) -> None:
    text, form = answer_of(family), form_of(family)
    whole = read(form, [text], END)
    assert whole.reasoning == "hm <b> {1}"
    assert whole.content == ("Let me look: 5 < 6." if family.calls.opens else "")
    assert whole.call_values == (CALLS if family.calls.opens else CALLS[:1])
    assert read(form, text, END) == whole
    for place in range(len(text)):
        assert read(form, cut(text, [place]), END) == whole, text[:place]


@pytest.mark.parametrize("family", ROWS, ids=lambda family: family.name)
def test_an_answer_that_is_cut_off_shows_nothing_of_a_marker(family: CallFamily) -> None:
    text, form = answer_of(family), form_of(family)
    whole = read(form, [text], END)
    for place in range(len(text)):
        part = read(form, [text[:place]], END, truncated=True)
        assert whole.reasoning.startswith(part.reasoning)
        if family.calls.opens:  # otherwise the beginning of a call may be content in JSON
            assert whole.content.startswith(part.content.rstrip("[{\n")), (text[:place], part)
        for (name, arguments), (found_name, found) in zip(whole.calls, part.calls, strict=False):
            assert found_name == name
            assert arguments.startswith(found)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_random_answers_in_random_pieces(data: st.DataObject) -> None:
    family = data.draw(st.sampled_from([row for row in ROWS if row.calls.opens]))
    alphabet = st.sampled_from(["<", ">", "/", "think", "tool_call", "a", " ", "\n", "é", '"', "{", "}", "[", "|", "="])
    content = data.draw(st.lists(alphabet, max_size=12).map("".join)).strip()
    text, form = answer_of(family, content=content), form_of(family)
    places = data.draw(st.lists(st.integers(0, len(text)), max_size=12))
    whole = read(form, [text], END)
    assert read(form, cut(text, places), END) == whole
    markers = (*family.calls.markers, "<think>", "</think>")
    if not any(marker and marker in content for marker in markers) and whole.content == content:
        assert whole.call_values == CALLS


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40), st.lists(st.integers(0, 40), max_size=6))
def test_text_without_markers_is_content_as_it_is(text: str, places: list[int]) -> None:
    form = TaggedFormat(CALL_FAMILIES[2], THINK)
    if not any(marker in text for marker in (*CALL_FAMILIES[2].calls.markers[:6], "think>")):
        assert read(form, cut(text, [min(place, len(text)) for place in places]), END).content == text


def hermes() -> ChatFormat:
    return chat_format("<tool_call> <think></think>", {})


def test_a_call_within_the_reasoning_ends_it() -> None:
    answer = read(hermes(), ['I must.\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call></think>ok'],
                  PromptEnd("<think>\n"))  # fmt: skip
    assert (answer.reasoning, answer.content, answer.calls) == ("I must.", "ok", (("f", "{}"),))


def test_what_looks_like_a_call_and_is_none_is_text() -> None:
    text = "Write <tool_call> before a call, and </think> after a thought."
    answer = read(hermes(), [text], END)
    assert answer.content == text
    assert read(hermes(), ["<tool_call>x"], END).content == "<tool_call>x"
    answer = read(hermes(), [text], PromptEnd("<think>"))
    assert answer.reasoning == "Write <tool_call> before a call, and"
    assert answer.content == "after a thought."


def test_special_tokens_of_a_format_never_are_text() -> None:
    form = chat_format("<|tool_call_start|>", {"<|tool_call_start|>": 1, "<|tool_call_end|>": 2})
    assert read(form, ["a<|tool_call_end|>b<|tool_call_start|>no call<|tool_call_end|>c"], END).content == "abno callc"


def test_arguments_are_streamed_while_they_are_written() -> None:
    router = hermes().router(SCHEMAS, END)
    assert router is not None
    router.feed('<tool_call>\n{"name": "get_weather", "arguments": ')
    assert [delta.text for delta in router.feed('{"city": "Kö')] == ['{"city": "Kö']


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"name": "f", "arguments": "{\\"x\\": 1}"}', '{"x": 1}'),
        ('{"arguments": {"x": 1}, "name": "f"}', '{"x": 1}'),
        ('{"name": "f"}', "{}"),
        ('{"name": "f", "parameters": {"x": 1}}', '{"x": 1}'),
        ('{"name": "f", "arguments": null}', "{}"),
        ('{"name": "f", "arguments": {"x": 1}', '{"x": 1}'),
        ('{"name": "f", "arguments": {"x": 1}}}', '{"x": 1}'),
        ('[{"id": "3", "name": "f", "arguments": {"x": 1}}]', '{"x": 1}'),
    ],
)
def test_slips_of_models(text: str, arguments: str) -> None:
    assert read(hermes(), [f"<tool_call>{text}</tool_call>"], END).calls == (("f", arguments),)


@pytest.mark.parametrize("value", ["[1" + ",1" * 50_000 + "]", "(" * 5000, "-" * 100_000 + "1", "'" * 9999, "f'{x}'"])
def test_hostile_lists_of_calls_are_text(value: str) -> None:
    form = chat_format("<|tool_call_start|>", {})
    start = time.thread_time()
    answer = read(form, [f"<|tool_call_start|>[f(x={value})]<|tool_call_end|>"], END)
    assert answer.calls == ()
    assert value in answer.content
    assert time.thread_time() - start < 0.5


PYTHONIC, TAGGED = "<|tool_call_start|>", "<tool_call><function=<parameter="


@pytest.mark.parametrize(
    ("sign", "written"),
    [
        (PYTHONIC, r'<|tool_call_start|>[f(x="\ud83d\ude00")]<|tool_call_end|>'),
        (TAGGED, r'<tool_call><function=f><parameter=x>{"a": "\ud83d"}</parameter></function></tool_call>'),
        ("<tool_call>", r'<tool_call>{"name": "\ud83d", "arguments": "{\"x\": \"\ud83d\"}"}</tool_call>'),
        (TAGGED, "<tool_call><function=f><parameter=x>NaN</parameter></function></tool_call>"),
        (TAGGED, "<tool_call><function=f><parameter=x>[1e999]</parameter></function></tool_call>"),
    ],
)
def test_arguments_are_json_that_can_be_sent(sign: str, written: str) -> None:
    name, arguments = read(chat_format(sign, {}), [written], END).calls[0]
    (name + arguments).encode("utf-8")
    json.loads(arguments, parse_constant=pytest.fail)


@pytest.mark.parametrize("value", ["1e999", "0x" + "f" * 3900])
def test_calls_that_have_no_json_are_text(value: str) -> None:
    answer = read(chat_format(PYTHONIC, {}), [f"<|tool_call_start|>[f(x={value})]<|tool_call_end|>"], END)
    assert (answer.calls, value in answer.content) == ((), True)


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ("'Köln', 3", {"city": "Köln", "days": 3}),
        ("'Köln', days=3", {"city": "Köln", "days": 3}),
        ("**{'city': 'Köln'}, days=3", {"city": "Köln", "days": 3}),
        ("'a', 1, {}", {"city": "a", "days": 1, "options": {}}),
    ],
)
def test_arguments_of_python_need_no_names(written: str, arguments: dict[str, Any]) -> None:
    answer = read(chat_format(PYTHONIC, {}), [f"<|tool_call_start|>[get_weather({written})]<|tool_call_end|>"], END)
    assert answer.call_values == [("get_weather", arguments)]


NAMES = [
    "from",
    "None",
    "user-id",
    "a:b c",
    "1st",
    "ñ",
    "ﬁ",
    "$ref",
    "x.y",
    "",
    " ",
    "a=b",
    "a,b",
    "(",
    "'",
    '"',
    "f(x=1)",
]


@pytest.mark.parametrize("name", NAMES)
def test_arguments_of_python_may_have_any_name(name: str) -> None:
    form, calls = chat_format(PYTHONIC, {}), [("f", {name: [1, "x=1, y='2'"], "z": {name: 1}})]
    assert read(form, form.write_calls(calls), END).call_values == calls


@pytest.mark.parametrize("written", ["from='a', to = 'b'", "from= 'a',\n to='b'", "**{'from': 'a'}, to='b'"])
def test_arguments_of_python_may_have_the_names_of_its_keywords(written: str) -> None:
    answer = read(chat_format(PYTHONIC, {}), [f"<|tool_call_start|>[send({written})]<|tool_call_end|>"], END)
    assert answer.call_values == [("send", {"from": "a", "to": "b"})]


@pytest.mark.parametrize("written", ["x==1", "x=y==1", "x=lambda y=1: 2", "x=(y=1)", "x=g(y=1)", "=1"])
def test_python_that_is_no_argument_is_text(written: str) -> None:
    text = f"<|tool_call_start|>[f({written})]<|tool_call_end|>"
    answer = read(chat_format(PYTHONIC, {}), [text], END)
    assert (answer.content, answer.calls) == (text, ())


@pytest.mark.parametrize("written", ["'a', 1, {}, 'too many'", "*['a']", "**5", "**['a']", "**x"])
def test_arguments_of_python_that_have_no_value_are_text(written: str) -> None:
    text = f"<|tool_call_start|>[get_weather({written})]<|tool_call_end|>"
    answer = read(chat_format(PYTHONIC, {}), [text], END)
    assert (answer.content, answer.calls) == (text, ())


@pytest.mark.parametrize("properties", [None, ["x"], {"x": {"type": 5}}, {"x": {"anyOf": 5, "enum": "a"}}, {"x": True}])
def test_calls_are_read_whatever_the_schema_is(properties: object) -> None:
    written = "<tool_call><function=f><parameter=x>1</parameter></function></tool_call>"
    router = chat_format(TAGGED, {}).router({"f": {"properties": properties}}, END)
    assert router is not None
    assert joined([*router.feed(written), *router.finish()]).call_values == [("f", {"x": 1})]


@pytest.mark.parametrize("name", ["find", "mcp:find", "mcp.find-it", "3d"])
@pytest.mark.parametrize(
    ("sign", "written"),
    [
        (TAGGED, "<tool_call><function={}></function></tool_call>"),
        (PYTHONIC, "<|tool_call_start|>[{}()]<|tool_call_end|>"),
    ],
)
def test_names_need_not_be_identifiers(sign: str, written: str, name: str) -> None:
    assert read(chat_format(sign, {}), [written.format(name)], END).calls == ((name, "{}"),)


def test_values_are_cast_by_the_schema() -> None:
    form = chat_format("<tool_call><function=<parameter=", {})
    values = {"city": "5", "days": "5", "options": "{'a': True}", "unknown": "null"}
    written = "".join(f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in values.items())
    answer = read(form, [f"<tool_call>\n<function=get_weather>\n{written}</function>\n</tool_call>"], END)
    expected = {"city": "5", "days": 5, "options": {"a": True}, "unknown": None}
    assert json.loads(answer.calls[0][1]) == expected


REFERRING: dict[str, Any] = {  # as Pydantic writes the schemas of enumerations and of models in models
    "properties": {
        "zip": {"$ref": "#/$defs/Zip"},
        "default": {"allOf": [{"$ref": "#/$defs/Zip"}], "default": "10115", "title": "Zip"},
        "optional": {"anyOf": [{"$ref": "#/$defs/Zip"}, {"type": "null"}]},
        "number": {"$ref": "#/$defs/Number"},
        "recursive": {"$ref": "#/$defs/Recursive"},
        "unknown": {"$ref": "#/$defs/Unknown"},
    },
    "$defs": {
        "Zip": {"type": "string", "enum": ["10115", "20095"]},
        "Number": {"type": "integer"},
        "Recursive": {"anyOf": [{"allOf": [{"$ref": "#/$defs/Recursive"}]}, {"$ref": "#/$defs/Zip"}]},
    },
}


@pytest.mark.parametrize(
    ("sign", "argument"),
    [
        (TAGGED, "<parameter={0}>10115</parameter>"),
        ("]<]minimax[>[<invoke name=", "]<]minimax[>[<{0}>10115]<]minimax[>[</{0}>"),
    ],
)
def test_values_are_cast_by_the_definition_that_the_schema_refers_to(sign: str, argument: str) -> None:
    opened, closed = (
        ("<function=f>", "</function>")
        if sign == TAGGED
        else (']<]minimax[>[<invoke name="f">', "]<]minimax[>[</invoke>")
    )
    router = chat_format(sign, {}).router({"f": REFERRING}, END)
    assert router is not None
    written = opened + "".join(map(argument.format, REFERRING["properties"])) + closed
    [(_, values)] = joined([*router.feed(written), *router.finish()]).call_values
    texts = dict.fromkeys(("zip", "default", "optional", "recursive"), "10115")
    assert values == texts | {"number": 10115, "unknown": 10115}


@pytest.mark.parametrize(
    ("value", "expected"), [('"a"', "a"), ("a", "a"), ("5", "5"), ("null", None), ('{"a": 1}', '{"a": 1}')]
)
def test_a_text_may_have_quotes_where_it_may_also_be_null(value: str, expected: str | None) -> None:
    """Grammars write such values as JSON, models write most of them as they are."""
    schemas = {"f": {"properties": {"x": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}}
    router = chat_format(TAGGED, {}).router(schemas, END)
    assert router is not None
    written = f"<tool_call><function=f><parameter=x>{value}</parameter></function></tool_call>"
    assert joined([*router.feed(written), *router.finish()]).call_values == [("f", {"x": expected})]


def test_arguments_are_complete_where_the_model_ends_the_answer_after_one() -> None:
    text = "<tool_call><function=get_weather><parameter=city>Rom</parameter>"
    for pieces in ([text], list(text)):
        assert read(chat_format(TAGGED, {}), pieces, END).calls == (("get_weather", '{"city": "Rom"}'),)
        part = read(chat_format(TAGGED, {}), pieces, END, truncated=True)
        assert not part.calls[0][1].endswith("}")


def test_a_prompt_that_mentions_the_marker_has_not_opened_it() -> None:
    assert read(hermes(), ["a"], PromptEnd("what is <think>?<|im_end|>\n<|im_start|>assistant\n")).content == "a"
    assert read(hermes(), ["a"], PromptEnd("<|im_start|>assistant\n<think>\n")).reasoning == "a"
    assert read(hermes(), ["a"], PromptEnd("<|im_start|>assistant\n<think>\n\n</think>\n\n")).content == "a"
    assert read(hermes(), [" a"], PromptEnd("", continued="<think>I am")).reasoning == " a"
    assert read(hermes(), [" a"], PromptEnd("", continued="I am")).content == " a"
