"""Limits of chat templates: how large a value may be, checked before something is made of it.

There is one measure, the weight of a value: about how many characters it has as text. It bounds the time of whatever
looks at all parts of a value: a comparison, a hash, its text.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from types import MappingProxyType
from typing import Any

MAX_CHARACTERS = 8_000_000  # of the output and of any intermediate string
_ITEM_WEIGHT = 8  # characters that an item of a list counts as
_OTHER_WEIGHT = 24  # characters of a float, and roughly of any other value that is no text, number or container
_MAX_DEPTH = 100  # of lists in each other; Python takes the hash of deep ones without looking at its stack
_MAX_BITS = 64
_MAX_WIDTH = 999  # of padding and indentation
_MAX_STEPS = 200_000_000  # of a search from the right, which may look at every character once per character sought
_WIDE_PERCENT_FORMAT = re.compile(r"%[^a-zA-Z%]*(?:\d{4}|\*)")
_WIDE_BRACE_FORMAT = re.compile(r":[^:{}]*(?:\d{4}|\{)")
_PART_OF_VALUE = re.compile(r"\{[^{}:!]*[.\[]")
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
COLLECTIONS: tuple[type[Collection[Any]], ...] = (
    list,
    tuple,
    set,
    frozenset,
    type({}.keys()),
    type({}.values()),
    type({}.items()),
)
_TOO_LARGE = "the chat template of the model computes too large a number"
_TOO_WIDE = f"the chat template of the model asks for a width or a number above {_MAX_WIDTH}"


class TemplateLimitError(ValueError):
    """A template exceeded one of its limits."""


class Items:
    """What a filter yields. It is true and can be read once, as a generator, but is computed and can be weighed."""

    def __init__(self, values: Iterable[Any]) -> None:
        self.values = list(counted(values))
        self._rest = iter(self.values)

    def __iter__(self) -> Iterator[Any]:
        return self._rest


def check_size(size: int) -> None:
    if size > MAX_CHARACTERS:
        raise TemplateLimitError(f"the chat template of the model makes more than {MAX_CHARACTERS} characters")


def check_items(count: int) -> None:
    check_size(count * _ITEM_WEIGHT)


def most_items() -> int:
    """Return how many items a list can have."""
    return MAX_CHARACTERS // _ITEM_WEIGHT


def _size(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") else abs(value) if isinstance(value, int) else 1


def weigh(value: Any) -> int:
    """Return about how many characters `value` has as text. A long text counts each time it is in a list."""
    weight, depth, level = 0, 0, [value]
    while level:
        parts: list[Any] = []
        for value in level:
            if isinstance(value, str):
                weight += len(value)
            elif isinstance(value, int):
                weight += value.bit_length() // 3 + 1
            elif isinstance(value, range):
                weight += len(value) * _ITEM_WEIGHT
            else:
                found = _parts(value)
                weight += len(found) * _ITEM_WEIGHT + _OTHER_WEIGHT
                parts += found
            check_size(weight)
        depth, level = depth + 1, parts
        if depth > _MAX_DEPTH:
            raise TemplateLimitError(f"the chat template of the model puts more than {_MAX_DEPTH} lists in each other")
    return weight


def _parts(value: Any) -> Sequence[Any]:
    if isinstance(value, dict | MappingProxyType):  # the latter is the `mapping` of a dict's keys
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, Items):
        return value.values
    return list(value) if isinstance(value, COLLECTIONS) else ()


def check_values(*values: Any, **named: Any) -> None:
    weigh([*values, *named.values()])


def checked(value: Any) -> Any:
    """Return `value` if its text is not too long."""
    weigh(value)
    return value


def counted(values: Iterable[Any], separator: str = "") -> Iterator[Any]:
    """Yield `values` while their number and total length are within the limit."""
    size = count = 0
    for value in values:
        size, count = size + weigh(value) + len(separator), count + 1
        check_size(size)
        check_items(count)
        yield value


# Operators


def check_operands(operator: str, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        check_number(left)
        check_number(right)
        if operator == "**" and left.bit_length() * right > 4 * _MAX_BITS:  # roughly; what comes out is checked, too
            raise TemplateLimitError(_TOO_LARGE)
    elif operator == "+":
        _check_length(_size(left) + _size(right), left)
    elif operator == "*":
        _check_length(_size(left) * _size(right), right if isinstance(left, int) else left)
    elif operator == "%" and isinstance(left, str):
        check_percent_format(left, right)
    else:
        check_values(left, right)


def check_number(value: Any) -> None:
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise TemplateLimitError(_TOO_LARGE)


def _check_length(length: int, example: Any) -> None:
    check_items(length) if isinstance(example, list | tuple) else check_size(length)


def check_percent_format(text: str, *values: Any) -> None:
    directives = text.replace("%%", "")
    if "%(" in directives:
        raise TemplateLimitError("the chat template of the model formats by name: use ~ instead")
    if _WIDE_PERCENT_FORMAT.search(text):
        raise TemplateLimitError(_TOO_WIDE)
    check_size(len(text) + directives.count("%") * _MAX_WIDTH + weigh(values))


def check_brace_format(text: str, *values: Any) -> None:
    if _PART_OF_VALUE.search(text):
        raise TemplateLimitError("the chat template of the model formats a part of a value: use ~ instead")
    if _WIDE_BRACE_FORMAT.search(text):
        raise TemplateLimitError(_TOO_WIDE)
    check_values(*values)
    longest = max(map(weigh, values), default=0)
    check_size(len(text) + text.count("{") * (longest + _MAX_WIDTH))


# Methods and filters


def check_search(text: str, sought: Any) -> None:
    if len(text) * _size(sought) > _MAX_STEPS:
        raise TemplateLimitError("the chat template of the model searches a long text for another one from its end")


def check_lines(text: str) -> int:
    """Return how many lines `text` has at most."""
    lines = sum(map(text.count, _LINE_ENDS)) + 1
    check_items(lines)
    return lines


def check_list(value: Any, *values: Any, **named: Any) -> None:
    """Check a value of which a list is made: a text becomes as many items as it has characters."""
    check_items(_size(value))
    check_values(value, *values, **named)


def check_narrow(value: Any, *values: Any, **named: Any) -> None:
    weigh(value)
    if any(_size(argument) > _MAX_WIDTH for argument in (*values, *named.values())):
        raise TemplateLimitError(_TOO_WIDE)


def check_indent(text: str, width: int | str = 4, *values: Any, **named: Any) -> None:
    check_narrow(text, width, *values, **named)
    check_size(len(text) + (check_lines(text) + 1) * _size(width))


def check_trim(value: Any, chars: str | None = None) -> None:
    check_search(str(checked(value)), chars or "")


def check_replace(text: Any, old: Any, new: Any, count: int | None = None) -> None:
    text, old, new = (str(checked(value)) for value in (text, old, new))
    found = text.count(old)
    replaced = found if count is None or count < 0 else min(count, found)
    check_size(len(text) + replaced * (len(new) - len(old)))


def check_sum(values: Any, attribute: Any = None, start: Any = 0) -> None:
    if not isinstance(start, int | float):
        raise TemplateLimitError("the chat template of the model adds up values that are not numbers")
