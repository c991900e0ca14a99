"""docs/deployment.md: its links, its runbook, and that it names what there is."""

import re

import pytest
import yaml

from .exposed import families, server_series
from .files import DEPLOY, ROOT, yaml_document
from .promql import metric_names, panels, rules

GUIDE = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
ANCHORS = {
    re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in re.findall(r"^#+ (.+)$", GUIDE, re.M)
}
RUNBOOKS = [rule["annotations"]["runbook_path"] for rule in rules() if "alert" in rule]


@pytest.mark.parametrize("runbook", RUNBOOKS)
def test_every_alert_leads_to_its_heading(runbook: str) -> None:
    path, anchor = runbook.split("#")
    assert path == "docs/deployment.md"
    assert anchor in ANCHORS


def test_no_heading_is_left_of_an_alert_that_is_gone() -> None:
    headings = re.findall(r"^### (RouteLM\w+)$", GUIDE, re.M)
    assert [heading.lower() for heading in headings] == [runbook.split("#")[1] for runbook in RUNBOOKS]


def test_links_inside_the_guide_arrive() -> None:
    links = re.findall(r"\]\(#([^)]+)\)", GUIDE)
    assert links
    assert set(links) <= ANCHORS


def test_panels_that_are_named_exist() -> None:
    named = set(re.findall(r"(?<!\*)\*([A-Z][^*]+)\*(?!\*)", GUIDE))
    assert named
    assert named <= {panel["title"] for panel in panels()}


def test_files_that_are_named_exist() -> None:
    paths = {path.rstrip("/.") for path in re.findall(r"\bdeploy/[\w/.-]+", GUIDE)}
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_metrics_that_are_named_exist() -> None:
    named = {name for code in re.findall(r"`((?:vllm|routelm):\w+)`", GUIDE) for name in metric_names(code)}
    assert len(named) > 10
    assert named <= server_series() | families().keys()


def test_the_key_is_there_before_the_pods_that_read_it() -> None:
    commands = re.findall(r"^kubectl .+$", GUIDE, re.M)
    first = {verb: next(n for n, line in enumerate(commands) if verb in line) for verb in ("create secret", "apply -k")}
    assert first["create secret"] < first["apply -k"]
    assert "kubectl rollout restart deployment/routelm" in commands


def test_the_guide_tells_how_to_add_what_compose_lacks() -> None:
    services = yaml_document(ROOT / "docker-compose.yml")["services"]
    configuration = yaml_document(DEPLOY / "prometheus/prometheus.yml")
    assert "alertmanager" not in services, "the guide says that there is none"
    assert "alerting" not in configuration
    [block] = [text for text in re.findall(r"^```yaml\n(.+?)^```", GUIDE, re.M | re.S) if "alerting:" in text]
    [target] = yaml.safe_load(block)["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    assert target == "alertmanager:9093"
