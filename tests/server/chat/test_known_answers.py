"""Answers that are kept for the next turn of an agent."""

import asyncio
import json

from model.text.chat_formats.detection import chat_format
from server.chat.known_answers import KnownAnswers
from server.chat.request import ChatMessage, ToolCall
from server.generation.prompt import Prompt
from tests.server.api.test_tools import TEMPLATE
from tests.server.applications import byte_tokenizer

PROMPT = Prompt((1, 2), text="<|im_start|>assistant\n")


async def turns_while_adding(num_lines: int) -> int:
    """How often another task got its turn while an answer was added, which then is known."""
    tokenizer, turns = byte_tokenizer(), 0
    known = KnownAnswers(chat_format(TEMPLATE, tokenizer.special_tokens, tokenizer.added_tokens, None))
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
