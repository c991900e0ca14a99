"""Checks that are inserted into a template where jinja does not ask the environment."""

from typing import TypeVar

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from model.text.template_sandbox.limits import check_number

# Filters that the compiled template calls. With a space, a template can name them only in `map`, where they do no harm.
TICK, OPERAND, MADE, CONCAT = "check clock", "check operand", "check made", "check concat"
_Timed = TypeVar("_Timed", nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)


class InsertChecks(NodeTransformer):
    """Inserts the checks.

    Loops, macros and blocks check the clock. The operands of comparisons and keys are checked; so is what `~`, slices,
    literals and {% set %} blocks make. Jinja itself asks the environment for the rest.
    """

    def visit_For(self, node: nodes.For) -> nodes.For:
        self._with_clock(node)
        node.iter = _filter(TICK, node.iter)  # its body may never be reached
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
        return _filter(CONCAT, nodes.List(node.nodes, lineno=node.lineno))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        if not _is_cheap(node):
            node.expr = _filter(OPERAND, node.expr)
            for operand in node.ops:
                operand.expr = _filter(OPERAND, operand.expr)
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _filter(MADE, node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _filter(MADE, node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _filter(MADE, node) if node.ctx == "load" else node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        self.generic_visit(node)
        node.key = _filter(OPERAND, node.key)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filter(MADE, node) if isinstance(node.arg, nodes.Slice) else node

    def _with_clock(self, node: _Timed) -> _Timed:
        self.generic_visit(node)
        check = _filter(TICK, nodes.Const(None, lineno=node.lineno))
        node.body.insert(0, nodes.ExprStmt(check, lineno=node.lineno))
        return node


def _is_cheap(node: nodes.Compare) -> bool:
    """Whether it compares with a short constant, which is the usual case."""
    sides = (node.expr, node.ops[0].expr)
    is_plain = len(node.ops) == 1 and node.ops[0].op not in ("in", "notin")
    return is_plain and any(isinstance(side, nodes.Const) and len(str(side.value)) < 999 for side in sides)


def _filter(name: str, value: nodes.Node) -> nodes.Filter:
    return nodes.Filter(value, name, [], [], None, None, lineno=value.lineno)
