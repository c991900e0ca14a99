"""API keys: a TOML or JSON file with a name, a hash, scopes and limits for each, reloaded while the server runs."""

import asyncio
import hashlib
import hmac
import json
import logging
import tomllib
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from server.middleware.rate_limits import KeyUsage
from server.settings import Settings

MAX_KEYS = 1000  # each is compared with the key of every request
WATCH_SECONDS = 1.0

logger = logging.getLogger(__name__)


class KeyScope(StrEnum):
    """What a key opens. Lists of models and documentation are open to every key."""

    INFERENCE = "inference"  # everything that asks the model for something
    BATCHES = "batches"  # /v1/files and /v1/batches, and the requests of its batches
    METRICS = "metrics"  # /metrics
    ADMIN = "admin"  # the requests of other keys


Limit = Annotated[int, Field(ge=1, le=10**12)]


class ApiKey(BaseModel):
    """One entry of the file. The key itself is not stored, only its SHA-256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: frozenset[KeyScope] = frozenset({KeyScope.INFERENCE})
    requests_per_minute: Limit | None = None
    tokens_per_minute: Annotated[Limit, Field(description="Of prompts and answers.")] | None = None
    max_concurrent_requests: Limit | None = None
    priority: Annotated[int, Field(ge=-1000, le=1000, description="Lower is more urgent.")] = 0
    may_set_priority: Annotated[bool, Field(description="Requests may be more urgent than `priority`.")] = False


class ApiKeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: Annotated[list[ApiKey], Field(max_length=MAX_KEYS)] = []

    @model_validator(mode="after")
    def _check_unique(self) -> Self:
        for field in ("name", "sha256"):
            values = [getattr(key, field) for key in self.keys]
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice is not None:
                raise ValueError(f"two keys have the {field} {twice}")
        return self


def hash_key(secret: bytes) -> str:
    """The SHA-256 of a key, as it stands in the file. No salt: `routelm keys create` makes keys of 256 random bits."""
    return hashlib.sha256(secret).hexdigest()


def read_api_keys(path: Path) -> list[ApiKey]:
    """The keys in a file. Raises ValueError that names the file and what is wrong with it."""
    try:
        return parse_key_file(path.read_text(encoding="utf-8"), path.suffix)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"keys file {path} cannot be used: {error}") from None


def parse_key_file(text: str, suffix: str) -> list[ApiKey]:
    """The keys in the text of a file with that suffix. Raises ValueError, and RecursionError for deeply nested ones."""
    return parse_api_keys(json.loads(text) if suffix == ".json" else tomllib.loads(text))


def parse_api_keys(content: Any) -> list[ApiKey]:
    """The keys in a file's content. Raises ValueError that names the field and what is wrong with it."""
    try:
        return ApiKeyFile.model_validate(content).keys
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(": ".join([".".join(map(str, first["loc"])), first["msg"]]).removeprefix(": ")) from None


class ApiKeys:
    """The keys in force, and what they have used. `requires_key` is false if none was configured."""

    def __init__(self, path: Path | None = None, fixed: Sequence[ApiKey] = ()) -> None:
        """`fixed` keys stay whatever the file says. Raises ValueError for a file that cannot be used."""
        self.reload_requested = False  # set by a signal handler
        self.path = path
        self.requires_key = path is not None or bool(fixed)
        self._fixed = tuple(fixed)
        self._stamp = _stamp(path)
        self._keys = self._read()
        self._usage: dict[str, KeyUsage] = {}

    @classmethod
    def from_settings(cls, settings: Settings) -> "ApiKeys":
        """The file of `keys_file` and the single key of `api_key`, which may do everything."""
        if settings.api_key is None:
            return cls(settings.keys_file)
        single = hash_key(settings.api_key.get_secret_value().encode())
        return cls(
            settings.keys_file,
            [ApiKey(name="default", sha256=single, scopes=frozenset(KeyScope), may_set_priority=True)],
        )

    def find(self, secret: bytes) -> ApiKey | None:
        """The key with this secret. It is compared with all, in constant time."""
        digest, found = hash_key(secret), None
        for key in self._keys:
            if hmac.compare_digest(digest, key.sha256):
                found = key
        return found

    def named(self, name: str) -> ApiKey | None:
        """The key with this name."""
        return next((key for key in self._keys if key.name == name), None)

    def usage_of(self, key: ApiKey) -> KeyUsage:
        """What a key has used; it stays the same when the file is reloaded."""
        return self._usage.setdefault(key.name, KeyUsage())

    def reload(self) -> None:
        """Read the file again. If it cannot be used, the keys of before stay in force."""
        assert self.path is not None
        self.reload_requested, self._stamp = False, _stamp(self.path)
        try:
            self._keys = self._read()
        except ValueError as error:
            logger.error("%s; the keys of before stay in force", error)
            return
        logger.info("keys file %s was reloaded: %d keys", self.path, len(self._keys) - len(self._fixed))

    def _read(self) -> tuple[ApiKey, ...]:
        """All keys. Raises ValueError for a file that cannot be used."""
        if self.path is None:
            return self._fixed
        keys = read_api_keys(self.path)
        if taken := {key.name for key in keys} & {key.name for key in self._fixed}:
            raise ValueError(
                f"keys file {self.path} cannot be used: the key of ROUTELM_API_KEY has the name {min(taken)!r}"
            )
        return (*self._fixed, *keys)

    async def watch(self, seconds: float = WATCH_SECONDS) -> None:
        """Reload the file whenever it has changed or a reload is requested. Runs until it is cancelled."""
        while self.path is not None:
            await asyncio.sleep(seconds)
            if self.reload_requested or await asyncio.to_thread(_stamp, self.path) != self._stamp:
                await asyncio.to_thread(self.reload)


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    """What differs between two versions of a file, also where a symbolic link was pointed to another."""
    try:
        stat = path.stat() if path is not None else None
    except OSError:
        return None
    return stat and (stat.st_mtime_ns, stat.st_ino, stat.st_size)
