"""How fast the engine is, measured before the first request: what `Retry-After` is computed from until then."""

import time
from collections.abc import Callable
from dataclasses import replace

import torch

from model.cache import bytes_per_block, bytes_per_row
from model.network import CausalLM
from server.engine.client.admission import UNKNOWN_SPEED, Speed
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.types import FinishReason, GenerateRequest, SamplingParams

PROMPT_TOKENS, ANSWER_TOKENS = 8, 5
LARGEST_BATCH = 16  # 64 would take another 0.25 s; the speed is corrected soon, by requests
MAX_SECONDS = 0.5  # for the batch: the speed of a slow network is that of fewer answers, which is too low


def measure_speed(
    network: CausalLM,
    config: EngineConfig,
    device: torch.device | str = "cpu",
    clock: Callable[[], float] = time.monotonic,
) -> Speed:
    """Compute a batch of short answers in an engine with a small cache of its own. Its results are thrown away.

    Unknown if the network computes nothing useful or knows too few positions.
    """
    if config.max_model_len < PROMPT_TOKENS + ANSWER_TOKENS:
        return UNKNOWN_SPEED
    engine = Engine(network, _small(network, config), device=device, clock=clock)
    started = clock()
    _measure(engine, 1, clock)  # what is set up in the first step does not count
    affordable = int(MAX_SECONDS // max(clock() - started, 1e-9))  # a batch takes no longer than its answers in turn
    return _measure(engine, max(1, min(affordable, config.max_num_seqs, LARGEST_BATCH)), clock)


def _measure(engine: Engine, num_seqs: int, clock: Callable[[], float]) -> Speed:
    sampling = SamplingParams(ANSWER_TOKENS, temperature=0.0, ignore_eos=True)
    for index in range(num_seqs):
        engine.submit(GenerateRequest(str(index), tuple(range(PROMPT_TOKENS)), sampling))
    starting, started = num_seqs, clock()
    while starting > 0 and engine.has_unfinished:
        starting -= len(engine.step())
    prefilled, num_decoded = clock(), 0
    while engine.has_unfinished:
        outputs = engine.step()
        if any(output.finish_reason is FinishReason.ERROR for output in outputs):
            return UNKNOWN_SPEED
        num_decoded += len(outputs)
    prompt_token, token = prefilled - started, clock() - prefilled
    if not num_decoded or token <= 0:
        return UNKNOWN_SPEED
    cost = (prompt_token / (num_seqs * PROMPT_TOKENS)) / (token / num_decoded)
    return Speed(num_decoded / token, min(cost, 1.0))


def _small(network: CausalLM, config: EngineConfig) -> EngineConfig:
    """The same engine with a cache for short answers alone."""
    specs, length = network.cache_specs(), PROMPT_TOKENS + ANSWER_TOKENS
    blocks = bytes_per_block(specs, config.block_size, network.dtype) * -(-length // config.block_size)
    nbytes = config.max_num_seqs * (blocks + bytes_per_row(specs))
    return replace(config, max_model_len=length, cache_bytes=nbytes, prefix_caching=False)
