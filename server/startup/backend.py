"""From settings to something that answers: tokenizer, network, engine and service put together."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from model.cache import bytes_per_block, bytes_per_row
from model.checkpoints.hub import BUNDLED, find_checkpoint, is_hub_id
from model.checkpoints.safetensors_files import read_config
from model.checkpoints.tensor_readers import Progress
from model.loading.load import describe, load_network
from model.loading.memory_estimate import weight_bytes
from model.loading.quality import Quality
from model.network import CausalLM
from model.text.chat_template import ChatTemplate, UnusableChatTemplate
from model.text.task_prompts import prompts_for
from model.text.tokenizer import Tokenizer
from server.engine.available_memory import available_memory
from server.engine.client.thread import AsyncEngine
from server.engine.config import EngineConfig, default_cache_bytes
from server.engine.engine import Engine
from server.generation.defaults import GenerationDefaults
from server.generation.service import GenerationService
from server.metrics import Metrics
from server.settings import Settings
from server.startup.app import Backend
from server.startup.banner import start_line
from server.startup.device import Placement

SMALL_MODEL_BYTES = 64 * 2**20

Loaded = TypeVar("Loaded")

logger = logging.getLogger(__name__)


def prepare_backend(settings: Settings, progress: Progress | None = None) -> Callable[[], Backend]:
    """Load everything, which takes seconds. What is returned starts the engine; call it on the event loop.

    Raises ValueError, with what to do, for a checkpoint that cannot be served.
    """
    directory = find_checkpoint(settings.model, settings.revision)
    placement = Placement.of(settings)
    network, tokenizer = _in_passing(lambda: _load(settings, directory, placement, progress))
    torch.set_num_threads(settings.threads or default_threads(directory))
    config = engine_config(settings, network, tokenizer)
    engine = Engine(network, config, device=placement.device)
    defaults, quality = GenerationDefaults.load(directory), Quality.load(directory)
    model_id, *aliases = _served_names(settings) or [_model_id(settings.model, directory)]
    kept_as = placement.kept_as(read_config(directory)).name
    logger.info(start_line(settings, model_id, config, kept_as, placement.device))

    def open_backend() -> Backend:
        client = AsyncEngine(engine)
        metrics = Metrics(model_id, client.stats)
        service = GenerationService(
            client,
            tokenizer,
            _chat_template(directory),
            prompts_for(tokenizer.special_tokens),
            model_id=model_id,
            aliases=aliases,
            max_model_len=config.max_model_len,
            observer=metrics,
            defaults=defaults,
            quality=quality,
        )
        return Backend(service, metrics)

    return open_backend


def _in_passing(work: Callable[[], Loaded]) -> Loaded:
    """Do the work in a thread that then ends, and its pool of OpenMP's threads with it.

    libgomp counts the threads of all pools: if there are more than cores, idle ones sleep at once instead of waiting a
    moment for the engine's next loop, and waking them several times a layer took 20 ms a step (docs/decisions/0006).
    """
    with ThreadPoolExecutor(1, thread_name_prefix="load") as executor:
        return executor.submit(work).result()


def engine_config(settings: Settings, network: CausalLM, tokenizer: Tokenizer) -> EngineConfig:
    """What the settings say; a context that is not given is the model's own, or as much of it as the cache holds."""
    config = EngineConfig(
        max_model_len=settings.max_model_len or network.config.max_positions,
        eos_token_ids=frozenset(tokenizer.eos_token_ids),
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        max_queue=settings.max_queue,
        cache_bytes=settings.cache_bytes or default_cache_bytes(),
        seed=settings.seed,
    )
    return config if settings.max_model_len else _within_cache(config, network)


def _within_cache(config: EngineConfig, network: CausalLM) -> EngineConfig:
    """Shorten the context to what fits beside the states of all sequences and the room for snapshots."""
    specs, budget = network.cache_specs(), config.cache_bytes or 0
    block = bytes_per_block(specs, config.block_size, network.dtype)
    room = int(budget * (1 - config.snapshot_share)) - config.max_num_seqs * bytes_per_row(specs)
    held = room // block * config.block_size if block else config.max_model_len
    if not 0 < held < config.max_model_len:  # an engine without any room says so itself
        return config
    logger.warning(
        "this model knows %d positions, of which the cache of %.2f GiB holds %d: longer requests are refused; "
        "more --cache-bytes or fewer --max-num-seqs make room",
        config.max_model_len,
        budget / 2**30,
        held,
    )
    return replace(config, max_model_len=held)


def default_threads(directory: Path) -> int:
    """One for a small model, which gains little from a second; that core then serves HTTP. See docs/performance.md."""
    weights = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
    return 1 if weights < SMALL_MODEL_BYTES else torch.get_num_threads()


def _load(
    settings: Settings, directory: Path, placement: Placement, progress: Progress | None
) -> tuple[CausalLM, Tokenizer]:
    """The network where it computes, and its tokenizer; everything that can be wrong at a glance is said first."""
    described = describe(directory, placement.dtype, settings.experts_per_token)
    tokenizer = Tokenizer.load(directory)
    if placement.on_cpu:
        _check_memory(weight_bytes(described.network, placement.kept_as(described.hf_config)))
    started = time.monotonic()
    network = load_network(
        directory,
        placement.dtype,
        scheme=placement.scheme,
        freeze=placement.on_cpu,
        experts_per_token=settings.experts_per_token,
        check=settings.check_weights,
        progress=progress,
    ).to(placement.device)
    logger.info("loaded %s in %.1f s", settings.model, time.monotonic() - started)
    return network, tokenizer


def _check_memory(needed: int) -> None:
    free = available_memory()
    if needed > free:
        raise ValueError(
            f"the weights take {needed / 2**30:.1f} GiB, but {free / 2**30:.1f} GiB of memory are free: "
            "`routelm inspect` says what fits, such as --quantize int4"
        )


def _served_names(settings: Settings) -> list[str]:
    return [name.strip() for name in (settings.served_model_name or "").split(",") if name.strip()]


def _model_id(name: str, directory: Path) -> str:
    if directory == BUNDLED:
        return "routelm"
    return name if is_hub_id(name) else directory.resolve().name


def _chat_template(directory: Path) -> ChatTemplate | UnusableChatTemplate | None:
    try:
        return ChatTemplate.load(directory)
    except ValueError as error:  # plain completions still work
        logger.warning("chat is not available: %s", error)
        return UnusableChatTemplate(str(error))
