"""What the deployment sets are settings that the server has, with values that it takes."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from server.settings import Settings

from .files import DEPLOY, ROOT, yaml_document

PREFIX = "ROUTELM_"
SETTING_FILES = [
    ROOT / "Dockerfile",
    ROOT / "docker-compose.yml",
    DEPLOY / "k8s/base/settings.env",
    DEPLOY / "k8s/base/deployment.yaml",
    DEPLOY / "k8s/overlays/cpu-small/kustomization.yaml",
    DEPLOY / "k8s/overlays/cuda/kustomization.yaml",
    DEPLOY / "ray/serve.yaml",
    ROOT / "docs/deployment.md",
    ROOT / "docs/scaling.md",
]
# Read by docker-compose.yml only: where the port is published, and the limits of the container.
OF_COMPOSE = {"ROUTELM_BIND", "ROUTELM_PUBLISHED_PORT", "ROUTELM_CPUS", "ROUTELM_MEMORY"}


def named_settings(text: str) -> set[str]:
    return set(re.findall(rf"\b{PREFIX}[A-Z_]+\b", text)) - OF_COMPOSE


def unknown_settings(text: str) -> set[str]:
    return {name for name in named_settings(text) if name.removeprefix(PREFIX).lower() not in Settings.model_fields}


@pytest.mark.parametrize("path", SETTING_FILES, ids=lambda path: path.name)
def test_every_named_setting_is_the_servers(path: Path) -> None:
    assert named_settings(path.read_text())
    assert unknown_settings(path.read_text()) == set()


def test_a_misspelt_setting_is_found() -> None:
    assert unknown_settings("ROUTELM_MAX_NUM_SEQ=64") == {"ROUTELM_MAX_NUM_SEQ"}


def kubernetes_settings() -> list[dict[str, str]]:
    """The ConfigMap of the base, and those of the overlays on top of it."""
    lines = (DEPLOY / "k8s/base/settings.env").read_text().splitlines()
    base = dict(line.split("=", 1) for line in lines)
    overlays = [yaml_document(path) for path in sorted(DEPLOY.glob("k8s/overlays/*/kustomization.yaml"))]
    literals = [generator["literals"] for overlay in overlays for generator in overlay.get("configMapGenerator", [])]
    return [base, *(base | dict(literal.split("=", 1) for literal in some) for some in literals)]


def compose_settings() -> dict[str, str]:
    """The service's environment when nothing is set."""
    environment = yaml_document(ROOT / "docker-compose.yml")["services"]["routelm"]["environment"]
    return {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) for name, value in environment.items()}


@pytest.mark.parametrize("environment", [*kubernetes_settings(), compose_settings()])
def test_the_server_takes_the_values(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.drain_grace == float(environment["ROUTELM_DRAIN_GRACE"])
    assert settings.api_key is None


def test_the_server_does_not_take_nonsense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTELM_CACHE_BYTES", "plenty")
    with pytest.raises(ValidationError, match="plenty"):
        Settings()
