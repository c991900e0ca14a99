"""docker-compose.yml against the Compose specification, and against what the server and the image say."""

import json
import re
from importlib import resources
from typing import Any

import jsonschema
import pytest
import yaml

from .files import DEPLOY, ROOT, yaml_document

COMPOSE = ROOT / "docker-compose.yml"
COMPOSE_CUDA = DEPLOY / "compose/cuda.yml"
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*)|:\?(?P<complaint>[^}]*))\}")


def compose_validator() -> jsonschema.Draft202012Validator:
    """The specification's own schema, from the package check-jsonschema."""
    file = resources.files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json"
    return jsonschema.Draft202012Validator(json.loads(file.read_text(encoding="utf-8")))


def seconds(duration: str) -> int:
    return int(duration.removesuffix("s"))


@pytest.fixture
def compose() -> dict[str, Any]:
    """The file as Compose sees it when nothing is set but the one variable that must be."""

    def default(match: re.Match[str]) -> str:
        return match["default"] or "" if match["complaint"] is None else "chosen"

    document: dict[str, Any] = yaml.safe_load(VARIABLE.sub(default, COMPOSE.read_text(encoding="utf-8")))
    return document


@pytest.mark.parametrize("path", [COMPOSE, COMPOSE_CUDA], ids=["base", "cuda"])
def test_follows_the_compose_specification(path: Any) -> None:
    compose_validator().validate(yaml_document(path))


def test_follows_the_compose_specification_with_its_defaults(compose: dict[str, Any]) -> None:
    compose_validator().validate(compose)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("routelm", "stop_grace", "75s"), ("grafana", "ports", "3000:3000"), ("prometheus", "restart", ["always"])],
)
def test_specification_catches_mistakes(compose: dict[str, Any], section: str, key: str, value: Any) -> None:
    compose["services"][section][key] = value
    with pytest.raises(jsonschema.ValidationError):
        compose_validator().validate(compose)


def test_the_engine_is_not_killed_while_it_drains(compose: dict[str, Any]) -> None:
    service = compose["services"]["routelm"]
    assert seconds(service["stop_grace_period"]) >= int(service["environment"]["ROUTELM_DRAIN_GRACE"]) + 10


def test_every_port_is_opened_on_this_machine_only(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service["ports"]]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_service_has_limits_and_a_pinned_image(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])


def test_every_service_can_do_little_harm(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_every_named_volume_is_declared_and_used(compose: dict[str, Any]) -> None:
    mounts = [mount.split(":") for service in compose["services"].values() for mount in service.get("volumes", [])]
    assert {source for source, *_ in mounts if not source.startswith(".")} == set(compose["volumes"])
    assert [source for source, *_ in mounts if source.startswith(".") and not (ROOT / source).exists()] == []


def test_grafana_reads_the_prometheus_of_this_file(compose: dict[str, Any]) -> None:
    (source,) = yaml_document(DEPLOY / "grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert "127.0.0.1:9090:9090" in compose["services"]["prometheus"]["ports"]


def test_grafana_finds_the_dashboards(compose: dict[str, Any]) -> None:
    (provider,) = yaml_document(DEPLOY / "grafana/provisioning/dashboards/routelm.yml")["providers"]
    folder = provider["options"]["path"]
    grafana = compose["services"]["grafana"]
    assert f"./deploy/grafana/dashboards:{folder}:ro" in grafana["volumes"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (DEPLOY / "grafana/dashboards" / home.removeprefix(f"{folder}/")).exists()


def test_visitors_of_grafana_only_look(compose: dict[str, Any]) -> None:
    environment = compose["services"]["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert "GRAFANA_ADMIN_PASSWORD:?" in COMPOSE.read_text()
