"""Answers that are kept for the next turn of an agent."""

import asyncio
import json

import pytest

from model.text.chat_formats.detection import chat_format
from server.chat.known_answers import KnownAnswers
from server.chat.request import ChatMessage, ToolCall
from server.generation.prompt import Prompt
from tests.server.api.test_tools import TEMPLATE
from tests.server.applications import byte_tokenizer

PROMPT = Prompt((1, 2), text="<|im_start|>assistant\n")


def known_answers() -> KnownAnswers:
    tokenizer = byte_tokenizer()
    return KnownAnswers(chat_format(TEMPLATE, tokenizer.special_tokens, tokenizer.added_tokens, None))


async def turns_while_adding(num_lines: int) -> int:
    """How often another task got its turn while an answer was added, which then is known."""
    known, turns = known_answers(), 0
    arguments = json.dumps({"content": "line\n" * num_lines})
    text = f'<tool_call>\n{{"name": "write", "arguments": {arguments}}}\n</tool_call>'
    adding = asyncio.create_task(known.add(["call"], PROMPT, [3, 4], text, {"write": {}}))
    while not adding.done():
        await asyncio.sleep(0.001)
        turns += 1
    await adding
    message = ChatMessage("assistant", tool_calls=(ToolCall("call", "write", arguments),))
    assert known.prefix(f"{PROMPT.text}{text}<|im_end|>", [message], {"write": {}}) is not None
    return turns


def test_a_long_answer_does_not_hold_up_other_requests() -> None:
    assert asyncio.run(turns_while_adding(20_000)) > 2


def test_a_short_answer_needs_no_thread() -> None:
    assert asyncio.run(turns_while_adding(10)) <= 2


@pytest.mark.parametrize(("length", "token_ids"), [(1, None), (2, (1, 2, 3, 4))])
def test_an_answer_is_not_known_after_a_prompt_that_was_cut(length: int, token_ids: tuple[int, ...] | None) -> None:
    """Its ids are not those of the conversation, which a later request may want as a whole."""
    known, message = known_answers(), ChatMessage("assistant", tool_calls=(ToolCall("call", "weather", "{}"),))
    text = '<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>'
    asyncio.run(known.add(["call"], PROMPT.truncated(length), [3, 4], text, {"weather": {}}))
    prefix = known.prefix(f"{PROMPT.text}{text}<|im_end|>", [message], {"weather": {}})
    assert (prefix and prefix.token_ids) == token_ids
