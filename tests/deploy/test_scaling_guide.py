"""docs/scaling.md: its table follows from the measured figures, and what it names is there."""

import json
import math
import re

import pytest
import yaml

from server.ray_serve.prefix_index import PrefixAffinity

from .exposed import families
from .files import DEPLOY, ROOT, yaml_document

GUIDE = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")
MEASURED = {
    "bundled, one thread": ("compare-threads", "one"),
    "granite shape, bfloat16": ("compare-granite-bf16", "routelm"),
}
PROMPT, OUTPUT, LOAD = 512, 128, 0.7
ROWS = re.findall(r"^\| (.+?) \| ([\d.]+) \| ([\d.]+) \| ([\d,]+) \| ([\d,]+) \|$", GUIDE, re.M)


def seconds(model: str, cached: float) -> float:
    """Of a replica for one request."""
    name, server = MEASURED[model]
    results = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text(encoding="utf-8"))
    rates = results["figures"]["medians"][server]
    prompt = PROMPT * (1 - cached) / rates["prompt of 512, tokens/s"]
    return float(prompt + OUTPUT / rates["32 streams, output tokens/s"])


@pytest.mark.parametrize(("model", "cached", "rate", "hundred", "thousand"), ROWS)
def test_the_table_follows_from_the_figures(model: str, cached: str, rate: str, hundred: str, thousand: str) -> None:
    """Roughly: measuring again does not change the page each time."""
    expected = 1 / seconds(model, float(cached))
    assert float(rate) == pytest.approx(expected, rel=0.15)
    assert int(hundred) == pytest.approx(math.ceil(100 / (expected * LOAD)), rel=0.15)
    assert int(thousand.replace(",", "")) == pytest.approx(math.ceil(1000 / (expected * LOAD)), rel=0.15)


def test_the_table_is_there() -> None:
    assert {row[0] for row in ROWS} == MEASURED.keys()


def test_links_and_files_that_are_named_exist() -> None:
    anchors = {
        re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in re.findall(r"^## (.+)$", GUIDE, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", GUIDE)) <= anchors
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)#:]+[^):]*)\)", GUIDE)]
    paths = [ROOT / "docs" / link for link in links] + [
        ROOT / path for path in re.findall(r"\b(?:deploy|tests)/[\w/.-]+\w", GUIDE)
    ]
    assert len(paths) > 8
    assert [str(path) for path in paths if not path.exists()] == []


def test_metrics_that_the_picker_reads_are_exposed() -> None:
    table = GUIDE.partition("| the picker's signal |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`(vllm:\w+)`", table))
    assert len(named) == 4
    assert named <= families().keys()


def test_serve_knows_the_options_of_the_router() -> None:
    (application,) = yaml_document(DEPLOY / "ray/serve.yaml")["applications"]
    engine = next(deployment for deployment in application["deployments"] if deployment["name"] == "Engine")
    PrefixAffinity(**engine["request_router_config"]["request_router_kwargs"])


def test_a_replica_refuses_before_serve_lets_requests_wait() -> None:
    (application,) = yaml_document(DEPLOY / "ray/serve.yaml")["applications"]
    settings = application["runtime_env"]["env_vars"]
    engine = next(deployment for deployment in application["deployments"] if deployment["name"] == "Engine")
    held = int(settings["ROUTELM_MAX_NUM_SEQS"]) + int(settings["ROUTELM_MAX_QUEUE"])
    assert engine["max_ongoing_requests"] > held
    assert engine["graceful_shutdown_timeout_s"] > int(settings["ROUTELM_DRAIN_GRACE"])
    assert engine["ray_actor_options"]["num_cpus"] == int(settings["ROUTELM_THREADS"])
    assert yaml.safe_dump(settings).count("API_KEY") == 0, "Ray's dashboard shows it"
