"""The filters and tests of templates, with what each is checked for before it runs."""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import Any

from jinja2 import Environment, pass_environment
from jinja2.filters import make_attrgetter

from model.text.template_sandbox.clock import ITEM_BYTES, made, tick
from model.text.template_sandbox.limits import (
    Items,
    check_indent,
    check_items,
    check_list,
    check_narrow,
    check_percent_format,
    check_replace,
    check_sum,
    check_trim,
    check_values,
    checked,
    counted,
)

UNSAFE_FILTERS = ("pprint", "striptags", "urlize", "wordwrap", "xmlattr")  # no prompt needs these


def bounded_filter(make: Callable[..., Any], check: Callable[..., None] | None) -> Callable[..., Any]:
    """Return a filter or a test that checks the clock and the sizes. What it yields is computed at once."""
    num_passed = int(hasattr(make, "jinja_pass_arg"))

    @wraps(make)
    def bounded(*values: Any, **named: Any) -> Any:
        tick()
        (check or check_values)(*values[num_passed:], **named)
        result = make(*values, **named)
        if not isinstance(result, Iterator):
            return made(result, ITEM_BYTES)
        items = Items(result)
        made(items.values, ITEM_BYTES)
        return items

    return bounded


def _unchecked(*values: Any, **named: Any) -> None:
    """The check of filters and tests that do not look at the parts of values, or that give them to others."""


FILTER_CHECKS: Mapping[str, Callable[..., None]] = {
    **dict.fromkeys(("count", "d", "default", "first", "items", "join", "last", "length"), _unchecked),
    **dict.fromkeys(("map", "random", "reject", "rejectattr", "select", "selectattr"), _unchecked),
    **dict.fromkeys(("list", "reverse"), lambda value: check_items(len(value) if isinstance(value, str) else 0)),
    **dict.fromkeys(("dictsort", "groupby", "sort", "title", "unique", "urlencode", "wordcount"), check_list),
    **dict.fromkeys(("batch", "center", "round", "slice", "tojson"), check_narrow),
    "format": check_percent_format,
    "indent": check_indent,
    "replace": check_replace,
    "sum": check_sum,
    "trim": check_trim,
}
TEST_CHECKS: Mapping[str, Callable[..., None]] = {
    **dict.fromkeys(("boolean", "callable", "defined", "false", "float", "integer", "iterable", "mapping"), _unchecked),
    **dict.fromkeys(("none", "number", "sameas", "sequence", "string", "true", "undefined"), _unchecked),
}


@pass_environment
def join(environment: Environment, values: Any, d: Any = "", attribute: str | int | None = None) -> str:
    separator = str(checked(d))
    if attribute is not None:
        values = map(make_attrgetter(environment, attribute), values)
    return separator.join(map(str, counted(values, separator)))


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The arguments are those of transformers."""
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return "".join(counted(encoder.iterencode(value)))
