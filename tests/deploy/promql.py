"""Which metrics a PromQL expression asks for, and where the deployment files hold such expressions."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .files import DEPLOY, yaml_document

DASHBOARD = DEPLOY / "grafana/dashboards/routelm.json"
RULE_FILES = [DEPLOY / "prometheus/recording.yml", DEPLOY / "prometheus/alerts.yml"]

_NOT_A_NAME = re.compile(
    r"""
    "(?:[^"\\]|\\.)*"                                                     # strings
    | \{[^}]*\}                                                           # label matchers
    | \[[^\]]*\]                                                          # ranges
    | \b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)     # lists of labels
    """,
    re.VERBOSE,
)
_WORD = re.compile(r"(?<![\w.:])[a-zA-Z_:][\w:]*+(?!\s*\()")
_KEYWORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "bool", "offset"}


def metric_names(expression: str) -> set[str]:
    """The names an expression selects: every word that is neither a function, a keyword nor a label."""
    rest = _NOT_A_NAME.sub(" ", expression)
    return {match.group() for match in _WORD.finditer(rest)} - _KEYWORDS


@dataclass(frozen=True, slots=True)
class Expression:
    place: str
    text: str


def dashboard() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return document


def panels() -> list[dict[str, Any]]:
    """The panels that show something: all but the rows."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def dashboard_expressions() -> list[Expression]:
    return [Expression(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]


def variable_expressions() -> list[Expression]:
    """The series behind the dashboard's variables: `label_values(SERIES, label)`."""
    variables = [variable for variable in dashboard()["templating"]["list"] if variable["type"] == "query"]
    pattern = re.compile(r"label_values\((?P<series>.+), \w+\)")
    matches = [(variable["name"], pattern.fullmatch(variable["query"]["query"])) for variable in variables]
    return [Expression(f"variable {name}", match["series"]) for name, match in matches if match is not None]


def rules() -> Iterator[dict[str, Any]]:
    for path in RULE_FILES:
        for group in yaml_document(path)["groups"]:
            yield from group["rules"]


def rule_expressions() -> list[Expression]:
    return [Expression(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]


def recorded_names() -> set[str]:
    return {rule["record"] for rule in rules() if "record" in rule}


def without_variables(expression: str) -> str:
    """The expression as Grafana sends it when everything is selected."""
    for name in re.findall(r"\$(\w+)", expression):
        if name != "__rate_interval" and not name.isdigit():
            expression = expression.replace(f"${name}", ".*")
    return expression.replace("$__rate_interval", "1m")
