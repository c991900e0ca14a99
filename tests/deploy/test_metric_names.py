"""Every metric that a panel, a rule or an alert asks for is one that the server has, and the other way round."""

import re

import pytest

from .exposed import exposition, families, series_of, server_series
from .promql import (
    Expression,
    dashboard_expressions,
    metric_names,
    recorded_names,
    rule_expressions,
    variable_expressions,
)

# What Prometheus itself adds to every target.
FROM_PROMETHEUS = {"up"}
OURS = ("vllm:", "routelm:")
# vLLM's name of a histogram, for which all dashboards ask.
HISTOGRAM_IN_TOTAL = {"vllm:iteration_tokens_total"}
# What Prometheus 2.42 and 3.5 ask for.
PROMETHEUS_2 = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


def asked_for(expressions: list[Expression]) -> set[str]:
    return {name for expression in expressions for name in metric_names(expression.text)}


def unknown(expressions: list[Expression]) -> set[str]:
    return asked_for(expressions) - server_series() - recorded_names() - FROM_PROMETHEUS


def test_the_server_names_its_series() -> None:
    assert {"vllm:num_requests_running", "vllm:time_to_first_token_seconds_bucket"} <= server_series()
    assert {"routelm:moe_expert_tokens_total", "vllm:request_success_total"} <= server_series()


@pytest.mark.parametrize("family", families())
def test_counters_and_nothing_else_end_in_total(family: str) -> None:
    assert (family.endswith("_total") and family not in HISTOGRAM_IN_TOTAL) == (families()[family] == "counter")


@pytest.mark.parametrize("accept", [PROMETHEUS_2, PROMETHEUS_3], ids=["2.42", "3.5"])
def test_every_prometheus_gets_the_same_names(accept: str) -> None:
    """In OpenMetrics, prometheus_client turns the colons of names into underscores unless UTF-8 is asked for."""
    names = {line.partition("{")[0].partition(" ")[0] for line in exposition(accept).splitlines() if line[0] != "#"}
    assert {"vllm:num_requests_running", "routelm:moe_expert_tokens_total"} <= names


@pytest.mark.parametrize("expressions", [dashboard_expressions(), variable_expressions()], ids=["panels", "variables"])
def test_the_dashboard_asks_for_what_there_is(expressions: list[Expression]) -> None:
    assert expressions
    assert unknown(expressions) == set()


def test_rules_and_alerts_ask_for_what_there_is() -> None:
    assert unknown(rule_expressions()) == set()


@pytest.mark.parametrize(
    "expression",
    ["rate(vllm:request_succes_total[5m])", "vllm:time_to_first_token_seconds", "sum(routelm:moe_share) by (layer)"],
)
def test_a_name_that_is_not_there_is_found(expression: str) -> None:
    assert len(unknown([Expression("a panel", expression)])) == 1


@pytest.mark.parametrize("family", [name for name in families() if name.startswith(OURS)])
def test_every_metric_has_a_panel(family: str) -> None:
    assert series_of(family, families()[family]) & asked_for(dashboard_expressions())


@pytest.mark.parametrize("expression", dashboard_expressions() + rule_expressions(), ids=lambda e: e.place)
def test_labels_that_are_matched_exist(expression: Expression) -> None:
    """A matcher on a label that a series does not have selects nothing, silently."""
    selectors = re.findall(r"((?:vllm|routelm):\w+)\{([^}]*)\}", expression.text)
    from_scraping = {"job", "instance"}
    for name, matchers in selectors:
        asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', '""', matchers))) - from_scraping
        samples = re.findall(rf"^{name}(?:\{{(.*)\}})? ", exposition(), re.MULTILINE)
        assert samples, name
        assert asked <= set(re.findall(r'(\w+)="', samples[0])), f"{name} has no label {asked}"
