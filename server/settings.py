"""What a person can set, by ROUTELM_* environment variables or by options of `routelm serve`.

The options, their types and their help are made from the fields below (server/commands/serve.py).
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

_UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)

LONGEST_WAIT = 86_400.0  # seconds in the queue: as good as unbounded
MAX_MODEL_NAME = 256  # characters


def parse_size(value: Any) -> Any:
    """Bytes of "1GiB", "512 MiB", "1.5GB" or 1048576. ValueError for anything else."""
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value)
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError(f"{value!r} is not a size: write for example 512MiB, 1GiB or a number of bytes")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _named_paths(value: Any) -> Any:
    """{"a": "/x"} of "a=/x" and of ["a=/x"]."""
    parts = _split(value)
    if not isinstance(parts, list):
        return parts
    named: dict[str, str] = {}
    for part in parts:
        name, equals, path = str(part).partition("=")
        name, path = name.strip(), path.strip()
        if not equals or not path or not 1 <= len(name) <= MAX_MODEL_NAME or name in named:
            raise ValueError(
                f"{part!r:.80}: write name=path, each name once and with at most {MAX_MODEL_NAME} characters"
            )
        named[name] = path
    return named


def _stripped(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _not_empty(value: Any) -> Any:
    """As a path, empty text would be the current directory."""
    if isinstance(value, str) and not value.strip():
        raise ValueError("give a path, or leave it out")
    return value


Size = Annotated[int, BeforeValidator(parse_size), Field(ge=1)]
Words = Annotated[list[str], BeforeValidator(_split), NoDecode]
GivenPath = Annotated[Path, BeforeValidator(_not_empty)]
NamedPaths = Annotated[dict[str, Path], BeforeValidator(_named_paths), NoDecode]


@dataclass(frozen=True, slots=True)
class Unset:
    """What applies when a setting is None or empty, as `--help` tells it."""

    meaning: str


class Settings(BaseSettings):
    """The settings of a server. Empty environment variables count as not set."""

    model_config = SettingsConfigDict(env_prefix="ROUTELM_", env_ignore_empty=True, extra="ignore")

    # HTTP
    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 for all, :: for IPv6 as well.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    uds: Annotated[GivenPath | None, Unset("none")] = Field(
        default=None, description="Unix domain socket to listen on, instead of host and port."
    )
    api_key: Annotated[SecretStr, BeforeValidator(_stripped), Field(min_length=1)] | None = Field(
        default=None, description="Bearer key that every request must carry; surrounding whitespace is removed."
    )
    api_key_file: Annotated[GivenPath | None, Unset("none")] = Field(default=None, description="File with the API key.")
    keys_file: Annotated[GivenPath | None, Unset("none")] = Field(
        default=None, description="TOML or JSON file of API keys, see `routelm keys`; reloaded when it changes."
    )
    cache_salt_per_key: bool = Field(
        default=False, description="Requests of different API keys do not reuse each other's prefixes."
    )
    metrics_public: bool = Field(default=False, description="Serve /metrics without the API key.")
    cors_origins: Words = Field(
        default=["localhost"],
        max_length=64,
        description="Origins of web pages that may call, comma-separated; localhost stands for pages of this machine, "
        "* for all, none for none.",
    )
    strict: bool = Field(default=False, description="Refuse unknown fields of bodies, which otherwise are ignored.")
    max_body_bytes: Size = Field(default=2 * 2**20, description="Largest request body.")
    max_connections: int = Field(
        default=800, ge=1, le=100_000, description="Most open connections; more get 503. Fewer if `ulimit -n` is low."
    )
    allow_expert_masks: bool = Field(
        default=False, description="Let requests mask and force experts (mask_experts, force_experts), for research."
    )
    drain_grace: float = Field(
        default=30.0, ge=0, le=3600, description="Seconds that running requests get to finish after SIGTERM."
    )

    # Model
    model: str = Field(
        default="bundled",
        min_length=1,
        description="Checkpoint directory, GGUF file, hub id (org/name, org/name:file.gguf), or `bundled`.",
    )
    revision: Annotated[str | None, Unset("main")] = Field(
        default=None, min_length=1, max_length=256, description="Branch, tag or commit of a hub id."
    )
    served_model_name: Annotated[str | None, Unset("the directory's name or the hub id")] = Field(
        default=None, max_length=MAX_MODEL_NAME, description="The model's name in the API; several, comma-separated."
    )
    lora: Annotated[NamedPaths, Unset("none")] = Field(
        default={},
        max_length=64,
        description="LoRA adapter in PEFT's format, as name=path; requests choose it by its name as their model. "
        "Several: repeat the option, or separate them by commas.",
    )
    dtype: Literal["auto", "bfloat16", "float32", "float16"] = Field(
        default="auto", description="Type of the weights while computing: auto, bfloat16, float32 or float16."
    )
    experts_per_token: Annotated[int | None, Unset("the model's")] = Field(
        default=None, ge=1, description="Experts each token goes to; the bundled model was trained with 1 to 3."
    )
    quantize: Literal["auto", "none", "int8", "int4"] = Field(
        default="auto", description="How matrices are stored: auto (as in the checkpoint), none, int8 or int4."
    )
    check_weights: bool = Field(default=False, description="Look for NaN and infinite weights while loading.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where to compute: cpu or cuda; auto is the CPU, since GPUs are untested."
    )
    threads: Annotated[
        int | None, Unset("one for a small model, else as many as there are processors with time for it")
    ] = Field(default=None, ge=1, le=1024, description="Threads for the computation.")

    # Engine
    max_model_len: Annotated[int | None, Unset("the model's, or what the caches hold")] = Field(
        default=None, ge=2, description="Longest prompt plus answer, in tokens."
    )
    max_num_seqs: int = Field(default=64, ge=1, le=4096, description="Most requests in one batch.")
    max_num_batched_tokens: int = Field(default=1024, ge=1, le=65536, description="Most tokens in one step.")
    cache_bytes: Annotated[Size | None, Unset("1GiB, or a fifth of the free memory")] = Field(
        default=None, description="Memory for the KV cache and recurrent states, such as 1GiB."
    )
    prefix_caching: bool = Field(
        default=True, description="Reuse what other requests have computed. Timing can reveal what others have sent."
    )
    max_queue: int = Field(default=256, ge=0, le=100_000, description="Most waiting requests; more get 429.")
    max_queue_tokens: int = Field(default=2**20, ge=1, description="Most prompt tokens of waiting requests.")
    max_queue_wait: float = Field(
        default=10.0,
        gt=0,
        le=LONGEST_WAIT,
        description="Seconds that a new request may be expected to wait for its turn.",
    )
    adaptive_experts: Annotated[str | None, Unset("off")] = Field(
        default=None,
        pattern=r"^[1-9]\d{0,2}:[1-9]\d{0,2}$",
        description="MIN:MAX experts per token: MAX without load, down to MIN while many requests wait.",
    )
    adaptive_experts_queue: int = Field(
        default=8, ge=1, le=100_000, description="With more waiting requests than this, adaptive_experts lowers."
    )
    seed: Annotated[int | None, Unset("random")] = Field(
        default=None, ge=0, description="Makes the answers to requests without a seed reproducible, in order."
    )

    # Batches
    batch_dir: Annotated[GivenPath | None, Unset("none: batches are off")] = Field(
        default=None, description="Directory for the files and batches of clients, which survive restarts."
    )
    batch_disk_bytes: Size = Field(default=4 * 2**30, description="Most bytes of all files and batches together.")
    batch_file_bytes: Size = Field(default=100 * 2**20, description="Largest file that a client may upload.")
    batch_max_num_seqs: int = Field(default=16, ge=1, le=4096, description="Most requests of batches at a time.")

    # Log
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="How much to log: debug, info, warning or error."
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="Lines of text, or JSON with the ids of requests and traces."
    )
    log_requests: bool = Field(
        default=False, description="Log a line per request. Prompts and answers are never logged."
    )
    log_slow_requests: Annotated[float | None, Unset("none")] = Field(
        default=None,
        gt=0,
        description="Log requests that take longer than so many seconds, whatever --log-requests is.",
    )

    @model_validator(mode="after")
    def _read_api_key_file(self) -> Self:
        if self.api_key_file is None:
            return self
        if self.api_key is not None:
            raise ValueError("api_key and api_key_file are both set: choose one")
        self.api_key = SecretStr(_key_in(self.api_key_file))
        return self


def _key_in(path: Path) -> str:
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise ValueError(f"api_key_file {path} cannot be read: {error}") from None
    if not key:
        raise ValueError(f"api_key_file {path} is empty")
    return key
