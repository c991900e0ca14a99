"""The line that a server begins with: what computes, how much it holds, and who may ask."""

import torch

from model import kernels
from model.loading.memory_estimate import gib
from server.engine.config import EngineConfig
from server.settings import Settings

MAY_DEPEND = "answers may depend on what else is in the batch"


def start_line(settings: Settings, model_id: str, config: EngineConfig, kept_as: str, device: str) -> str:
    """`kept_as` is the type of the weights, or the scheme that quantizes them."""
    threads = torch.get_num_threads()
    facts = (
        f"{kept_as} on {device}",
        f"{threads} thread{'s' if threads > 1 else ''}",
        _kernels(settings.dtype, device),
        f"context {config.max_model_len} tokens",
        f"cache {gib(config.cache_bytes or 0)}",
        f"API key: {'required' if settings.api_key else f'none, open to whoever reaches {settings.host}'}",
    )
    return f"serving {model_id}: {', '.join(facts)}"


def _kernels(dtype: str, device: str) -> str:
    """What computes, and what it costs where the promise of equal bits does not hold."""
    if device != "cpu":
        return f"plain kernels ({MAY_DEPEND})"
    instructions = kernels.instruction_set()
    if instructions is None:
        return f"plain kernels (slower, and {MAY_DEPEND})"
    if dtype == "float16":
        return f"kernels {instructions} for products, else plain ones ({MAY_DEPEND})"
    return f"kernels {instructions}"
