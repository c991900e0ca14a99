"""Which format a checkpoint writes its answers in."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from model.text.chat_formats import atem, harmony
from model.text.chat_formats.atem import AtemFormat, uses_atem
from model.text.chat_formats.chat_format import ChatFormat
from model.text.chat_formats.families import CallFamily, call_family, ignored_markers, reasoning_family
from model.text.chat_formats.grammar import is_tag
from model.text.chat_formats.harmony import HarmonyFormat, uses_harmony
from model.text.chat_formats.response_template import calls_of, reasoning_of
from model.text.chat_formats.tagged_answer import ReasoningMarkers
from model.text.chat_formats.tagged_format import TaggedFormat


def chat_format(
    template: str,
    special_tokens: Mapping[str, int],
    added_tokens: Mapping[str, int] | None = None,
    response_template: Any = None,
) -> ChatFormat:
    """The format of answers: as `response_template` says, where it says it, or as template and vocabulary show it.

    `added_tokens` are the special ones and others.
    """
    added_tokens = added_tokens or special_tokens
    control_tokens = {
        token: token_id for token, token_id in added_tokens.items() if token in special_tokens or is_tag(token)
    }
    if uses_harmony(special_tokens):
        return HarmonyFormat(_ids(harmony.MARKERS, special_tokens), control_tokens)
    if uses_atem(template):
        return AtemFormat(_ids(atem.MARKERS, special_tokens), control_tokens)
    family = call_family(template)
    family = replace(family, calls=calls_of(response_template) or family.calls)
    reasoning = reasoning_of(response_template) or reasoning_family(template, added_tokens)
    ignored = ignored_markers(template)
    markers = "\n".join((*_markers(family, reasoning), *ignored))
    special = {token: token_id for token, token_id in special_tokens.items() if token in markers}
    return TaggedFormat(family, reasoning, ignored, special, control_tokens)


def _ids(markers: Iterable[str], special_tokens: Mapping[str, int]) -> frozenset[int]:
    return frozenset(special_tokens[token] for token in markers if token in special_tokens)


def _markers(family: CallFamily, reasoning: ReasoningMarkers | None) -> Iterable[str]:
    yield from family.calls.markers
    if reasoning is not None:
        yield from (reasoning.open, reasoning.close)
