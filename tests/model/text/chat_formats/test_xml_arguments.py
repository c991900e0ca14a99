"""Arguments of MiniMax M3: elements in elements become the values that the schema describes."""

from typing import Any

import pytest

from model.text.chat_formats.chat_format import ChatFormat, PromptEnd
from model.text.chat_formats.detection import chat_format
from model.text.chat_formats.json_values import MAX_DEPTH
from tests.model.text.chat_formats.answers import joined, read

PREFIX = "]<]minimax[>["
END = PromptEnd()


def form() -> ChatFormat:
    return chat_format(f"{PREFIX} <invoke name= <mm:think> </mm:think> <response>", {PREFIX: 1})


def written(body: str) -> str:
    """A call of `f`; `<` with a point before it begins a tag of the format."""
    return f'.<tool_call>\n.<invoke name="f">{body}.</invoke>\n.</tool_call>'.replace(".<", f"{PREFIX}<")


def arguments(body: str, properties: dict[str, Any]) -> Any:
    router = form().router({"f": {"properties": properties}}, END)
    assert router is not None
    answer = joined([delta for piece in written(body) for delta in router.feed(piece)] + router.finish())
    assert answer.content == ""
    return answer.call_values[0][1]


TEXT, LIST, OBJECT = {"type": "string"}, {"type": "array"}, {"type": "object"}


@pytest.mark.parametrize(
    ("body", "schema", "expected"),
    [
        (".<x>5.</x>", TEXT, "5"),
        (".<x>5.</x>", {"type": "integer"}, 5),
        (".<x> <b>1</b> &amp; \n.</x>", TEXT, " <b>1</b> &amp; \n"),
        (".<x>.<item>5.</item>.<item>6.</item>.</x>", {"type": "array", "items": TEXT}, ["5", "6"]),
        (".<x>.<item>5.</item>.</x>", {}, [5]),
        (".<x>.<item>5.</item>.</x>", {"type": "object", "properties": {"item": TEXT}}, {"item": "5"}),
        (".<x>\n  .<a>true.</a>\n  .<b>.<c>5.</c>.</b>\n.</x>", OBJECT, {"a": True, "b": {"c": 5}}),
        (".<x>.<a>5.</a>.</x>", {"type": "object", "properties": {"a": TEXT}}, {"a": "5"}),
        (".<x>.</x>", TEXT, ""),
        (".<x>.</x>", LIST, []),
        (".<x>.</x>", OBJECT, {}),
        ('.<x>{"a": [1]}.</x>', OBJECT, {"a": [1]}),
        (".<x>.<a>1.</b>.</x>", OBJECT, {"a": 1}),
    ],
)
def test_values(body: str, schema: dict[str, Any], expected: Any) -> None:
    assert arguments(body, {"x": schema}) == {"x": expected}
    assert arguments(f".<y>1.</y>\n{body}\n.<z>2.</z>", {"x": schema}) == {"y": 1, "x": expected, "z": 2}


def test_several_calls_and_none_without_arguments() -> None:
    text = written("").replace("\n", f'\n{PREFIX}<invoke name="g">{PREFIX}<x>1{PREFIX}</x>{PREFIX}</invoke>\n', 1)
    assert read(form(), [text], END).calls == (("g", '{"x": 1}'), ("f", "{}"))


def test_a_call_that_is_not_closed_is_one() -> None:
    text = written(".<x>1.</x>").replace(f"{PREFIX}</invoke>", "")
    answer = read(form(), [f"I do. {text} Done."], END)
    assert (answer.content, answer.calls) == ("I do.Done.", (("f", '{"x": 1}'),))


def test_deep_elements_end_somewhere() -> None:
    depth = 5 * MAX_DEPTH
    text = written("".join(f".<a{level}>" for level in range(depth)))
    assert read(form(), [text], END).calls[0][0] == "f"


@pytest.mark.parametrize("text", ["</mm:think>Hi.", "\n</mm:think>\nHi.", "<mm:think></mm:think>Hi.", "Hi."])
def test_a_marker_alone_says_that_there_is_no_reasoning(text: str) -> None:
    for pieces in ([text], list(text)):
        answer = read(form(), pieces, END)
        assert (answer.content, answer.reasoning) == ("Hi.", "")


def test_tags_that_the_template_has_around_results_are_content() -> None:
    assert read(form(), ["<response>Hi.</response>"], END).content == "<response>Hi.</response>"
