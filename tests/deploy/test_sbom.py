"""deploy/docker/sbom.py on this machine: its output against the schema of CycloneDX."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from .files import DEPLOY, ROOT

VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)
OS_RELEASE = Path("/etc/os-release")


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    """As the image prints it: the program comes through standard input."""
    if not OS_RELEASE.exists():
        pytest.skip("the image runs Linux")
    program = (DEPLOY / "docker/sbom.py").read_text()
    done = subprocess.run([sys.executable, "-"], input=program, capture_output=True, text=True, check=True, cwd=ROOT)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def versions(bill: dict[str, Any]) -> dict[str, str]:
    return {part["name"]: part["version"] for part in bill["components"]}


def test_it_follows_the_schema(bill: dict[str, Any]) -> None:
    assert VALIDATOR.validate_str(json.dumps(bill)) is None


@pytest.mark.parametrize(("field", "value"), [("specVersion", 1.6), ("components", [{"name": "torch"}])])
def test_the_schema_catches_mistakes(bill: dict[str, Any], field: str, value: Any) -> None:
    assert VALIDATOR.validate_str(json.dumps(bill | {field: value})) is not None


def test_it_lists_what_is_installed(bill: dict[str, Any]) -> None:
    listed = versions(bill)
    assert listed["torch"] == version("torch")
    assert listed["routelm"] == version("routelm")
    assert listed["cpython"] == sys.version.split()[0]


def test_packages_have_licenses(bill: dict[str, Any]) -> None:
    licensed = [part for part in bill["components"] if part.get("licenses")]
    assert len(licensed) > 30
    [ours] = [part for part in licensed if part["name"] == "routelm"]
    assert ours["licenses"] == [{"expression": "Apache-2.0"}]


def test_the_weights_have_a_hash(bill: dict[str, Any]) -> None:
    [weights] = [part for part in bill["components"] if part["type"] == "machine-learning-model"]
    assert len(weights["hashes"][0]["content"]) == 64
