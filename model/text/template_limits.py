"""Size limits of chat templates, checked before a large value is created."""

import re
from collections.abc import ItemsView, Iterable, Iterator, KeysView, ValuesView
from typing import Any

MAX_CHARACTERS = 8_000_000  # of the output and of any intermediate string; also items of any list
_MAX_BITS = 4096
_MAX_WIDTH = 999  # of padding and indentation
_OTHER_WEIGHT = 24  # characters of a float, and roughly of any other value that is no text, number or container
_WIDE_PERCENT_FORMAT = re.compile(r"%[^a-zA-Z%]*(?:\d{4}|\*)")
_WIDE_BRACE_FORMAT = re.compile(r":[^:{}]*(?:\d{4}|\{)")
_TOO_WIDE = f"the chat template of the model asks for a width or a number above {_MAX_WIDTH}"


class TemplateLimitError(ValueError):
    """A template exceeded one of its limits."""


def check_size(size: int) -> None:
    if size > MAX_CHARACTERS:
        raise TemplateLimitError(f"the chat template of the model makes more than {MAX_CHARACTERS} characters")


def _size(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") else value if isinstance(value, int) else 1


def weigh(value: Any) -> int:
    """Return about how many characters `value` has as text. A long text counts each time it is in a list."""
    weight, waiting = 0, [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            weight += len(value)
        elif isinstance(value, int):
            weight += value.bit_length() // 3 + 1
        else:
            parts = _parts(value)
            weight += len(parts) + _OTHER_WEIGHT
            waiting += parts
        check_size(weight)
    return weight


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return list(value) if isinstance(value, list | tuple | set | KeysView | ValuesView | ItemsView) else []


def checked(value: Any) -> Any:
    """Return `value` if its text is not too long."""
    weigh(value)
    return value


def counted(values: Iterable[Any], separator: str = "") -> Iterator[Any]:
    """Yield `values` while their total length is within the limit."""
    size = 0
    for value in values:
        size += weigh(value) + len(separator)
        check_size(size)
        yield value


# Operators


def check_operands(operator: str, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        bits, power = left.bit_length(), right if operator == "**" else 1
        if bits * power + right.bit_length() > _MAX_BITS:
            raise TemplateLimitError("the chat template of the model computes too large a number")
    elif operator == "+":
        check_size(_size(left) + _size(right))
    elif operator == "*":
        check_size(_size(left) * _size(right))
    elif operator == "%" and isinstance(left, str):
        check_percent_format(left, right)


def check_percent_format(text: str, *values: Any) -> None:
    directives = text.replace("%%", "")
    if "%(" in directives:
        raise TemplateLimitError("the chat template of the model formats by name: use ~ instead")
    if _WIDE_PERCENT_FORMAT.search(text):
        raise TemplateLimitError(_TOO_WIDE)
    check_size(len(text) + directives.count("%") * _MAX_WIDTH + sum(map(weigh, values)))


def check_brace_format(text: str, *values: Any) -> None:
    if _WIDE_BRACE_FORMAT.search(text):
        raise TemplateLimitError(_TOO_WIDE)
    longest = max(map(weigh, values), default=0)
    check_size(len(text) + text.count("{") * (longest + _MAX_WIDTH))


# Filters


def check_text(value: Any, *values: Any, **named: Any) -> None:
    weigh(value)


def check_narrow(value: Any, *values: Any, **named: Any) -> None:
    weigh(value)
    if any(_size(argument) > _MAX_WIDTH for argument in (*values, *named.values())):
        raise TemplateLimitError(_TOO_WIDE)


def check_indent(text: str, width: int | str = 4, *values: Any, **named: Any) -> None:
    check_narrow(text, width, *values, **named)
    check_size(len(text) + (len(text.splitlines()) + 1) * _size(width))


def check_replace(text: Any, old: Any, new: Any, count: int | None = None) -> None:
    text, old, new = (str(checked(value)) for value in (text, old, new))
    found = text.count(old)
    replaced = found if count is None or count < 0 else min(count, found)
    check_size(len(text) + replaced * (len(new) - len(old)))


def check_sum(values: Any, attribute: Any = None, start: Any = 0) -> None:
    if not isinstance(start, int | float):
        raise TemplateLimitError("the chat template of the model adds up values that are not numbers")
