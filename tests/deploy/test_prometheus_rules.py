"""The Prometheus configuration and rules, checked and unit-tested by promtool."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from .files import DEPLOY, program, yaml_document
from .promql import dashboard_expressions, metric_names, rules, without_variables

PROMETHEUS = DEPLOY / "prometheus"
TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}


def promtool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [program("promtool", "Debian package prometheus"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def editable(tmp_path: Path) -> Path:
    """A copy of the folder, to break something in."""
    return Path(shutil.copytree(PROMETHEUS, tmp_path / "prometheus"))


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_configuration_and_rules_are_valid() -> None:
    done = promtool("check", "config", PROMETHEUS / "prometheus.yml")
    assert done.returncode == 0, done.stderr
    assert "2 rule files found" in done.stdout


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("prometheus.yml", "scrape_interval", "scrap_interval"),
        ("prometheus.yml", "alerts.yml", "alarms.yml"),
        ("alerts.yml", "for: 10m", "for: ten minutes"),
        ("recording.yml", "histogram_quantile(0.95", "histogram_quantil(0.95"),
    ],
)
def test_promtool_catches_mistakes(editable: Path, file: str, old: str, new: str) -> None:
    replace(editable / file, old, new)
    assert promtool("check", "config", editable / "prometheus.yml").returncode != 0


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_rules_do_what_their_tests_say(path: Path) -> None:
    done = promtool("test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("alerts.yml", "rejected:ratio5m > 0.05", "rejected:ratio5m > 0.5"),
        ("alerts.yml", "failed:ratio5m > 0.05", "failed:ratio5m > 0.01"),
        ("recording.yml", 'finished_reason="error"', 'finished_reason="abort"'),
        ("alerts.yml", "> 0.95", "> 0.9"),
        ("alerts.yml", "for: 15m", "for: 1m"),
        ("alerts.yml", ">= 0.5", ">= 0.8"),
        ("alerts.yml", ">= 0.5", ">= 0.05"),
        ("alerts.yml", "> 100000", "> 1000"),
        ("alerts.yml", "docs/deployment.md#routelmdown", "docs/deployment.md"),
        ("alerts.yml", 'sum by (job) (up{job="routelm"}) == 0', 'min by (job) (up{job="routelm"}) == 0'),
        ("alerts.yml", "vllm:num_requests_waiting", "vllm:requests_waiting"),
        ("recording.yml", 'code=~"2..|429|499|5.."', 'code=~".*"'),
        ("recording.yml", 'code=~"429|503"', 'code=~"429"'),
        (
            "recording.yml",
            "or -rate(routelm:key_requests_refused_total",
            "or 0 * rate(routelm:key_requests_refused_total",
        ),
        ("recording.yml", '{job="routelm"}[5m]', "[5m]"),
    ],
)
def test_rule_tests_catch_mistakes(editable: Path, file: str, old: str, new: str) -> None:
    replace(editable / file, old, new)
    assert any(promtool("test", "rules", editable / "tests" / path.name).returncode != 0 for path in TESTS)


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_is_seen_to_fire_and_to_be_quiet(name: str) -> None:
    groups = yaml_document(PROMETHEUS / "tests/alerts_test.yml")["tests"]
    cases = [case for group in groups for case in group["alert_rule_test"] if case["alertname"] == name]
    assert {bool(case["exp_alerts"]) for case in cases} == {True, False}


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_speaks_to_people(name: str) -> None:
    rule = ALERTS[name]
    assert set(rule["annotations"]) == {"summary", "description", "runbook_path"}
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["runbook_path"] == f"docs/deployment.md#{name.lower()}"


def test_a_pod_that_loads_for_as_long_as_it_may_is_no_alert() -> None:
    (container,) = yaml_document(DEPLOY / "k8s/base/deployment.yaml")["spec"]["template"]["spec"]["containers"]
    probe = container["startupProbe"]
    minutes = int(ALERTS["RouteLMInstanceDown"]["for"].removesuffix("m"))
    assert 60 * minutes > probe["periodSeconds"] * probe["failureThreshold"]


def test_promql_of_the_dashboard_is_valid(tmp_path: Path) -> None:
    """promtool parses the panels' queries as rules, for it knows no other way to parse a query offline."""
    expressions = dashboard_expressions()
    lines = [
        f"      - record: panel:{i}\n        expr: '{without_variables(e.text)}'" for i, e in enumerate(expressions)
    ]
    file = tmp_path / "panels.yml"
    file.write_text("groups:\n  - name: panels\n    rules:\n" + "\n".join(lines) + "\n")
    done = promtool("check", "rules", file)
    assert done.returncode == 0, done.stderr
    assert f"{len(expressions)} rules found" in done.stdout


# Of one layer, by the tokens a minute of its two experts on server a and on server b.
BUSY_AND_IDLE = ((90, 30), (0, 0))
OPPOSITE = ((60, 0), (0, 60))


@pytest.mark.parametrize(("tokens", "imbalance"), [(BUSY_AND_IDLE, 0.5), (OPPOSITE, 0.0)], ids=["idle", "opposite"])
def test_the_imbalance_of_a_layer_is_that_of_all_servers_together(
    tmp_path: Path, tokens: tuple[tuple[int, int], ...], imbalance: float
) -> None:
    (expression,) = [e.text for e in dashboard_expressions() if e.place == "Load imbalance by layer"]
    series = [
        {
            "series": f'routelm:moe_expert_tokens_total{{instance="{instance}", layer="0", expert="{expert}"}}',
            "values": f"0+{count}x20",
        }
        for instance, counts in zip("ab", tokens, strict=True)
        for expert, count in enumerate(counts)
    ]
    test = {
        "expr": f"round({without_variables(expression)}, 0.0001)",
        "eval_time": "15m",
        "exp_samples": [{"labels": '{layer="0"}', "value": imbalance}],
    }
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump({"tests": [{"interval": "1m", "input_series": series, "promql_expr_test": [test]}]}))
    done = promtool("test", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_metric_names_of_an_expression() -> None:
    expression = (
        'histogram_quantile(0.95, sum by (job, le) (rate(vllm:ttft_bucket{job="a", x=~"up.*"}[5m])))'
        ' > 2 and on (job) min_over_time(routelm:x{a="by (q)"}[$__rate_interval]) == 1e3 or 0 * up offset 5m'
    )
    assert metric_names(expression) == {"vllm:ttft_bucket", "routelm:x", "up"}
