"""Renders the jinja template of a checkpoint with bounded time, memory and access.

The template is untrusted: it may loop forever, double a string forty times, or try to access Python internals. So it
runs in jinja's immutable sandbox, and nothing is computed in advance. No single operation (operator, comparison,
subscript, filter, test, call) can take long, because the values that it looks at are weighed first; and each checks a
clock, which also counts the memory of what was made.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2 import Template, TemplateError, nodes, pass_context
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from model.text.template_sandbox.clock import ITEM_BYTES, Clock, made, operand, tick
from model.text.template_sandbox.filters import (
    FILTER_CHECKS,
    TEST_CHECKS,
    UNSAFE_FILTERS,
    bounded_filter,
    join,
    to_json,
)
from model.text.template_sandbox.inserted_checks import CONCAT, MADE, OPERAND, TICK, InsertChecks
from model.text.template_sandbox.limits import (
    COLLECTIONS,
    Items,
    TemplateLimitError,
    check_narrow,
    check_operands,
    check_size,
    check_values,
    counted,
)
from model.text.template_sandbox.methods import BOUNDED_METHODS, UNSAFE_METHODS

_JINJA_ARGUMENTS = ("_loop_vars", "_block_vars")  # jinja adds them to calls
_WRONG_USE = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError, ValueError)
_FAILURES = (TemplateError, RuntimeError, *_WRONG_USE)


class BoundedTemplate:
    """A compiled template, safe to render from several threads. `literals` are the texts that it writes or names.

    ValueError where its source is not valid jinja.
    """

    def __init__(self, source: str) -> None:
        environment = _BoundedEnvironment()
        try:
            parsed = environment.parse(source)
            self.literals = frozenset(_literals(parsed))
            tree = InsertChecks().visit(parsed)
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
        for name in UNSAFE_FILTERS:
            del self.filters[name]
        self.filters |= {"join": join, "tojson": to_json}
        self.filters = {name: bounded_filter(make, FILTER_CHECKS.get(name)) for name, make in self.filters.items()}
        self.filters |= {TICK: tick, OPERAND: operand, MADE: made, CONCAT: self.concat}
        tests: Mapping[str, Any] = self.tests
        self.tests = {name: bounded_filter(make, TEST_CHECKS.get(name)) for name, make in tests.items()}
        del self.globals["lipsum"]
        self.globals |= {"namespace": _Namespace, "raise_exception": _raise_exception, "strftime_now": _strftime_now}

    @staticmethod
    def concat(values: Iterable[Any]) -> str:
        """Join the output of a macro or a block, or the operands of `~`."""
        joined: str = made("".join(map(str, counted(values))))
        return joined

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        # Through a type, such as dict.update, a template could change what the immutable sandbox protects.
        is_unsafe = isinstance(obj, type | Items) or (isinstance(obj, str | int) and attr in UNSAFE_METHODS)
        return not is_unsafe and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., Any] | None:
        # Jinja calls this for every attribute that a template reads, so other methods can be checked here too.
        if not isinstance(value, MethodType | BuiltinMethodType) or not isinstance(value.__self__, str):
            return None
        bounded = BOUNDED_METHODS.get(value.__name__)
        return bounded and bounded(super().wrap_str_format(value) or value, value.__self__)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        tick()
        check_operands(operator, left, right)
        return made(super().call_binop(context, operator, left, right))

    def getitem(self, obj: Any, argument: Any) -> Any:
        return super().getitem(obj, operand(argument))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - as in jinja
        tick()
        if not isinstance(__obj, Macro | LoopContext):  # these are templates, whose operations are checked
            owner = getattr(__obj, "__self__", None)
            looks_at_owner = args and isinstance(owner, COLLECTIONS)
            named = (value for name, value in kwargs.items() if name not in _JINJA_ARGUMENTS)
            check_values(*args, *named, owner if looks_at_owner else None)
        return made(super().call(__context, __obj, *args, **kwargs), ITEM_BYTES)


@pass_context
def _finalize(context: Context, value: Any) -> Any:
    """Check a value before it is written. Because it takes the context, jinja does not do so in advance."""
    return operand(value)


class _Namespace(Namespace):
    """Has a short repr: the default one would show its values, which could be itself or a value many times."""

    def __repr__(self) -> str:
        return "<Namespace>"


def _strftime_now(pattern: str) -> str:
    check_narrow("", pattern)
    return time.strftime(pattern)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
