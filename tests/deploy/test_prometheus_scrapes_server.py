"""The real Prometheus scrapes the real server, and every query of the dashboard returns data."""

import hashlib
import json
import math
import os
import subprocess
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from server.batches.directory import open_batch_directory
from server.settings import Settings
from server.startup.backend import prepare_backend
from server.startup.uvicorn_server import in_background

from .files import DEPLOY, ROOT, program, yaml_document
from .promql import Expression, dashboard_expressions, recorded_names, rules, variable_expressions, without_variables
from .servers import free_port, get, running, wait_until

pytestmark = pytest.mark.slow

COMPOSE = yaml_document(ROOT / "docker-compose.yml")
SCRAPES = 4
TEXT = "The committee met on Tuesday to discuss the new bridge across the river. " * 12


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with the bundled model, API keys and batches."""
    folder = tmp_path_factory.mktemp("server")
    keys = [
        {"name": "busy", "sha256": hashlib.sha256(b"busy").hexdigest(), "scopes": ["inference", "batches"]},
        {"name": "limited", "sha256": hashlib.sha256(b"limited").hexdigest(), "requests_per_minute": 1},
    ]
    (folder / "keys.json").write_text(json.dumps({"keys": keys}))
    settings = Settings(
        port=0,
        log_level="warning",
        cache_bytes=2**27,
        threads=1,
        drain_grace=5,
        keys_file=folder / "keys.json",
        metrics_public=True,
        batch_dir=folder / "batches",
        adaptive_experts="1:2",
    )
    with (
        open_batch_directory(settings) as batches,
        in_background(settings, prepare_backend(settings), batch_directory=batches) as url,
    ):
        yield url


def use(url: str) -> None:
    """A request that is answered, one beyond the limits of its key, one with fewer experts, and a batch of one."""
    body = {"prompt": TEXT, "max_tokens": 32}
    with httpx.Client(base_url=url, trust_env=False, timeout=60, headers={"Authorization": "Bearer busy"}) as client:
        client.post("/v1/generate", json=body).raise_for_status()
        client.post("/v1/generate", json=body | {"experts_per_token": 1}).raise_for_status()
        refused = [
            client.post("/v1/generate", json=body, headers={"Authorization": "Bearer limited"}) for _ in range(2)
        ]
        assert refused[-1].status_code == 429
        line = {"custom_id": "a", "method": "POST", "url": "/v1/generate", "body": body}
        content = {"file": ("requests.jsonl", json.dumps(line).encode())}
        file = client.post("/v1/files", data={"purpose": "batch"}, files=content).json()["id"]
        batch = {"input_file_id": file, "endpoint": "/v1/generate", "completion_window": "24h"}
        created = client.post("/v1/batches", json=batch).json()["id"]
        wait_until(lambda: client.get(f"/v1/batches/{created}").json()["status"] == "completed", 60, "the batch")


def configuration(folder: Path, server: str) -> Path:
    """The configuration of the Compose file, faster and with this server's address."""
    document = yaml_document(DEPLOY / "prometheus/prometheus.yml")
    document["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    document["rule_files"] = [str(DEPLOY / "prometheus" / name) for name in document["rule_files"]]
    jobs = [job for job in document["scrape_configs"] if job["job_name"] == "routelm"]
    jobs[0]["static_configs"][0]["targets"] = [server.removeprefix("http://")]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump({**document, "scrape_configs": jobs}))
    return file


@pytest.fixture(scope="module")
def prometheus(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus with the options of the Compose file that has scraped the server before, during and
    after some requests.
    """
    folder = tmp_path_factory.mktemp("prometheus")
    url = f"http://127.0.0.1:{free_port()}"
    paths = {"/etc/prometheus/prometheus.yml": str(configuration(folder, server)), "/prometheus": str(folder / "data")}
    options = [option.split("=") for option in COMPOSE["services"]["prometheus"]["command"]]
    command = [
        program("prometheus", "Debian package prometheus"),
        *(f"{name}={paths.get(value, value)}" for name, value in options),
        f"--web.listen-address={url.removeprefix('http://')}",
    ]
    with running(command, folder / "log", f"{url}/-/ready", os.environ):
        wait_for_scrapes(url)
        # The second time, the prefix is cached. Scrapes lie between, for a rate is the difference of two of them, and
        # the series of the experts begin with the first tokens.
        for _ in range(2):
            use(server)
            wait_for_scrapes(url)
        yield url


def query(prometheus: str, expression: str) -> Any:
    """The result of an instant query."""
    answer = json.loads(get(f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"))
    assert answer["status"] == "success"
    return answer["data"]["result"]


def wait_for_scrapes(prometheus: str) -> None:
    """Until there are some more good scrapes than now."""

    def scrapes() -> float:
        result = query(prometheus, 'sum_over_time(up{job="routelm"}[10m])')
        return float(result[0]["value"][1]) if result else 0.0

    goal = scrapes() + SCRAPES
    wait_until(lambda: scrapes() >= goal, 60, "scrapes")


def test_the_server_is_scraped(prometheus: str) -> None:
    assert query(prometheus, 'max_over_time(up{job="routelm"}[10m])')[0]["value"][1] == "1"
    (target,) = json.loads(get(f"{prometheus}/api/v1/targets"))["data"]["activeTargets"]
    assert target["labels"]["job"] == "routelm"


@pytest.mark.parametrize("expression", dashboard_expressions(), ids=lambda expression: expression.place)
def test_every_query_of_the_dashboard_returns_data(prometheus: str, expression: Expression) -> None:
    result = query(prometheus, without_variables(expression.text))
    numbers = [float(sample["value"][1]) for sample in result]
    assert numbers
    # A rate over a moment in which nothing happened divides zero by zero; one series with a number is a picture.
    assert any(math.isfinite(number) for number in numbers), numbers


@pytest.mark.parametrize("expression", variable_expressions(), ids=lambda expression: expression.place)
def test_every_variable_has_something_to_choose(prometheus: str, expression: Expression) -> None:
    assert query(prometheus, without_variables(expression.text))


def test_the_healthcheck_of_the_compose_file_follows_prometheus(prometheus: str) -> None:
    _, *words = COMPOSE["services"]["prometheus"]["healthcheck"]["test"]
    promtool = program(words[0], "Debian package prometheus")

    def healthcheck(url: str) -> int:
        command = [promtool, *(word.replace("http://127.0.0.1:9090", url) for word in words[1:])]
        return subprocess.run(command, capture_output=True, check=False).returncode

    assert healthcheck(prometheus) == 0
    assert healthcheck(f"http://127.0.0.1:{free_port()}") != 0


def test_a_query_for_what_is_not_there_returns_nothing(prometheus: str) -> None:
    assert query(prometheus, 'vllm:num_requests_running{model_name="another"}') == []
    assert query(prometheus, "vllm:request_running") == []


@pytest.mark.parametrize("name", sorted(recorded_names()))
def test_every_recorded_series_is_there(prometheus: str, name: str) -> None:
    wait_until(lambda: bool(query(prometheus, name)), 30, name)


def test_alerts_are_loaded_and_quiet(prometheus: str) -> None:
    groups = json.loads(get(f"{prometheus}/api/v1/rules?type=alert"))["data"]["groups"]
    loaded = [rule for group in groups for rule in group["rules"]]
    assert {rule["name"] for rule in loaded} == {rule["alert"] for rule in rules() if "alert" in rule}
    assert [rule["name"] for rule in loaded if rule["health"] != "ok" or rule["state"] == "firing"] == []
