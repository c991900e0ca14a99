"""Prints the software bill of materials (CycloneDX 1.6, JSON) of the machine or container it runs on.

It needs nothing but Python, so it comes to the image through standard input:

    docker run --rm --interactive --entrypoint python routelm:0.1.0 - < deploy/docker/sbom.py > routelm.cdx.json

Listed are the distribution and its packages, Python and its packages, and the weights of the bundled model.
"""

import hashlib
import json
import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions, version
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

DPKG_STATUS = Path("/var/lib/dpkg/status")
OSI_APPROVED = "License :: OSI Approved :: "
MAX_LICENSE_NAME = 100  # characters; some packages put the whole text into the field

VERSION = version("routelm")

Component = dict[str, Any]


def component(kind: str, name: str, version: str, purl: str = "", **fields: Any) -> Component:
    identity = {"bom-ref": purl or name, **({"purl": purl} if purl else {})}
    return {"type": kind, "name": name, "version": version, **identity, **fields}


def operating_system() -> Iterator[Component]:
    """The distribution, and its packages where dpkg keeps them."""
    release = platform.freedesktop_os_release()
    yield component("operating-system", release["ID"], release.get("VERSION_ID", ""))
    stanzas = DPKG_STATUS.read_text(encoding="utf-8").split("\n\n") if DPKG_STATUS.exists() else []
    for stanza in stanzas:
        fields = dict(re.findall(r"^(\S+): (.*)$", stanza, re.MULTILINE))
        if fields.get("Status") == "install ok installed":
            yield debian_package(release["ID"], fields)


def debian_package(distribution_id: str, fields: dict[str, str]) -> Component:
    name, release = fields["Package"], fields["Version"]
    purl = f"pkg:deb/{distribution_id}/{quote(name)}@{quote(release, safe='')}?arch={fields['Architecture']}"
    return component("library", name, release, purl)


def python_packages() -> Iterator[Component]:
    python = platform.python_version()
    yield component("platform", "cpython", python, f"pkg:generic/cpython@{quote(python)}")
    for package in distributions():
        name = re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower()
        purl = f"pkg:pypi/{name}@{quote(package.version, safe='')}"
        yield component("library", name, package.version, purl, licenses=licenses(package))


def licenses(package: Distribution) -> list[dict[str, Any]]:
    """What the package says: an SPDX expression (PEP 639), a short name, or its classifiers."""
    for expression in package.metadata.get_all("License-Expression") or []:
        return [{"expression": expression}]
    short = [name for name in package.metadata.get_all("License") or [] if 0 < len(name) <= MAX_LICENSE_NAME]
    classifiers = package.metadata.get_all("Classifier") or []
    classified = [line.removeprefix(OSI_APPROVED) for line in classifiers if line.startswith(OSI_APPROVED)]
    return [{"license": {"name": name}} for name in short or classified]


def bundled_models() -> Iterator[Component]:
    """The weights that the package carries, with their hashes."""
    for file in files("model").joinpath("bundled").iterdir():
        if file.name.endswith(".safetensors"):
            hashes = [{"alg": "SHA-256", "content": hashlib.sha256(file.read_bytes()).hexdigest()}]
            yield component("machine-learning-model", file.name, VERSION, hashes=hashes)


def bill_of_materials() -> dict[str, Any]:
    listed = [*operating_system(), *python_packages(), *bundled_models()]
    unique = {part["bom-ref"]: part for part in listed}
    image = component("container", "routelm", VERSION)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": image},
        "components": sorted(unique.values(), key=lambda part: str(part["bom-ref"])),
    }


if __name__ == "__main__":
    json.dump(bill_of_materials(), sys.stdout, indent=1)
