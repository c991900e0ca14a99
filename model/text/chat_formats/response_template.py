"""`response_template` of tokenizer_config.json: the format of answers as data, as transformers reads it since 2026.

Reasoning between two texts, and calls as JSON or as a list of Python calls between two texts, become rows as in
families.py. What regular expressions find is not read: the row that fits the chat template is used then.
See transformers/utils/chat_parsing.
"""

import re
from collections.abc import Mapping
from typing import Any

from model.text.chat_formats.calls.json_calls import JsonCalls
from model.text.chat_formats.calls.pythonic_calls import PythonicCalls
from model.text.chat_formats.tagged_answer import Calls, ReasoningMarkers

_REASONING = ("reasoning_content", "reasoning", "thinking")
_PLACEHOLDER = re.compile(r"\{(?:content\.)?(\w+)\}")


def reasoning_of(template: Any) -> ReasoningMarkers | None:
    """The markers of reasoning; None where the template has none that are texts."""
    fields = _fields(template)
    region = next((fields[name] for name in _REASONING if name in fields), {})
    opened, close = _literal(region, "open"), _literal(region, "close")
    return ReasoningMarkers(opened, close) if opened and close else None


def calls_of(template: Any) -> Calls | None:
    """The way to write calls; None where the template has none that can be read."""
    region = _fields(template).get("tool_calls", {})
    opened, close = _literal(region, "open"), _literal(region, "close")
    if not opened or (not close and ("close" in region or "close_pattern" in region)):
        return None
    if region.get("content") == "python-call-list" and close:
        return PythonicCalls(opened, close)
    if region.get("content") != "json" or region.get("content_args"):
        return None
    keys = _keys(region.get("transform"))
    return keys and JsonCalls(opened, close, *keys, is_list=region.get("transform_each") is True)


def _fields(template: Any) -> Mapping[str, Mapping[str, Any]]:
    fields = template.get("fields") if isinstance(template, dict) and template.get("version", 1) == 1 else None
    return fields if isinstance(fields, dict) and all(isinstance(each, dict) for each in fields.values()) else {}


def _literal(region: Mapping[str, Any], name: str) -> str:
    """The text of an anchor, the first of several; empty if it is none."""
    found = region.get(name)
    found = found[0] if isinstance(found, list) and found else found
    return found if isinstance(found, str) else ""


def _keys(transform: Any) -> tuple[str, str] | None:
    """The keys of name and arguments in the JSON of a call, as the transform takes them from there."""
    function = transform.get("function") if isinstance(transform, dict) else None
    if transform is None or function == "{content}":
        return "name", "arguments"
    if not isinstance(function, dict):
        return None
    name, arguments = (_PLACEHOLDER.fullmatch(str(function.get(key))) for key in ("name", "arguments"))
    return (name[1], arguments[1]) if name and arguments else None
