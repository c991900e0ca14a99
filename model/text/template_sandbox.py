"""Renders the jinja template of a checkpoint with bounded time, memory and access.

The template is untrusted: it may loop forever, double a string forty times, or try to access Python internals. So it
runs in jinja's immutable sandbox, and nothing is computed in advance. No single operation (operator, comparison,
subscript, filter, test, call) can take long, because the values that it looks at are weighed first; and each checks a
clock, which also counts the memory of what was made.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from types import BuiltinMethodType, MethodType
from typing import Any, TypeVar

from jinja2 import Environment, Template, TemplateError, nodes, pass_context, pass_environment
from jinja2.ext import Extension
from jinja2.filters import make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from model.text.template_limits import (
    COLLECTIONS,
    ITEM_WEIGHT,
    MAX_CHARACTERS,
    Items,
    TemplateLimitError,
    check_brace_format,
    check_indent,
    check_items,
    check_lines,
    check_list,
    check_narrow,
    check_number,
    check_operands,
    check_percent_format,
    check_replace,
    check_search,
    check_size,
    check_sum,
    check_trim,
    check_values,
    checked,
    counted,
)

MAX_SECONDS = 1.0  # of CPU time, so that a busy machine does not refuse a good template
MAX_BYTES = 2**29  # of all values that one rendering makes
_ITEM_BYTES = 64  # of an item that is made together with its list
# Methods and filters that could create large values or run long, and that prompts do not need.
_PADDING_METHODS = ("center", "expandtabs", "ljust", "rjust", "zfill")
_UNSAFE_METHODS = {*_PADDING_METHODS, "encode", "format_map", "striptags", "to_bytes", "translate", "unescape"}
_UNSAFE_FILTERS = ("pprint", "striptags", "urlize", "wordwrap", "xmlattr")
# Filters that the compiled template calls. With a space, a template can name them only in `map`, where they do no harm.
_TICK, _OPERAND, _MADE, _CONCAT = "check clock", "check operand", "check made", "check concat"
_WRONG_USE = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError, ValueError)
_FAILURES = (TemplateError, RuntimeError, *_WRONG_USE)
_Parts = TypeVar("_Parts", list[str], tuple[str, ...])
_Timed = TypeVar("_Timed", nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)


class Clock:
    """The CPU seconds that several renderings may take in total, and the bytes that each may make.

    Time between them does not count.
    """

    def __init__(self, seconds: float = MAX_SECONDS) -> None:
        self._seconds = self._left = seconds
        self._deadline = 0.0
        self._bytes = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the clock during one rendering."""
        self._deadline, self._bytes = time.thread_time() + self._left, 0
        token = _CLOCK.set(self)
        try:
            yield
        finally:
            _CLOCK.reset(token)
            self._left = self._deadline - time.thread_time()

    def check(self) -> None:
        if time.thread_time() > self._deadline:
            raise TemplateLimitError(f"the chat template of the model ran longer than {self._seconds:g} s")

    def count(self, size: int) -> None:
        self._bytes += size
        if self._bytes > MAX_BYTES:
            raise TemplateLimitError(f"the chat template of the model makes more than {MAX_BYTES >> 20} MiB")


_CLOCK: ContextVar[Clock] = ContextVar("_CLOCK")


class BoundedTemplate:
    """A compiled template, safe to render from several threads. `literals` are the texts that it writes or names.

    ValueError where its source is not valid jinja.
    """

    def __init__(self, source: str) -> None:
        environment = _BoundedEnvironment()
        try:
            parsed = environment.parse(source)
            self.literals = frozenset(_literals(parsed))
            tree = _InsertChecks().visit(parsed)
            self._template: Template = environment.from_string(tree)
        except (TemplateError, RecursionError, SyntaxError, MemoryError, ValueError, OverflowError) as error:
            raise ValueError(f"the chat template of the model is not valid: {error}") from error

    def render(self, variables: Mapping[str, Any], clock: Clock) -> str:
        """Return the rendered text. ValueError where the template fails, refuses the variables or breaks a limit."""
        try:
            with clock.running():
                return self._render(variables, clock)
        except TemplateLimitError:
            raise
        except RecursionError as error:
            raise TemplateLimitError("the chat template of the model calls itself without end") from error
        except _FAILURES as error:
            raise ValueError(f"the chat template of the model cannot render these messages: {error}") from error

    def _render(self, variables: Mapping[str, Any], clock: Clock) -> str:
        pieces, size = [], 0
        for piece in self._template.generate(**variables):
            clock.check()
            size += len(piece)
            check_size(size)
            pieces.append(piece)
        return "".join(pieces)


def _literals(tree: nodes.Template) -> Iterator[str]:
    yield from (node.data for node in tree.find_all(nodes.TemplateData))
    yield from (node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str))


class _GenerationTag(Extension):
    """{% generation %}: marks what the model writes, for training. What is inside is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own declaration

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _BoundedEnvironment(ImmutableSandboxedEnvironment):
    """The settings, filters and functions that transformers gives to chat templates."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self) -> None:
        extensions = ["jinja2.ext.loopcontrols", _GenerationTag]
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=extensions, optimized=False, finalize=_finalize
        )
        for name in _UNSAFE_FILTERS:
            del self.filters[name]
        self.filters |= {"join": _join, "tojson": _to_json}
        self.filters = {name: _bounded(make, _FILTER_CHECKS.get(name)) for name, make in self.filters.items()}
        self.filters |= {_TICK: _tick, _OPERAND: _operand, _MADE: _made, _CONCAT: self.concat}
        tests: Mapping[str, Any] = self.tests
        self.tests = {name: _bounded(make, _TEST_CHECKS.get(name)) for name, make in tests.items()}
        del self.globals["lipsum"]
        self.globals |= {"namespace": _Namespace, "raise_exception": _raise_exception, "strftime_now": _strftime_now}

    @staticmethod
    def concat(values: Iterable[Any]) -> str:
        """Join the output of a macro or a block, or the operands of `~`."""
        joined: str = _made("".join(map(str, counted(values))))
        return joined

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        # Through a type, such as dict.update, a template could change what the immutable sandbox protects.
        is_unsafe = isinstance(obj, type | Items) or (isinstance(obj, str | int) and attr in _UNSAFE_METHODS)
        return not is_unsafe and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., Any] | None:
        # Jinja calls this for every attribute that a template reads, so other methods can be checked here too.
        if not isinstance(value, MethodType | BuiltinMethodType) or not isinstance(value.__self__, str):
            return None
        bounded = _BOUNDED_METHODS.get(value.__name__)
        return bounded and bounded(super().wrap_str_format(value) or value, value.__self__)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _tick()
        check_operands(operator, left, right)
        return _made(super().call_binop(context, operator, left, right))

    def getitem(self, obj: Any, argument: Any) -> Any:
        return super().getitem(obj, _operand(argument))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - as in jinja
        _tick()
        if not isinstance(__obj, Macro | LoopContext):  # these are templates, whose operations are checked
            owner = getattr(__obj, "__self__", None)
            looks_at_owner = args and isinstance(owner, COLLECTIONS)
            named = (value for name, value in kwargs.items() if name not in _JINJA_ARGUMENTS)
            check_values(*args, *named, owner if looks_at_owner else None)
        return _made(super().call(__context, __obj, *args, **kwargs), _ITEM_BYTES)


class _InsertChecks(NodeTransformer):
    """Inserts checks into a template.

    Loops, macros and blocks check the clock. The operands of comparisons and keys are checked; so is what `~`, slices,
    literals and {% set %} blocks make. Jinja itself asks the environment for the rest.
    """

    def visit_For(self, node: nodes.For) -> nodes.For:
        self._with_clock(node)
        node.iter = _filter(_TICK, node.iter)  # its body may never be reached
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:
        return self._with_clock(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.CallBlock:
        return self._with_clock(node)

    def visit_Block(self, node: nodes.Block) -> nodes.Block:
        return self._with_clock(node)

    def visit_Const(self, node: nodes.Const) -> nodes.Const:
        check_number(node.value)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filter(_CONCAT, nodes.List(node.nodes, lineno=node.lineno))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        if not _is_cheap(node):
            node.expr = _filter(_OPERAND, node.expr)
            for operand in node.ops:
                operand.expr = _filter(_OPERAND, operand.expr)
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _filter(_MADE, node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _filter(_MADE, node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _filter(_MADE, node) if node.ctx == "load" else node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        self.generic_visit(node)
        node.key = _filter(_OPERAND, node.key)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filter(_MADE, node) if isinstance(node.arg, nodes.Slice) else node

    def _with_clock(self, node: _Timed) -> _Timed:
        self.generic_visit(node)
        check = _filter(_TICK, nodes.Const(None, lineno=node.lineno))
        node.body.insert(0, nodes.ExprStmt(check, lineno=node.lineno))
        return node


def _is_cheap(node: nodes.Compare) -> bool:
    """Whether it compares with a short constant, which is the usual case."""
    sides = (node.expr, node.ops[0].expr)
    is_plain = len(node.ops) == 1 and node.ops[0].op not in ("in", "notin")
    return is_plain and any(isinstance(side, nodes.Const) and len(str(side.value)) < 999 for side in sides)


def _filter(name: str, value: nodes.Node) -> nodes.Filter:
    return nodes.Filter(value, name, [], [], None, None, lineno=value.lineno)


def _tick(value: Any = None) -> Any:
    _CLOCK.get().check()
    return value


def _operand(value: Any) -> Any:
    """Check a value that is compared, or whose hash is taken."""
    _tick()
    return value if isinstance(value, str | int | float | None) else checked(value)


def _made(value: Any, item_bytes: int = 0) -> Any:
    """Check and count a value that was made."""
    check_number(value)
    size = sys.getsizeof(value)
    if isinstance(value, str):
        check_size(len(value))
    elif isinstance(value, list | tuple):
        check_items(len(value))
        size += item_bytes * len(value)
    _CLOCK.get().count(size)
    return value


@pass_context
def _finalize(context: Context, value: Any) -> Any:
    """Check a value before it is written. Because it takes the context, jinja does not do so in advance."""
    return _operand(value)


class _Namespace(Namespace):
    """Has a short repr: the default one would show its values, which could be itself or a value many times."""

    def __repr__(self) -> str:
        return "<Namespace>"


# Methods


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
        most = MAX_CHARACTERS // ITEM_WEIGHT
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
    _CLOCK.get().count(sys.getsizeof(text))  # the items themselves are counted by the call
    return parts


_BOUNDED_METHODS: Mapping[str, Callable[..., Callable[..., Any]]] = {
    "format": _bounded_format,
    "join": _bounded_join,
    "replace": _bounded_replace,
    "splitlines": _bounded_lines,
    **dict.fromkeys(("split", "rsplit"), _bounded_split),
    **dict.fromkeys(("partition", "rpartition"), _bounded_partition),
    **dict.fromkeys(("lstrip", "rfind", "rindex", "rstrip", "strip"), _bounded_search),
}
_JINJA_ARGUMENTS = ("_loop_vars", "_block_vars")  # jinja adds them to calls


# Filters and tests


def _bounded(make: Callable[..., Any], check: Callable[..., None] | None) -> Callable[..., Any]:
    """Return a filter or a test that checks the clock and the sizes. What it yields is computed at once."""
    num_passed = int(hasattr(make, "jinja_pass_arg"))

    @wraps(make)
    def bounded(*values: Any, **named: Any) -> Any:
        _tick()
        (check or check_values)(*values[num_passed:], **named)
        result = make(*values, **named)
        if not isinstance(result, Iterator):
            return _made(result, _ITEM_BYTES)
        items = Items(result)
        _made(items.values, _ITEM_BYTES)
        return items

    return bounded


def _unchecked(*values: Any, **named: Any) -> None:
    """The check of filters and tests that do not look at the parts of values, or that give them to others."""


_FILTER_CHECKS: Mapping[str, Callable[..., None]] = {
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
_TEST_CHECKS: Mapping[str, Callable[..., None]] = {
    **dict.fromkeys(("boolean", "callable", "defined", "false", "float", "integer", "iterable", "mapping"), _unchecked),
    **dict.fromkeys(("none", "number", "sameas", "sequence", "string", "true", "undefined"), _unchecked),
}


@pass_environment
def _join(environment: Environment, values: Any, d: Any = "", attribute: str | int | None = None) -> str:
    separator = str(checked(d))
    if attribute is not None:
        values = map(make_attrgetter(environment, attribute), values)
    return separator.join(map(str, counted(values, separator)))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The arguments are those of transformers."""
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return "".join(counted(encoder.iterencode(value)))


# Functions


def _strftime_now(pattern: str) -> str:
    check_narrow("", pattern)
    return time.strftime(pattern)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
