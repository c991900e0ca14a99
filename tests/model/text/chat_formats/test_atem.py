"""Muse Glimmer writes messages: to itself it thinks, to tools it writes calls, and the rest is for the user."""

import pytest

from model.text.chat_formats.chat_format import PromptEnd
from model.text.chat_formats.detection import chat_format
from model.text.chat_formats.router import ContentDetokenizer
from tests.model.text.chat_formats.answers import CALLS, Answer, read
from tests.model.text.chat_formats.vocabulary import byte_tokenizer

TOKENIZER = byte_tokenizer(("<|start|>", "<|message|>", "<|eom|>", "<|eot|>"))
FORM = chat_format("<atem:function_calls>", TOKENIZER.special_tokens)
END = PromptEnd("<|start|>user<|message|>hi<|eot|><|start|>assistant")
THOUGHT = " to=self<|message|>hm <b><|eom|><|start|>assistant"


def call(name: str = "get_weather", city: str = "Rom") -> str:
    parameter = f'<atem:parameter name="city">{city}</atem:parameter>\n' if city else ""
    invoke = f'<atem:invoke name="{name}">\n{parameter}</atem:invoke>'
    return f" to={name}<|message|><atem:function_calls>\n{invoke}\n</atem:function_calls>"


def answer_of(text: str, end: PromptEnd = END) -> Answer:
    answer = read(FORM, [text], end)
    assert read(FORM, text, end) == answer
    for place in range(len(text)):
        assert read(FORM, [text[:place], text[place:]], end) == answer, text[:place]
    return answer


def test_a_chat_has_reasoning_content_and_calls() -> None:
    assert answer_of(f"{THOUGHT} to=user<|message|>Hello.<|eot|>") == Answer("Hello.", "hm <b>", ())
    assert answer_of(f"{THOUGHT}{call()}<|eot|>") == Answer("", "hm <b>", (("get_weather", '{"city": "Rom"}'),))
    several = f"{THOUGHT}{call()}<|eom|><|start|>assistant{call(city='')}<|eot|>"
    assert answer_of(several).calls == (("get_weather", '{"city": "Rom"}'), ("get_weather", "{}"))


INVOKE = '<atem:function_calls>\n<atem:invoke name="get_weather">\n'
CITY = '<atem:parameter name="city">'


@pytest.mark.parametrize("message_end", ["<|eom|>", "<|eot|>", ""])
@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        (f"{INVOKE}{CITY}Rom</atem:parameter>\n</atem:function_calls>", '{"city": "Rom"}'),
        (f"{INVOKE}{CITY}Rom</atem:parameter>\n", '{"city": "Rom"}'),
        (f"{INVOKE}{CITY}Rom", f"{CITY}Rom"),
        (f"{INVOKE}Rom", "Rom"),
        (f"{INVOKE}", "{}"),
        ('{"city": "Rom"}', '{"city": "Rom"}'),
        ("<atem:function_calls>Rom", "<atem:function_calls>Rom"),
    ],
)
def test_a_call_that_is_not_closed_ends_with_its_message(written: str, arguments: str, message_end: str) -> None:
    after = "<|start|>assistant to=user<|message|>Hello.<|eot|>"
    answer = answer_of(f"{THOUGHT} to=get_weather<|message|>{written}{message_end}{after}")
    assert answer == Answer("Hello.", "hm <b>", (("get_weather", arguments),))
    again = answer_of(f" to=get_weather<|message|>{written}{message_end}<|start|>assistant{call()}<|eot|>")
    assert again.calls == (("get_weather", arguments), ("get_weather", '{"city": "Rom"}'))


def test_a_message_without_a_recipient_is_for_the_user() -> None:
    assert answer_of("<|message|>Hello.<|eot|>").content == "Hello."


@pytest.mark.parametrize("end", ["", "<|eot|>"])
def test_an_answer_without_a_message_is_content(end: str) -> None:
    assert answer_of(f"Hello there.{end}") == Answer("Hello there.", "", ())


def test_calls_of_tools_that_the_request_does_not_have_are_left_out() -> None:
    assert answer_of(f"{call('other')}<|eom|><|start|>assistant to=user<|message|>a<|eot|>") == Answer("a", "", ())


def test_an_answer_goes_on_with_the_message_of_the_prompt() -> None:
    for recipient, expected in (("user", Answer(" a", "", ())), ("self", Answer("", " a", ()))):
        begun = f"{END.text} to={recipient}<|message|>I am"
        assert answer_of(" a<|eot|>", PromptEnd(begun, continued="I am")) == expected
    assert answer_of(" a", PromptEnd("plain text")).content == " a"


def test_what_was_written_reads_the_same() -> None:
    text = f" to=get_weather<|message|>{FORM.write_calls(CALLS[:1])}"
    assert answer_of(text).call_values == CALLS[:1]


@pytest.mark.parametrize("text", [f"{THOUGHT} to=user<|message|>yes<|eot|>", "<|message|>yes"])
def test_the_content_alone_can_be_had(text: str) -> None:
    parser = FORM.content_parser(END)
    assert parser is not None
    detokenizer = ContentDetokenizer(TOKENIZER.stream(kept=FORM.marker_ids), parser)
    pieces = [detokenizer.push([token_id]) for token_id in TOKENIZER.encode(text, allow_special=True)]
    assert "".join(pieces) + detokenizer.finish() == "yes"


def test_the_beginning_of_the_content_and_the_end_of_thinking_are_known() -> None:
    assert FORM.content_start(END) == " to=user<|message|>"
    markers = FORM.thinking(END)
    assert markers is not None
    assert answer_of(f"{markers.open}hm{markers.forced} to=user<|message|>a") == Answer("a", "hm", ())
    assert FORM.end_ids == {TOKENIZER.special_tokens["<|eot|>"]}
