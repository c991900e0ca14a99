"""gpt-oss answers in channels: what is shown is the channel "final", and never two of them as one text."""

from model.text.chat_formats.chat_format import PromptEnd
from model.text.chat_formats.detection import chat_format
from tests.model.text.chat_formats.answers import Answer, read
from tests.model.text.chat_formats.vocabulary import byte_tokenizer

MARKS = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|constrain|>")
TOKENIZER = byte_tokenizer(MARKS)
PROMPT = "<|start|>user<|message|>hi<|end|><|start|>assistant"


def shown(answer: str, prompt: str = PROMPT) -> str:
    stream = TOKENIZER.stream(prompt_ids=TOKENIZER.encode(prompt, allow_special=True))
    pieces = [stream.push([token_id]) for token_id in TOKENIZER.encode(answer, allow_special=True)]
    return "".join(pieces) + stream.finish()


def test_the_final_channel_is_shown() -> None:
    thought = "<|channel|>analysis<|message|>let me see<|end|>"
    assert shown(f"{thought}<|start|>assistant<|channel|>final<|message|>Hello é!<|return|>") == "Hello é!"
    assert shown(thought) == ""


def test_other_channels_and_headers_are_left_out() -> None:
    call = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|end|>"
    assert shown(f"{call}<|start|>assistant<|channel|>final <|message|>a<|end|>") == "a"
    assert shown("text before any channel<|end|><|start|>assistant<|channel|>final<|message|>a") == "a"


def test_a_message_without_a_channel_is_shown() -> None:
    assert shown("<|message|>a<|end|>") == "a"


def test_the_state_is_that_of_the_prompt() -> None:
    assert shown(" there", PROMPT + "<|channel|>final<|message|>hello") == " there"
    assert shown(" there", PROMPT + "<|channel|>analysis<|message|>hello") == ""
    assert shown(" there", "plain text to continue") == " there"
    assert shown(" there<|channel|>analysis<|message|>x", "plain text to continue") == " there"


def test_half_a_character_at_the_end_of_a_message_comes_out_there() -> None:
    stream = TOKENIZER.stream(prompt_ids=TOKENIZER.encode(PROMPT + "<|message|>", allow_special=True))
    assert stream.push(TOKENIZER.encode("é")[:1]) == ""
    assert stream.push(TOKENIZER.encode("<|end|>", allow_special=True)) == "\ufffd"


def test_with_special_tokens_everything_is_shown() -> None:
    answer = "<|channel|>analysis<|message|>a<|end|>"
    assert TOKENIZER.stream(skip_special=False).push(TOKENIZER.encode(answer, allow_special=True)) == answer


def answer_of(text: str, end: str = "<|start|>assistant") -> Answer:
    return read(chat_format("", TOKENIZER.special_tokens), text, PromptEnd(end))


def test_a_chat_has_reasoning_content_and_calls() -> None:
    call = "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
    thought = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant"
    answer = answer_of(thought + call + '{"city": "Rom"}<|call|>')
    assert (answer.reasoning, answer.calls) == ("hm", (("get_weather", '{"city": "Rom"}'),))
    other = "<|start|>assistant to=functions.get_weather<|channel|>commentary json<|message|>{}"
    answer = answer_of(f"<|channel|>commentary<|message|>I look.<|end|>{other}")
    assert (answer.content, answer.calls) == ("I look.", (("get_weather", "{}"),))
    assert answer_of(thought + "<|channel|>final<|message|>Hello").content == "Hello"
    assert answer_of(" more", "<|start|>assistant<|channel|>analysis<|message|>hm").reasoning == " more"


def test_functions_that_the_request_does_not_have_are_calls_if_it_has_any() -> None:
    call = "<|channel|>commentary to=functions.other <|constrain|>json<|message|>{}<|call|>"
    assert answer_of(call).calls == (("other", "{}"),)
    assert answer_of(call.replace("functions.other", "browser.open")) == Answer("", "", ())
    router = chat_format("", TOKENIZER.special_tokens).router({}, PromptEnd("<|start|>assistant"))
    assert router is not None
    assert [*router.feed(call), *router.finish()] == []


def test_an_answer_without_any_marker_is_content() -> None:
    for end in ("", "<|return|>"):
        assert answer_of(f"Hello there.{end}") == Answer("Hello there.", "", ())
    assert answer_of(" to=functions.get_weather<|channel|>commentary<|message|>{}").calls == (("get_weather", "{}"),)
