"""Methods of texts that could create large values or run long: what they are given is checked first.

Each function takes a method and its text, and returns the bounded method.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from model.text.template_sandbox.clock import count_bytes
from model.text.template_sandbox.limits import (
    check_brace_format,
    check_items,
    check_lines,
    check_replace,
    check_search,
    counted,
    most_items,
)

# No prompt needs these.
_PADDING_METHODS = ("center", "expandtabs", "ljust", "rjust", "zfill")
UNSAFE_METHODS = {*_PADDING_METHODS, "encode", "format_map", "striptags", "to_bytes", "translate", "unescape"}
_Parts = TypeVar("_Parts", list[str], tuple[str, ...])


def _bounded_format(make: Callable[..., str], text: str) -> Callable[..., str]:
    def bounded(*values: Any, **named: Any) -> str:
        check_brace_format(text, *values, *named.values())
        return make(*values, **named)

    return bounded


def _bounded_join(make: Callable[..., str], separator: str) -> Callable[..., str]:
    return lambda values: make(counted(values, separator))


def _bounded_replace(make: Callable[..., str], text: str) -> Callable[..., str]:
    def bounded(old: str, new: str, count: int = -1) -> str:
        check_replace(text, old, new, count)
        return make(old, new, count)

    return bounded


def _bounded_search(make: Callable[..., Any], text: str) -> Callable[..., Any]:
    def bounded(sought: Any = None, *values: Any) -> Any:
        check_search(text, sought)
        return make(sought, *values)

    return bounded


def _bounded_split(make: Callable[..., Any], text: str) -> Callable[..., list[str]]:
    def bounded(sep: str | None = None, maxsplit: int = -1) -> list[str]:
        if make.__name__ == "rsplit":
            check_search(text, sep)
        most = most_items()
        parts: list[str] = make(sep, most if maxsplit < 0 else min(maxsplit, most))
        return _parts_of(text, parts)

    return bounded


def _bounded_partition(make: Callable[..., Any], text: str) -> Callable[..., tuple[str, ...]]:
    def bounded(sep: str) -> tuple[str, ...]:
        if make.__name__ == "rpartition":
            check_search(text, sep)
        return _parts_of(text, make(sep))

    return bounded


def _bounded_lines(make: Callable[..., Any], text: str) -> Callable[..., list[str]]:
    def bounded(keepends: bool = False) -> list[str]:
        check_lines(text)
        return _parts_of(text, make(keepends))

    return bounded


def _parts_of(text: str, parts: _Parts) -> _Parts:
    check_items(len(parts))
    count_bytes(sys.getsizeof(text))  # the items themselves are counted by the call
    return parts


BOUNDED_METHODS: Mapping[str, Callable[..., Callable[..., Any]]] = {
    "format": _bounded_format,
    "join": _bounded_join,
    "replace": _bounded_replace,
    "splitlines": _bounded_lines,
    **dict.fromkeys(("split", "rsplit"), _bounded_split),
    **dict.fromkeys(("partition", "rpartition"), _bounded_partition),
    **dict.fromkeys(("lstrip", "rfind", "rindex", "rstrip", "strip"), _bounded_search),
}
