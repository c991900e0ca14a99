"""The line that a loaded server logs: device, threads, kernels, context, cache, and whether it asks for a key."""

import torch

from model import kernels
from model.kernels.library import level_label
from model.loading.memory_estimate import gib
from server.engine.config import EngineConfig
from server.settings import Settings

BATCH_DEPENDENT = "answers may depend on what else is in the batch"


def banner(settings: Settings, model_id: str, config: EngineConfig, weight_scheme: str, device: str) -> str:
    """`weight_scheme` is the type of the weights, or the scheme that quantizes them."""
    threads = torch.get_num_threads()
    access = (
        "required"
        if settings.api_key or settings.keys_file
        else f"none, open to whoever reaches {settings.uds or settings.host}"
    )
    facts = (
        f"{weight_scheme} on {device}",
        f"{threads} thread{'s' if threads > 1 else ''}",
        _kernels(settings.dtype, device),
        f"context {config.max_model_len} tokens",
        f"cache {gib(config.cache_bytes or 0)}",
        f"API key: {access}",
    )
    return f"serving {model_id}: {', '.join(facts)}"


def _kernels(dtype: str, device: str) -> str:
    """The kernels, with a warning where an answer's bits may depend on the batch."""
    if device != "cpu":
        return f"plain kernels ({BATCH_DEPENDENT})"
    level = kernels.instruction_set()
    if level is None:
        return f"plain kernels (slower, and {BATCH_DEPENDENT})"
    instructions = level_label(level)
    if dtype == "float16":
        return f"kernels {instructions} for products, else plain ones ({BATCH_DEPENDENT})"
    return f"kernels {instructions}"
