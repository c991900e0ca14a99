"""From settings to something that answers: tokenizer, network, engine and service put together."""

from collections.abc import Callable
from pathlib import Path

import torch

import model
from model.chat_template import ChatTemplate
from model.checkpoint import load_weights, read_config
from model.families import family_of
from model.network import CausalLM, cast_matrices, pack_matrices
from model.prompts import prompts_for
from model.tokenizer import Tokenizer
from server.app import Backend
from server.engine.async_engine import AsyncEngine
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.metrics import Metrics
from server.service import GenerationService
from server.settings import Settings

BUNDLED = Path(model.__file__).parent / "bundled"


def prepare_backend(settings: Settings) -> Callable[[], Backend]:
    """Load everything, which takes seconds. What is returned starts the engine; call it on the event loop.

    Raises ValueError, with what to do, for a checkpoint that cannot be served.
    """
    directory = BUNDLED if settings.model == "bundled" else Path(settings.model)
    tokenizer = Tokenizer.load(directory)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    network = load_network(directory, settings)
    max_model_len = settings.max_model_len or network.config.max_positions
    engine = Engine(
        network,
        EngineConfig(
            max_model_len=max_model_len,
            eos_token_ids=frozenset(tokenizer.eos_token_ids),
            max_num_seqs=settings.max_num_seqs,
            max_num_batched_tokens=settings.max_num_batched_tokens,
            max_queue=settings.max_queue,
            cache_bytes=settings.cache_bytes,
            seed=settings.seed,
        ),
        device=_device(settings),
    )
    model_id = settings.served_model_name or ("routelm" if directory == BUNDLED else directory.name)

    def open_backend() -> Backend:
        client = AsyncEngine(engine)
        metrics = Metrics(model_id, client.stats)
        service = GenerationService(
            client,
            tokenizer,
            _chat_template(directory),
            prompts_for(tokenizer.special_tokens),
            model_id=model_id,
            max_model_len=max_model_len,
            observer=metrics,
        )
        return Backend(service, metrics)

    return open_backend


def load_network(directory: Path, settings: Settings) -> CausalLM:
    """The network of a checkpoint directory, ready to serve. Raises CheckpointError (a ValueError)."""
    hf_config = read_config(directory)
    family = family_of(hf_config)
    network = CausalLM(family.config_from_hf(hf_config))
    load_weights(network, family.rules(network.config), directory)
    dtype = settings.dtype if settings.dtype != "auto" else str(hf_config.get("dtype", "bfloat16"))
    cast_matrices(network, torch.float32 if dtype == "float32" else torch.bfloat16)
    device = _device(settings)
    return pack_matrices(network) if device == "cpu" else network.requires_grad_(False).eval().to(device)


def _device(settings: Settings) -> str:
    if settings.device != "auto":
        return settings.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _chat_template(directory: Path) -> ChatTemplate | None:
    try:
        return ChatTemplate.load(directory)
    except ValueError:
        return None  # plain completions still work; the chat endpoints say why they do not
