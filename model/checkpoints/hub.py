"""Finds a model: the bundled one, a directory, a GGUF file, or a Hugging Face repository, which is downloaded.

The cache, tokens and offline mode (HF_HUB_OFFLINE=1) are those of huggingface_hub, an optional dependency. Only files
that cannot run code are downloaded: safetensors, GGUF, JSON, templates and texts.
"""

import re
from pathlib import Path

from model.checkpoints.gguf.directory import GgufDirectory, gguf_file_in, part_names
from model.files import Directory

BUNDLED = Path(__file__).parents[1] / "bundled"
SETTINGS = ("*.json", "*.jinja", "*.txt", "*.model")  # config, tokenizer, templates, generation defaults
WEIGHTS = ("*.safetensors",)
NOT_FETCHED = (
    "[!0-9]*/*",  # other formats; folders with a number have the settings of sentence-transformers
    "*/*.safetensors",
    "consolidated*",  # a second copy of the weights
)
_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*?)(?::([\w./-]+\.gguf))?")


def is_hub_id(model: str) -> bool:
    """Whether `model` is a repository: it looks like `org/name` or `org/name:file.gguf`, and is not a file here."""
    match = _HUB_ID.fullmatch(model)
    return match is not None and not match[1].endswith(".gguf") and not Path(model).exists()


def parse_hub_id(model: str) -> tuple[str, str | None]:
    """The repository, and the file in it if one is named. ValueError for what is not a hub id."""
    match = _HUB_ID.fullmatch(model)
    if match is None:
        raise ValueError(f"{model!r} is not a repository: give org/name or org/name:file.gguf")
    return match[1], match[2]


def find_checkpoint(model: str, revision: str | None = None, *, weights: bool = True) -> Directory:
    """The directory of a checkpoint, which is downloaded if necessary (without weights if `weights` is false).

    `revision` is a branch, tag or commit of a repository. Raises ValueError, with what to do, if there is no such
    model, if it cannot be downloaded, or if `revision` is given for anything but a repository.
    """
    if model == "bundled" and revision is not None:
        raise ValueError(f"revision is {revision}: the bundled model has none; revisions are those of a hub id")
    if model == "bundled":
        return BUNDLED
    if is_hub_id(model):
        hub_id, file = parse_hub_id(model)
        if file is not None:
            return GgufDirectory(_fetch(hub_id, revision, part_names(file), ()) / file)
        return _fetch(hub_id, revision, [*SETTINGS, *WEIGHTS] if weights else [*SETTINGS], NOT_FETCHED)
    if not Path(model).exists():
        raise ValueError(
            f"there is no directory {model}; give one, a .gguf file, `bundled`, or the id of a repository: org/name"
        )
    if revision is not None:
        raise ValueError(f"{model} is not a repository, so it has no revision {revision}: leave the revision out")
    return local_checkpoint(Path(model))


def local_checkpoint(path: Path) -> Directory:
    """A directory with safetensors files as it is; a GGUF file, or a directory that only has one, as a directory."""
    if path.is_file():
        return GgufDirectory(path)
    has_safetensors = next(path.glob("*.safetensors"), None) is not None
    file = None if has_safetensors else gguf_file_in(path)
    return path if file is None else GgufDirectory(file)


def _fetch(hub_id: str, revision: str | None, patterns: list[str], excluded: tuple[str, ...]) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ValueError(
            f"there is no directory {hub_id}, and to fetch it from the hub huggingface_hub is needed: "
            'pip install "routelm[hub]"'
        ) from None
    try:
        directory = snapshot_download(
            hub_id, revision=revision, allow_patterns=patterns, ignore_patterns=list(excluded)
        )
    except (OSError, ValueError) as error:  # unknown, gated, offline and not cached, no network
        where = hub_id if revision is None else f"{hub_id} at {revision}"
        reason = " ".join(str(error).split())
        raise ValueError(f"there is no directory {hub_id}, and the hub did not give {where}: {reason}") from error
    return Path(directory)
