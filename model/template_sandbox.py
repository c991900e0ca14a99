"""Rendering of a checkpoint's jinja template that cannot run, grow or reach further than it should.

The template is not ours: it may loop for ever, double a string forty times, or try to reach Python's inside. So it runs
in jinja's immutable sandbox, every loop and macro looks at a clock, and every operator that can make something big
looks at the sizes first.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

from jinja2 import Template, TemplateError, nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_CHARACTERS = 8_000_000  # of the output and of any string on the way; also items of any list
MAX_SECONDS = 1.0  # of CPU time: a busy machine does not refuse a good template
_MAX_BITS = 4096
_MAX_WIDTH = 999  # of padding and indentation
_PADDING_METHODS = frozenset({"center", "expandtabs", "ljust", "rjust", "zfill"})
_PADDING_FILTERS = ("center", "indent", "wordwrap")
_WIDE_PERCENT_FORMAT = re.compile(r"%[^a-zA-Z%]*(?:\d{4}|\*)")
_WIDE_BRACE_FORMAT = re.compile(r":[^:{}]*(?:\d{4}|\{)")
_TOO_WIDE = f"the chat template of the model pads a text by more than {_MAX_WIDTH} characters"
_CLOCK = "template_clock"
_Looping = TypeVar("_Looping", nodes.For, nodes.Macro, nodes.CallBlock)


class TemplateLimitError(ValueError):
    """A template went over one of the limits of this file."""


class Clock:
    """The CPU seconds that renderings may take together. What is done between them costs the template nothing."""

    def __init__(self, seconds: float = MAX_SECONDS) -> None:
        self._seconds = self._left = seconds
        self._deadline = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run for the time of one rendering."""
        self._deadline = time.thread_time() + self._left
        try:
            yield
        finally:
            self._left = self._deadline - time.thread_time()

    def check(self) -> None:
        if time.thread_time() > self._deadline:
            raise TemplateLimitError(f"the chat template of the model ran longer than {self._seconds:g} s")


class BoundedTemplate:
    """A compiled template. ValueError where its text is not valid jinja. Safe to render from several threads."""

    def __init__(self, source: str) -> None:
        environment = _BoundedEnvironment()
        try:
            tree = _InsertChecks().visit(environment.parse(source))
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
            _check_size(size)
            pieces.append(piece)
        return "".join(pieces)


class _BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Names and settings as transformers gives them to chat templates."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        del self.globals["lipsum"]
        self.filters |= {name: _with_narrow_arguments(self.filters[name]) for name in _PADDING_FILTERS}
        self.filters |= {"format": _percent_format, "tojson": _with_narrow_arguments(_to_json)}
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": time.strftime}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        is_padding = isinstance(obj, str) and attr in _PADDING_METHODS
        return not is_padding and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None and _WIDE_BRACE_FORMAT.search(value.__self__):
            raise TemplateLimitError(_TOO_WIDE)
        return wrapped

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _check_operands(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def check_clock(self, context: Context) -> None:
        # Render variables lie in `parent`, where the template's own {% set %} cannot change them.
        context.parent[_CLOCK].check()

    def check_text(self, text: str) -> str:
        _check_size(len(text))
        return text


class _InsertChecks(NodeTransformer):
    """Puts a look at the clock into every loop and macro, and a look at the size around every `~`."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        return self._with_clock(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:
        return self._with_clock(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.CallBlock:
        return self._with_clock(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("check_text", node, node.lineno)

    def _with_clock(self, node: _Looping) -> _Looping:
        self.generic_visit(node)
        check = _call("check_clock", nodes.ContextReference(lineno=node.lineno), node.lineno)
        node.body.insert(0, nodes.ExprStmt(check, lineno=node.lineno))
        return node


def _call(method: str, argument: nodes.Expr, line: int) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(method, lineno=line), [argument], [], None, None, lineno=line)


def _check_operands(operator: str, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        bits, power = left.bit_length(), right if operator == "**" else 1
        if bits * power + right.bit_length() > _MAX_BITS:
            raise TemplateLimitError("the chat template of the model computes too large a number")
    elif operator == "+":
        _check_size(_size(left) + _size(right))
    elif operator == "*":
        _check_size(_size(left) * _size(right))
    elif operator == "%" and isinstance(left, str):
        _check_percent_format(left)


def _size(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") else value if isinstance(value, int) else 1


def _check_size(size: int) -> None:
    if size > MAX_CHARACTERS:
        raise TemplateLimitError(f"the chat template of the model makes more than {MAX_CHARACTERS} characters")


def _check_percent_format(text: str) -> None:
    if "%(" in text.replace("%%", ""):
        raise TemplateLimitError("the chat template of the model formats by name: use ~ instead")
    if _WIDE_PERCENT_FORMAT.search(text):
        raise TemplateLimitError(_TOO_WIDE)


def _percent_format(text: str, *values: Any) -> str:
    _check_percent_format(text)
    return text % values


def _with_narrow_arguments(make_text: Callable[..., str]) -> Callable[..., str]:
    @wraps(make_text)  # keeps jinja's mark of filters that are given the environment
    def checked(*values: Any, **named: Any) -> str:
        if any(isinstance(value, int) and value > _MAX_WIDTH for value in (*values[1:], *named.values())):
            raise TemplateLimitError(_TOO_WIDE)
        return make_text(*values, **named)

    return checked


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
