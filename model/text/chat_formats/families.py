"""One row per way to write calls, and one per way to mark reasoning, found by what the chat template has."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from model.text.chat_formats.calls.arguments import ParameterTags
from model.text.chat_formats.calls.gemma_calls import GemmaCalls
from model.text.chat_formats.calls.json_calls import JsonCalls
from model.text.chat_formats.calls.pythonic_calls import PythonicCalls
from model.text.chat_formats.calls.tagged_calls import TaggedCalls
from model.text.chat_formats.calls.xml_arguments import XmlArguments
from model.text.chat_formats.tagged_answer import Calls, ReasoningMarkers


class CallIds(Enum):
    """Which ids of calls a chat template accepts."""

    ANY = auto()
    NINE_CHARACTERS = auto()  # letters and digits
    NUMBERED_NAMES = auto()  # such as functions.f:0


@dataclass(frozen=True, slots=True)
class CallFamily:
    """Checkpoints whose templates have all the texts `signs` write calls so.

    `ends`: the tokens that begin the results of calls, and so end an answer.
    """

    name: str
    signs: tuple[str, ...]
    calls: Calls
    call_ids: CallIds = CallIds.ANY
    ends: tuple[str, ...] = ()


_BY_SCHEMA = {">": None}
_QWEN_PARAMETERS = ParameterTags("<parameter=", _BY_SCHEMA, "</parameter>", newlines=True)
_DSML_PARAMETERS = ParameterTags(
    '<｜DSML｜parameter name="', {'" string="true">': True, '" string="false">': False}, "</｜DSML｜parameter>"
)
_KIMI_TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")
_KIMI_PARAMETERS = ParameterTags(
    '<|open|>argument key="',
    {f'" type="{kind}"<|sep|>': kind == "string" for kind in _KIMI_TYPES},
    "<|close|>argument<|sep|>",
)
_GLM_PARAMETERS = ParameterTags("<arg_key>", {"</arg_key>": None}, "</arg_value>", value_open="<arg_value>")
_HY_PARAMETERS = ParameterTags(
    "<arg_key:opensource>", {"</arg_key:opensource>": None}, "</arg_value:opensource>", "<arg_value:opensource>"
)
_M3 = "]<]minimax[>["  # before every tag


def _dsml(section: str) -> TaggedCalls:
    return TaggedCalls(
        '<｜DSML｜invoke name="', ('">',), "</｜DSML｜invoke>", f"<｜DSML｜{section}>", f"</｜DSML｜{section}>",
        _DSML_PARAMETERS,
    )  # fmt: skip


CALL_FAMILIES: Sequence[CallFamily] = (
    CallFamily(
        "MiniMax M3", (_M3, "<invoke name="),
        TaggedCalls(f'{_M3}<invoke name="', ('">',), f"{_M3}</invoke>", f"{_M3}<tool_call>", f"{_M3}</tool_call>",
                    XmlArguments(_M3)),
    ),
    CallFamily(
        "MiniMax M2", ("<minimax:tool_call>", "<invoke name="),
        TaggedCalls('<invoke name="', ('">',), "</invoke>", "<minimax:tool_call>", "</minimax:tool_call>",
                    ParameterTags('<parameter name="', {'">': None}, "</parameter>")),
    ),
    CallFamily(
        "Seed-OSS", ("<seed:tool_call>", "<function="),
        TaggedCalls("<function=", (">",), "</function>", "<seed:tool_call>", "</seed:tool_call>",
                    ParameterTags("<parameter=", _BY_SCHEMA, "</parameter>"), one_per_section=True),
    ),
    CallFamily(
        "Qwen3-Coder, Qwen3.5, Nemotron 3, Step 3.5", ("<tool_call>", "<function=", "<parameter="),
        TaggedCalls("<function=", (">",), "</function>", "<tool_call>", "</tool_call>", _QWEN_PARAMETERS,
                    one_per_section=True),
    ),
    CallFamily(
        "Hunyuan 3", (":opensource", "tool_sep"),
        TaggedCalls("<tool_call:opensource>", ("<tool_sep:opensource>",), "</tool_call:opensource>",
                    "<tool_calls:opensource>", "</tool_calls:opensource>", _HY_PARAMETERS),
    ),
    CallFamily(
        "GLM 4.5, Ling 3, Laguna", ("<tool_call>", "<arg_key>"),
        TaggedCalls("<tool_call>", ("\n",), "</tool_call>", arguments=_GLM_PARAMETERS),
    ),
    CallFamily("DeepSeek V3.2", ("DSML", "function_calls"), _dsml("function_calls")),
    CallFamily("DeepSeek V4", ("DSML", "tool_calls"), _dsml("tool_calls")),
    CallFamily(
        "DeepSeek R1", ("<｜tool▁calls▁begin｜>", "```json"),
        TaggedCalls("<｜tool▁call▁begin｜>function<｜tool▁sep｜>", ("\n```json\n",), "```<｜tool▁call▁end｜>",
                    "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    ),
    CallFamily(
        "DeepSeek V3.1", ("<｜tool▁calls▁begin｜>",),
        TaggedCalls("<｜tool▁call▁begin｜>", ("<｜tool▁sep｜>",), "<｜tool▁call▁end｜>",
                    "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    ),
    CallFamily(
        "Kimi K2", ("<|tool_calls_section_begin|>",),
        TaggedCalls("<|tool_call_begin|>", ("<|tool_call_argument_begin|>",), "<|tool_call_end|>",
                    "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
        call_ids=CallIds.NUMBERED_NAMES,
    ),
    CallFamily(
        "Kimi K3", ("<|open|>", "<|close|>", "argument"),
        TaggedCalls('<|open|>call tool="', ("<|sep|>",), "<|close|>call<|sep|>", "<|open|>tools<|sep|>",
                    "<|close|>tools<|sep|>", _KIMI_PARAMETERS, id_open='" index="'),
    ),
    CallFamily(
        "Solar Open", ("<|tool_call:begin|>",),
        TaggedCalls("<|tool_call:begin|>", ("<|tool_call:args|>",), "<|tool_call:end|>", "<|tool_calls|>",
                    id_close="<|tool_call:name|>"),
    ),
    CallFamily(
        "Mistral Small 3.2", ("[TOOL_CALLS]", "[ARGS]"),
        TaggedCalls("[TOOL_CALLS]", ("[ARGS]",), id_open="[CALL_ID]"), call_ids=CallIds.NINE_CHARACTERS,
    ),
    CallFamily(
        "Mistral", ("[TOOL_CALLS]",), JsonCalls("[TOOL_CALLS]", is_list=True), call_ids=CallIds.NINE_CHARACTERS,
    ),
    CallFamily("Functionary 3.1", ("<function=", "</function>"), TaggedCalls("<function=", (">",), "</function>")),
    CallFamily(
        "MiniCPM 5", ('<function name="', '<param name="'),
        TaggedCalls('<function name="', ('">',), "</function>",
                    arguments=ParameterTags('<param name="', {'">': None}, "</param>", cdata=True)),
    ),
    CallFamily("LFM2", ("<|tool_call_start|>",), PythonicCalls("<|tool_call_start|>", "<|tool_call_end|>")),
    CallFamily("LFM2", ("<|tool_list_start|>",), PythonicCalls("<|tool_call_start|>", "<|tool_call_end|>")),
    CallFamily("LFM2.5", ("List of tools: ",), PythonicCalls("<|tool_call_start|>", "<|tool_call_end|>")),
    CallFamily(
        "Gemma 4", ("<|tool_call>call:",),
        GemmaCalls("<|tool_call>", "<tool_call|>", '<|"|>'), ends=("<|tool_response>",),
    ),
    CallFamily(
        "FunctionGemma", ("<start_function_call>", "<escape>"),
        GemmaCalls("<start_function_call>", "<end_function_call>", "<escape>"), ends=("<start_function_response>",),
    ),
    CallFamily(
        "Command", ("<|START_ACTION|>",),
        JsonCalls("<|START_ACTION|>", "<|END_ACTION|>", "tool_name", "parameters", is_list=True),
    ),
    CallFamily(
        "Apertus", ("<|tools_prefix|>",),
        JsonCalls("<|tools_prefix|>", "<|tools_suffix|>", is_list=True, key_is_name=True),
    ),
    CallFamily("Nemotron Nano 2", ("<TOOLCALL>",), JsonCalls("<TOOLCALL>", "</TOOLCALL>", is_list=True)),
    CallFamily("MiniMax M1", ("<tool_calls>", "beginning_of_sentence"), JsonCalls("<tool_calls>", "</tool_calls>")),
    CallFamily("Apriel", ("<tool_calls>",), JsonCalls("<tool_calls>", "</tool_calls>", is_list=True)),
    CallFamily("GigaChat 3.1", ("<|function_call|>",), JsonCalls("<|function_call|>")),
    CallFamily("GigaChat 3", ("function call", "role_sep"), JsonCalls("<|message_sep|>\n\nfunction call<|role_sep|>")),
    CallFamily("Granite 3", ("<|tool_call|>",), JsonCalls("<|tool_call|>", is_list=True)),
    CallFamily("Hermes, Qwen 2.5, Qwen 3, Granite 4", ("<tool_call>",), JsonCalls("<tool_call>", "</tool_call>")),
    CallFamily("SmolLM 3", ("xml_tools",), JsonCalls("<tool_call>", "</tool_call>")),
    CallFamily("Llama 3", ("python_tag", '"parameters"'), JsonCalls(arguments_key="parameters")),
    CallFamily("Llama 3", ('"parameters": dictionary',), JsonCalls(arguments_key="parameters")),
)  # fmt: skip
PLAIN_JSON = CallFamily("JSON", (), JsonCalls())


def call_family(template: str) -> CallFamily:
    """The first row whose signs are all in the source of a template; plain JSON for any other."""
    return next((row for row in CALL_FAMILIES if all(sign in template for sign in row.signs)), PLAIN_JSON)


REASONING_FAMILIES: Sequence[ReasoningMarkers] = (
    ReasoningMarkers("<seed:think>", "</seed:think>"),
    ReasoningMarkers("<mm:think>", "</mm:think>"),
    ReasoningMarkers("<think:opensource>", "</think:opensource>"),
    ReasoningMarkers("[THINK]", "[/THINK]"),
    ReasoningMarkers("<|START_THINKING|>", "<|END_THINKING|>"),
    ReasoningMarkers("<|inner_prefix|>", "<|inner_suffix|>"),
    ReasoningMarkers("<|channel>thought", "<channel|>"),
    ReasoningMarkers("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
    ReasoningMarkers("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]"),
    ReasoningMarkers("<think>", "</think>"),
)
_SIGNS = {"<|open|>think<|sep|>": "<|open|>", "<think:opensource>": ":opensource"}  # of templates that compose them


def reasoning_family(template: str, added_tokens: Collection[str] = ()) -> ReasoningMarkers | None:
    """The markers that a template, or the vocabulary, has."""
    for row in REASONING_FAMILIES:
        sign = _SIGNS.get(row.open, row.close.strip())
        if sign in template or {row.open, row.close} <= set(added_tokens):
            return row
    return None


# By their sign in the template: markers around the content and of turns, which are never text.
_IGNORED = {
    "<|START_TEXT|>": ("<|START_TEXT|>", "<|END_TEXT|>"),
    "<|START_RESPONSE|>": ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    "<response></response>": ("<response>", "</response>"),
    "<|channel>": ("<|channel>thought\n<channel|>",),  # after the content, too
    "<|open|>": ("<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>"),
}


def ignored_markers(template: str) -> tuple[str, ...]:
    return tuple(marker for sign, found in _IGNORED.items() if sign in template for marker in found)
