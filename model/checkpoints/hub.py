"""Finds a model: the bundled one, a directory, or a Hugging Face repository, which is downloaded into the hub's cache.

The cache, tokens and offline mode (HF_HUB_OFFLINE=1) are those of huggingface_hub, an optional dependency. Only files
that cannot run code are downloaded: safetensors, JSON, templates and texts.
"""

import re
from pathlib import Path

BUNDLED = Path(__file__).parents[1] / "bundled"
SETTINGS = ("*.json", "*.jinja", "*.txt")
WEIGHTS = ("*.safetensors",)
NOT_FETCHED = (
    "[!0-9]*/*",  # other formats; folders with a number have the settings of sentence-transformers
    "*/*.safetensors",
    "consolidated*",  # a second copy of the weights
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(model: str) -> bool:
    """Whether `model` is a repository: it looks like `org/name`, and no such directory exists."""
    return not Path(model).is_dir() and _HUB_ID.fullmatch(model) is not None


def find_checkpoint(model: str, revision: str | None = None, *, weights: bool = True) -> Path:
    """The directory of a checkpoint, which is downloaded if necessary (without weights if `weights` is false).

    `revision` is a branch, tag or commit of a repository. Raises ValueError, with what to do, if there is no such
    model, if it cannot be downloaded, or if `revision` is given for anything but a repository.
    """
    if model == "bundled" and revision is not None:
        raise ValueError(f"revision is {revision}: the bundled model has none; revisions are those of a hub id")
    if model == "bundled":
        return BUNDLED
    if is_hub_id(model):
        return _fetch(model, revision, [*SETTINGS, *WEIGHTS] if weights else [*SETTINGS])
    if not Path(model).is_dir():
        raise ValueError(f"there is no directory {model}; give one, `bundled`, or the id of a repository: org/name")
    if revision is not None:
        raise ValueError(f"{model} is a directory, which has no revision {revision}: leave the revision out")
    return Path(model)


def _fetch(hub_id: str, revision: str | None, patterns: list[str]) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ValueError(
            f"there is no directory {hub_id}, and to fetch it from the hub huggingface_hub is needed: "
            'pip install "routelm[hub]"'
        ) from None
    try:
        directory = snapshot_download(
            hub_id, revision=revision, allow_patterns=patterns, ignore_patterns=list(NOT_FETCHED)
        )
    except (OSError, ValueError) as error:  # unknown, gated, offline and not cached, no network
        where = hub_id if revision is None else f"{hub_id} at {revision}"
        reason = " ".join(str(error).split())
        raise ValueError(f"there is no directory {hub_id}, and the hub did not give {where}: {reason}") from error
    return Path(directory)
