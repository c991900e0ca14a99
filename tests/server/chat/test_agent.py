"""An agent on a hybrid model: every turn computes only what is new, and says what it would say without a cache."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from model.network import CausalLM
from model.text.chat_template import ChatTemplate
from model.text.task_prompts import prompts_for
from server.chat.answer import ChatFinishReason, ChatResult
from server.chat.request import ChatMessage, ChatRequest, Thinking, Tool, ToolChoice, ToolMode
from server.chat.service import ChatService
from server.engine.client.async_llm import AsyncLLM
from server.engine.engine import Engine
from server.engine.grammar.compiler import GrammarCompiler
from server.engine.types import SamplingParams
from server.generation.admission import Admission
from server.generation.grammar_tokenizer import open_grammar_tokenizer
from server.generation.service import GenerationService
from server.metrics import Metrics
from tests.server.api.test_tools import TEMPLATE
from tests.server.applications import byte_tokenizer
from tests.server.engine.tiny import engine_config, tiny_config, tiny_network

pytestmark = [pytest.mark.anyio, pytest.mark.compiled_kernels]

TURNS = 10
MAX_LEN = 4096
TOKENIZER = byte_tokenizer()
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 6}, "days": {"type": "integer", "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
QUESTION = ChatMessage("user", "Where does it rain?")
TOOLS = (Tool("weather", "The weather", PARAMETERS), Tool("clock", "The time", {}))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def network() -> CausalLM:
    return tiny_network(tiny_config(vocab_size=TOKENIZER.vocab_size, max_positions=MAX_LEN))


@dataclass
class Turn:
    """The prompt of a turn and its answer."""

    result: ChatResult
    prompt: tuple[int, ...]


@asynccontextmanager
async def chats(network: CausalLM, **changes: Any) -> AsyncIterator[tuple[GenerationService, ChatService]]:
    grammars = GrammarCompiler(partial(open_grammar_tokenizer, TOKENIZER, TOKENIZER.vocab_size))
    config = engine_config(max_model_len=MAX_LEN, eos_token_ids=frozenset(TOKENIZER.eos_token_ids), **changes)
    client = AsyncLLM(Engine(network, config, grammars=grammars))
    service = GenerationService(
        client,
        TOKENIZER,
        ChatTemplate(TEMPLATE),
        prompts_for(()),
        model_id="tiny",
        max_model_len=MAX_LEN,
        observer=Metrics("tiny", client.stats),
        grammars=grammars,
    )
    yield service, ChatService(service)
    await client.close(0)


async def agent(network: CausalLM, **changes: Any) -> list[Turn]:
    """Ten turns, each a call and its result. The client sends calls back with JSON of its own."""
    messages, turns = [QUESTION], list[Turn]()
    async with chats(network, **changes) as (service, chat):
        for number in range(TURNS):
            turns.append(await one_turn(service, chat, messages, str(number)))
            calls = [
                replace(call, arguments=json.dumps(json.loads(call.arguments), indent=1))
                for call in turns[-1].result.tool_calls
            ]
            messages.append(ChatMessage("assistant", turns[-1].result.content, tool_calls=calls))
            messages += [ChatMessage("tool", f"rain {number}", tool_call_id=call.id) for call in calls]
    return turns


async def one_turn(service: GenerationService, chat: ChatService, messages: list[ChatMessage], name: str) -> Turn:
    request = ChatRequest(
        messages, TOOLS, ToolChoice(ToolMode.REQUIRED), parallel_tool_calls=False, thinking=Thinking(budget=5)
    )
    prompt = await chat.prompt(request)
    with Admission(service, name) as admission:
        (generation,) = await chat.start(admission, request, prompt, SamplingParams(max_tokens=200, seed=len(messages)))
        return Turn(await generation.result(), prompt.token_ids)


async def test_every_turn_computes_only_what_is_new(network: CausalLM) -> None:
    turns = await agent(network)
    assert {turn.result.finish_reason for turn in turns} == {ChatFinishReason.TOOL_CALLS}
    assert any(turn.result.reasoning for turn in turns)
    for before, turn in pairwise(turns):
        known = before.prompt + before.result.token_ids
        assert turn.prompt[: len(known)] == known
        # The last token was chosen and not computed, and so were those that the grammar forces after it.
        _, *forced = TOKENIZER.decode(known[turn.result.usage.cached_tokens :])
        assert "".join(forced) in ("}}\n</tool_call>", 'lock", "arguments": {}}\n</tool_call>')


async def test_the_answers_are_those_without_a_cache(network: CausalLM) -> None:
    cached, cold = await agent(network), await agent(network, prefix_caching=False)
    assert [turn.prompt for turn in cached] == [turn.prompt for turn in cold]
    assert [turn.result.token_ids for turn in cached] == [turn.result.token_ids for turn in cold]
    assert cold[-1].result.usage.cached_tokens == 0


async def test_an_answer_that_was_forgotten_is_rendered_anew(network: CausalLM) -> None:
    """Negative control: without the answer as it was, the prompt is that of the template."""
    async with chats(network) as (service, chat):
        for other, is_known in ((chat, True), (ChatService(service), False)):
            written = await one_turn(service, chat, [QUESTION], f"known-{is_known}")
            calls = [replace(call, arguments=f" {call.arguments}") for call in written.result.tool_calls]
            prompt = await other.prompt(ChatRequest([QUESTION, ChatMessage("assistant", tool_calls=calls)], TOOLS))
            known = written.prompt + written.result.token_ids
            assert (len(known) in prompt.boundaries) == is_known
