"""From settings to a running backend: load tokenizer and network, build the engine and the service."""

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from model.cache import bytes_per_block, bytes_per_row
from model.checkpoints.hub import BUNDLED, find_checkpoint, is_hub_id
from model.checkpoints.reader import CheckpointError
from model.checkpoints.safetensors_files import open_checkpoint
from model.checkpoints.tensor_readers import Progress
from model.config import FixedKConfig, ModelConfig
from model.files import Directory
from model.loading.load import ModelDescription, describe, load_network, return_freed_memory
from model.loading.lora.attach import attach_adapters
from model.loading.memory_estimate import gib, network_size, weight_bytes
from model.loading.pooling import Pooling
from model.loading.quality import Quality
from model.loading.routing_baseline import RoutingBaseline
from model.network import CausalLM
from model.text.chat_template import ChatTemplate, UnusableChatTemplate
from model.text.task_prompts import prompts_for
from model.text.tokenizer import Tokenizer
from server.engine.cache.layout import available_memory, default_cache_bytes
from server.engine.client.admission import UNKNOWN_SPEED
from server.engine.client.async_llm import AsyncLLM
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.grammar.compiler import GrammarCompiler
from server.engine.routing.adaptive_experts import ExpertRange
from server.engine.threads import ThreadScaler
from server.generation.defaults import GenerationDefaults
from server.generation.grammar_tokenizer import open_grammar_tokenizer
from server.generation.model_facts import ModelFacts, RouterFacts
from server.generation.service import GenerationService
from server.metrics import Metrics
from server.settings import Settings
from server.startup.app import Backend
from server.startup.banner import banner
from server.startup.device import DeviceConfig, usable_cpus
from server.startup.measure_speed import measure_speed

SMALL_MODEL_BYTES = 64 * 2**20

Loaded = TypeVar("Loaded")

logger = logging.getLogger(__name__)


def prepare_backend(
    settings: Settings, progress: Progress | None = None, *, measure: bool = True
) -> Callable[[], Backend]:
    """Load everything, which takes seconds. Returns a function that starts the engine; call it on the event loop.

    `measure`: the speed, from which Retry-After and waits are computed until requests have shown it. A server whose
    only client waits for its answers needs neither. Raises ValueError, with what to do, for a checkpoint that cannot
    be served.
    """
    directory = find_checkpoint(settings.model, settings.revision)
    device_config = DeviceConfig.from_settings(settings)
    threads = settings.threads or default_threads(directory)
    torch.set_num_threads(threads)
    network, tokenizer, facts = _in_short_lived_thread(lambda: _load(settings, directory, device_config, progress))
    config = engine_config(settings, network, tokenizer)
    scaler = None if settings.threads else ThreadScaler(threads)
    grammars = GrammarCompiler(partial(open_grammar_tokenizer, tokenizer, network.config.vocab_size))
    engine = Engine(network, config, device=device_config.device, threads=scaler, grammars=grammars)
    speed = UNKNOWN_SPEED
    if measure:
        speed = _in_short_lived_thread(lambda: measure_speed(network, config, device_config.device))
    defaults, quality = GenerationDefaults.load(directory), Quality.load(directory)
    plain_text_defaults = GenerationDefaults.load_plain_text(directory)
    chat_template, pooling = _chat_template(directory, tokenizer), _pooling(directory)
    model_id, *aliases = _served_names(settings) or [_model_id(settings.model, directory)]
    if taken := settings.lora.keys() & {model_id, *aliases}:
        raise ValueError(f"--lora: {taken.pop()} is the name of the model itself: give the adapter another one")
    if weak := [task for task in quality.tasks if quality.warnings(task)]:
        logger.warning("parts of these tasks are beyond the model: %s; its scores are at /v1/models", ", ".join(weak))
    return_freed_memory()  # of the threads that loaded and measured
    logger.info(banner(settings, model_id, config, facts.weight_scheme, device_config.device))

    def open_backend() -> Backend:
        client = AsyncLLM(engine, speed)
        metrics = Metrics(model_id, client.stats, _cache_labels(engine))
        service = GenerationService(
            client,
            tokenizer,
            chat_template,
            prompts_for(tokenizer.special_tokens),
            model_id=model_id,
            aliases=aliases,
            adapters=tuple(settings.lora),
            max_model_len=config.max_model_len,
            observer=metrics,
            defaults=defaults,
            plain_text_defaults=plain_text_defaults,
            quality=quality,
            pooling=pooling,
            facts=facts,
            grammars=grammars,
        )
        return Backend(service, metrics)

    return open_backend


def _cache_labels(engine: Engine) -> dict[str, str]:
    """vLLM's labels of `vllm:cache_config_info`."""
    layout, config = engine.layout, engine.config
    return {
        "block_size": str(layout.block_size),
        "num_gpu_blocks": str(layout.num_blocks),
        "enable_prefix_caching": str(config.prefix_caching),
        "cache_dtype": str(engine.runner.network.dtype).removeprefix("torch."),
    }


def _in_short_lived_thread(work: Callable[[], Loaded]) -> Loaded:
    """Run `work` in a thread of its own. When the thread ends, so does the OpenMP pool that the work started.

    libgomp counts the threads of all pools. If there are more threads than cores, idle ones sleep at once instead of
    spinning until the next parallel region, and waking them several times a layer took 20 ms a step
    (docs/decisions/0006).
    """
    with ThreadPoolExecutor(1, thread_name_prefix="load") as executor:
        return executor.submit(work).result()


def engine_config(settings: Settings, network: CausalLM, tokenizer: Tokenizer) -> EngineConfig:
    """`max_model_len` defaults to the model's own, or to what the cache holds if that is less."""
    config = EngineConfig(
        max_model_len=settings.max_model_len or network.config.max_positions,
        eos_token_ids=frozenset(tokenizer.eos_token_ids),
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        max_queue=settings.max_queue,
        max_queue_tokens=settings.max_queue_tokens,
        max_queue_wait=settings.max_queue_wait,
        prefix_caching=settings.prefix_caching,
        cache_bytes=settings.cache_bytes or default_cache_bytes(),
        seed=settings.seed,
        adaptive_experts=_expert_range(settings),
    )
    return config if settings.max_model_len else _limit_to_cache(config, network)


def _expert_range(settings: Settings) -> ExpertRange | None:
    if settings.adaptive_experts is None:
        return None
    fewest, most = map(int, settings.adaptive_experts.split(":"))
    return ExpertRange(fewest, most, settings.adaptive_experts_queue)


def _limit_to_cache(config: EngineConfig, network: CausalLM) -> EngineConfig:
    """Shorten the context to the tokens whose blocks fit beside the states of all sequences and the snapshots."""
    specs, budget = network.cache_specs(), config.cache_bytes or 0
    block = bytes_per_block(specs, config.block_size, network.dtype)
    block_budget = int(budget * (1 - config.snapshot_share)) - config.max_num_seqs * bytes_per_row(specs)
    capacity = block_budget // block * config.block_size if block else config.max_model_len
    if not 0 < capacity < config.max_model_len:  # with no capacity at all the engine refuses to start
        return config
    logger.warning(
        "the model's context is %d tokens, but the cache of %s holds %d: longer requests are refused; "
        "raise --cache-bytes or lower --max-num-seqs to change that",
        config.max_model_len,
        gib(budget),
        capacity,
    )
    return replace(config, max_model_len=capacity)


def default_threads(directory: Directory) -> int:
    """One for a small model, which gains little from a second and leaves that core to HTTP. See docs/performance.md."""
    try:
        reader = open_checkpoint(directory)
    except CheckpointError:
        return 1  # what is wrong is told when the checkpoint is described
    weights = sum(reader.header(name).stored_bytes for name in reader.names())
    return 1 if weights < SMALL_MODEL_BYTES else usable_cpus()


def _load(
    settings: Settings, directory: Directory, device_config: DeviceConfig, progress: Progress | None
) -> tuple[CausalLM, Tokenizer, ModelFacts]:
    """The network on its device, its tokenizer, and facts. What can be checked without weights is checked first."""
    described = describe(directory, device_config.dtype, settings.experts_per_token)
    tokenizer = Tokenizer.load(directory)
    router = _router_facts(described.network.config, RoutingBaseline.load(directory), _expert_range(settings))
    facts = _facts(described, device_config, router)
    if device_config.on_cpu:
        _check_memory(facts.weight_bytes)
    started = time.monotonic()
    network = load_network(
        directory,
        device_config.dtype,
        scheme=device_config.scheme,
        freeze=device_config.on_cpu,
        experts_per_token=settings.experts_per_token,
        check=settings.check_weights,
        progress=progress,
    ).to(device_config.device)
    logger.info("loaded %s in %.1f s", settings.model, time.monotonic() - started)
    if settings.lora:
        _attach_adapters(settings.lora, network, described, device_config)
    return network, tokenizer, facts


def _attach_adapters(
    adapters: Mapping[str, Path], network: CausalLM, described: ModelDescription, device_config: DeviceConfig
) -> None:
    if not device_config.on_cpu:
        raise ValueError("--lora: adapters are served on a CPU only: leave out --device")
    nbytes = attach_adapters(network, described, adapters)
    logger.info("LoRA adapters %s take %s", ", ".join(adapters), gib(nbytes))


def _facts(described: ModelDescription, device_config: DeviceConfig, router: RouterFacts | None) -> ModelFacts:
    scheme = device_config.weight_scheme(described.hf_config)
    return ModelFacts(
        family=str(described.hf_config["model_type"]),
        num_parameters=network_size(described.network).parameters,
        hidden_size=described.network.config.hidden_size,
        weight_bytes=weight_bytes(described.network, scheme),
        weight_scheme=scheme.name,
        router=router,
    )


def _router_facts(
    config: ModelConfig, baseline: RoutingBaseline | None, adaptive: ExpertRange | None
) -> RouterFacts | None:
    layers = dict(config.moe_layers())
    if not layers:
        return None
    routers = [moe.router for moe in layers.values()]
    fixed = [router.top_k for router in routers if isinstance(router, FixedKConfig)]
    return RouterFacts(
        name=type(routers[0]).__name__.removesuffix("Config"),
        num_experts={layer: moe.num_experts for layer, moe in layers.items()},
        experts_per_token=min(fixed) if len(fixed) == len(routers) else None,
        baseline=baseline,
        adaptive_most=None if adaptive is None else adaptive.most,
    )


def _check_memory(needed: int) -> None:
    free = available_memory()
    if needed > free:
        raise ValueError(
            f"the weights take {gib(needed)}, but {gib(free)} of memory are free: `routelm inspect` shows what fits, "
            "such as --quantize int4"
        )


def _served_names(settings: Settings) -> list[str]:
    return [name.strip() for name in (settings.served_model_name or "").split(",") if name.strip()]


def _model_id(name: str, directory: Directory) -> str:
    if directory == BUNDLED:
        return "routelm"
    return name if is_hub_id(name) else (directory.resolve() if isinstance(directory, Path) else directory).name


def _chat_template(directory: Directory, tokenizer: Tokenizer) -> ChatTemplate | UnusableChatTemplate | None:
    try:
        template = ChatTemplate.load(directory)
    except ValueError as error:  # plain completions still work
        logger.warning("chat is not available: %s", error)
        return UnusableChatTemplate(str(error))
    if template is not None:
        template.control_tokens(tokenizer)  # takes up to a second, which the first request should not have to wait for
    return template


def _pooling(directory: Directory) -> Pooling | None:
    try:
        return Pooling.load(directory)
    except ValueError as error:  # text is still served
        logger.warning("embeddings are not available: %s", error)
        return None
