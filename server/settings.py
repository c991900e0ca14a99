"""What a person can set, by ROUTELM_* environment variables or options of `routelm serve`."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

_UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)


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


def _stripped(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


Size = Annotated[int, BeforeValidator(parse_size), Field(ge=1)]
Words = Annotated[list[str], BeforeValidator(_split), NoDecode]


class Settings(BaseSettings):
    """The settings of a server. Empty environment variables count as not set."""

    model_config = SettingsConfigDict(env_prefix="ROUTELM_", env_ignore_empty=True, extra="ignore")

    # HTTP
    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    api_key: Annotated[SecretStr, BeforeValidator(_stripped), Field(min_length=1)] | None = Field(
        default=None,
        description="Bearer key that every request must carry; spaces and line ends around it are left out.",
    )
    metrics_public: bool = Field(default=False, description="Serve /metrics without the API key.")
    cors_origins: Words = Field(
        default=[], max_length=64, description="Origins of web pages that may call, comma-separated."
    )
    strict: bool = Field(default=False, description="Refuse unknown fields of bodies, which otherwise are ignored.")
    max_body_bytes: Size = Field(default=2 * 2**20, description="Largest request body.")
    drain_grace: float = Field(default=30.0, ge=0, le=3600, description="Seconds for running requests after SIGTERM.")

    # Model
    model: str = Field(default="bundled", description="Checkpoint directory, hub id (org/name), or `bundled`.")
    revision: str | None = Field(
        default=None, min_length=1, max_length=256, description="Branch, tag or commit of a hub id."
    )
    served_model_name: str | None = Field(
        default=None, max_length=256, description="The model's name in the API; several, comma-separated."
    )
    dtype: Literal["auto", "bfloat16", "float32", "float16"] = Field(
        default="auto", description="Type of the weights while computing."
    )
    experts_per_token: int | None = Field(
        default=None, ge=1, description="How many experts each token goes to; the bundled model learnt 1 to 3."
    )
    quantize: Literal["auto", "none", "int8", "int4"] = Field(
        default="auto", description="How matrices are kept; auto: about as many bits as the checkpoint has."
    )
    check_weights: bool = Field(default=False, description="Look for NaN and infinite weights while loading.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where to compute; auto takes a GPU if any."
    )
    threads: int | None = Field(
        default=None, ge=1, le=1024, description="Threads for the computation; one for a small model, else all."
    )

    # Engine
    max_model_len: int | None = Field(
        default=None, ge=2, description="Longest prompt plus answer; by default the model's own, or what caches hold."
    )
    max_num_seqs: int = Field(default=64, ge=1, le=4096, description="Most requests in one batch.")
    max_num_batched_tokens: int = Field(default=1024, ge=1, le=65536, description="Most tokens in one step.")
    cache_bytes: Size | None = Field(default=None, description="Memory for KV blocks and states, such as 1GiB.")
    max_queue: int = Field(default=256, ge=0, le=100_000, description="Most waiting requests; more get 429.")
    seed: int | None = Field(default=None, ge=0, description="Seed of the seeds that requests without one get.")

    # Log
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="How much to log.")
    log_requests: bool = Field(
        default=False, description="Log a line per request. Prompts and answers are never logged."
    )
