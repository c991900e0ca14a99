"""The examples and tables of docs/deployment.md: what a reader copies works, and the defaults in it are true."""

import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from server.cli import app
from server.middleware.api_keys import hash_key, parse_api_keys, read_api_keys
from server.settings import Settings
from server.startup.inspect_model import inspect_model

from .files import DEPLOY, ROOT
from .image import DOCKERFILE
from .test_compose_file import COMPOSE, VARIABLE, compose_validator
from .test_kubernetes_manifests import RELEASES, Document, built, only, validate
from .test_prometheus_rules import promtool

GUIDE = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return GUIDE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.+?)^```", text, re.MULTILINE | re.DOTALL)


def rows(text: str) -> list[list[str]]:
    """The cells of the rows of all tables whose first cell is code."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")
    ]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", cell)


def test_build_arguments_have_the_defaults_of_the_dockerfile() -> None:
    defaults = dict(re.findall(r"^ARG (\w+)=(.*)$", DOCKERFILE.read_text(), re.MULTILINE))
    defaults["BASE"] = defaults["BASE"].replace("${PYTHON_VERSION}", defaults["PYTHON_VERSION"])
    told = {code(name)[0]: "".join(code(default)) for name, default, *_ in rows(section("The image"))}
    assert told == defaults


def test_variables_of_compose_are_those_of_the_file() -> None:
    used = {match["name"]: match["default"] or "" for match in VARIABLE.finditer(COMPOSE.read_text())}
    table = [(code(names), code(defaults)) for names, defaults, _ in rows(section("Docker Compose"))]
    told = {name for names, _ in table for name in names}
    assert told | set(code(section("The image"))) >= used.keys() - {"GRAFANA_ADMIN_PASSWORD"}
    assert "GRAFANA_ADMIN_PASSWORD" in section("Docker Compose")
    defaults = {name: default for names, given in table if given for name, default in zip(names, given, strict=True)}
    assert defaults == {name: used[name] for name in defaults}


def default_as_told(cell: str) -> Any:
    return {"none": None, "true": True, "false": False}.get(cell.strip("`"), cell.strip("`"))


def test_settings_have_the_defaults_that_are_told() -> None:
    fields = Settings.model_fields
    told = {
        code(name)[0].removeprefix("ROUTELM_").lower(): cell for name, cell, _ in rows(section("Settings that matter"))
    }
    assert len(told) > 10
    for name, cell in told.items():
        if fields[name].default is not None or cell == "none":  # others depend on the machine
            assert str(fields[name].default).removesuffix(".0") == str(default_as_told(cell)), name


def test_the_override_of_compose_follows_the_specification() -> None:
    [override] = map(yaml.safe_load, blocks(section("Docker Compose"), "yaml"))
    compose_validator().validate(override)
    service = override["services"]["routelm"]
    assert {name.removeprefix("ROUTELM_").lower() for name in service["environment"]} <= Settings.model_fields.keys()
    assert service["environment"]["ROUTELM_MODEL"] in service["volumes"][0]


@pytest.fixture
def overlay(tmp_path: Path) -> list[Document]:
    """What `kubectl apply -k` would send for the overlay of the guide."""
    shutil.copytree(DEPLOY / "k8s", tmp_path / "k8s")
    [text] = blocks(section("Kubernetes"), "yaml")
    mine = tmp_path / "k8s/overlays/mine"
    mine.mkdir()
    (mine / "kustomization.yaml").write_text(text)
    return built(mine)


def test_an_overlay_of_ones_own_builds(overlay: list[Document]) -> None:
    for document in overlay:
        validate(document, RELEASES[-1])
    [container] = only(overlay, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example.org/routelm:0.1.0"
    assert only(overlay, "ConfigMap")["data"]["ROUTELM_MAX_QUEUE"] == "512"


def test_commands_of_kubernetes_name_folders_that_build() -> None:
    folders = re.findall(r"kubectl apply -k (\S+)", section("Kubernetes"))
    assert len(folders) == 3
    for folder in folders:
        assert only(built(ROOT / folder), "Deployment")


def test_the_commands_make_keys(tmp_path: Path) -> None:
    [commands] = blocks(section("API keys"), "sh")
    path, secrets = tmp_path / "keys.toml", []
    for line in commands.splitlines():
        words = shlex.split(line.replace("keys.toml", str(path)))
        if words[:2] != ["routelm", "keys"]:
            continue
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0, result.output
        secrets.append(result.output.strip())
    keys = read_api_keys(path)
    assert [key.sha256 for key in keys] == [hash_key(secret.encode()) for secret in secrets[:-1]]
    assert secrets[-1].splitlines()[0] == "team-a  inference  requests_per_minute=600  tokens_per_minute=1000000"


def test_the_entry_of_the_keys_file_has_the_fields_that_there_are() -> None:
    [text] = blocks(section("API keys"), "toml")
    [key] = parse_api_keys(tomllib.loads(text.replace("5f3c...", "5f3c" * 16)))
    assert key.name == "team-a"
    assert key.model_dump().keys() == tomllib.loads(text)["keys"][0].keys()


def test_prometheus_takes_the_alertmanager(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DEPLOY / "prometheus", tmp_path / "prometheus"))
    [text] = blocks(section("Alerts"), "yaml")
    configuration = folder / "prometheus.yml"
    configuration.write_text(configuration.read_text() + text)
    assert promtool("check", "config", configuration).returncode == 0
    configuration.write_text(configuration.read_text().replace("alertmanagers:", "alertmanager:"))
    assert promtool("check", "config", configuration).returncode != 0


@pytest.mark.compiled_kernels  # without them the default is float32
def test_the_cache_of_the_bundled_model_takes_what_is_told() -> None:
    size = inspect_model("bundled", None, 1000).size
    assert size.state_bytes_per_sequence == 438 * 2**10
    assert size.kv_bytes_per_token == 2**10
    assert re.findall(r"\| (\d+ KiB)", section("How much memory")) == ["438 KiB", "1 KiB", "438 KiB"]
