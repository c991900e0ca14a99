"""Renders the jinja template of a checkpoint with bounded time, memory and access.

The template is untrusted: it may loop forever, double a string forty times, or try to access Python internals. So it
runs in jinja's immutable sandbox. Every loop, macro, block and filter checks a clock, and everything that can create a
large value checks the size first: operators, filters, methods, and all concatenation.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import BuiltinMethodType, MethodType
from typing import Any, TypeVar

from jinja2 import Environment, Template, TemplateError, nodes, pass_context, pass_environment
from jinja2.ext import Extension
from jinja2.filters import make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from model.text.template_limits import (
    TemplateLimitError,
    check_brace_format,
    check_indent,
    check_narrow,
    check_operands,
    check_percent_format,
    check_replace,
    check_size,
    check_sum,
    check_text,
    checked,
    counted,
)

MAX_SECONDS = 1.0  # of CPU time, so that a busy machine does not refuse a good template
# Methods and filters that could create large values or run long, and that prompts do not need.
_PADDING_METHODS = ("center", "expandtabs", "ljust", "rjust", "zfill")
_UNSAFE_METHODS = {*_PADDING_METHODS, "encode", "format_map", "striptags", "to_bytes", "translate", "unescape"}
_UNSAFE_FILTERS = ("pprint", "striptags", "urlize", "wordwrap", "xmlattr")
_CLOCK = "template clock"  # a template cannot set a name with a space
_Timed = TypeVar("_Timed", nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)


class Clock:
    """The CPU seconds that several renderings may take in total. Time between them does not count."""

    def __init__(self, seconds: float = MAX_SECONDS) -> None:
        self._seconds = self._left = seconds
        self._deadline = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the clock during one rendering."""
        self._deadline = time.thread_time() + self._left
        try:
            yield
        finally:
            self._left = self._deadline - time.thread_time()

    def check(self) -> None:
        if time.thread_time() > self._deadline:
            raise TemplateLimitError(f"the chat template of the model ran longer than {self._seconds:g} s")


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
        except (TemplateError, RecursionError) as error:
            raise ValueError(f"the chat template of the model is not valid: {error}") from error

    def render(self, variables: Mapping[str, Any], clock: Clock) -> str:
        """Return the rendered text. ValueError where the template fails, refuses the variables or breaks a limit."""
        try:
            with clock.running():
                return self._render(variables, clock)
        except TemplateLimitError:
            raise
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"the chat template of the model cannot render these messages: {error}") from error
        except RecursionError as error:
            raise TemplateLimitError("the chat template of the model calls itself without end") from error

    def _render(self, variables: Mapping[str, Any], clock: Clock) -> str:
        pieces, size = [], 0
        for piece in self._template.generate(**variables, **{_CLOCK: clock}):
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

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        extensions = ["jinja2.ext.loopcontrols", _GenerationTag]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions, finalize=checked)
        for name in _UNSAFE_FILTERS:
            del self.filters[name]
        self.filters |= {"join": _join, "tojson": _to_json}
        self.filters = {name: _bounded(make, _FILTER_CHECKS.get(name)) for name, make in self.filters.items()}
        del self.globals["lipsum"]
        self.globals |= {"namespace": _Namespace, "raise_exception": _raise_exception, "strftime_now": _strftime_now}

    @staticmethod
    def concat(values: Iterable[Any]) -> str:
        """Join the output of a macro or a block, or the operands of `~`."""
        return "".join(map(str, counted(values)))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        is_unsafe = isinstance(obj, str | int) and attr in _UNSAFE_METHODS
        return not is_unsafe and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        # Jinja calls this for every attribute that a template reads, so other methods can be checked here too.
        if not isinstance(value, MethodType | BuiltinMethodType) or not isinstance(value.__self__, str):
            return None
        bounded = _BOUNDED_METHODS.get(value.__name__)
        return bounded and bounded(super().wrap_str_format(value) or value, value.__self__)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        check_operands(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def check_clock(self, context: Context) -> None:
        # Render variables are in `parent`, where the template's own {% set %} cannot change them.
        context.parent[_CLOCK].check()


class _InsertChecks(NodeTransformer):
    """Inserts a clock check into every loop, macro and block, and replaces every `~` by the checked `concat`."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        return self._with_clock(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:
        return self._with_clock(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.CallBlock:
        return self._with_clock(node)

    def visit_Block(self, node: nodes.Block) -> nodes.Block:
        return self._with_clock(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("concat", nodes.List(node.nodes, lineno=node.lineno), node.lineno)

    def _with_clock(self, node: _Timed) -> _Timed:
        self.generic_visit(node)
        check = _call("check_clock", nodes.ContextReference(lineno=node.lineno), node.lineno)
        node.body.insert(0, nodes.ExprStmt(check, lineno=node.lineno))
        return node


def _call(method: str, argument: nodes.Expr, line: int) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(method, lineno=line), [argument], [], None, None, lineno=line)


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


_BOUNDED_METHODS = {"format": _bounded_format, "join": _bounded_join, "replace": _bounded_replace}


# Filters


def _bounded(make: Callable[..., Any], check: Callable[..., None] | None) -> Callable[..., Any]:
    """Return a filter that checks the clock and the sizes.

    Because it takes the context, jinja does not evaluate it at compile time, when no clock runs.
    """
    passed = _PASSED[getattr(getattr(make, "jinja_pass_arg", None), "name", None)]

    @pass_context
    def bounded(context: Context, *values: Any, **named: Any) -> Any:
        context.parent[_CLOCK].check()
        if check is not None:
            check(*values, **named)
        return make(*passed(context), *values, **named)

    return bounded


_PASSED: Mapping[str | None, Callable[[Context], tuple[Any, ...]]] = {
    None: lambda context: (),
    "context": lambda context: (context,),
    "eval_context": lambda context: (context.eval_ctx,),
    "environment": lambda context: (context.environment,),
}

_FILTER_CHECKS: Mapping[str, Callable[..., None]] = {
    **dict.fromkeys(("capitalize", "e", "escape", "forceescape", "lower", "safe", "string", "title"), check_text),
    **dict.fromkeys(("trim", "truncate", "upper", "urlencode", "wordcount"), check_text),
    **dict.fromkeys(("batch", "center", "round", "slice", "tojson"), check_narrow),
    "format": check_percent_format,
    "indent": check_indent,
    "replace": check_replace,
    "sum": check_sum,
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
