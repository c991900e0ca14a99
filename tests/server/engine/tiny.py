"""Shared by the engine's tests: a tiny random network, requests, and naive decoding as the oracle."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from model.cache import bytes_per_block, bytes_per_row
from model.config import ModelConfig, hybrid_config
from model.generate import generate, greedy
from model.kernels.sampling_reference import gumbel_noise
from model.loading.freeze import freeze_network
from model.network import CausalLM, cast_matrices
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.types import EngineOutput, EngineRequest, GenerateRequest, RoutingParams, SamplingParams

KNOWN: WeakKeyDictionary[CausalLM, dict[tuple[Any, ...], tuple[int, ...]]] = WeakKeyDictionary()  # results of oracles
OUTER_FIELDS = ("boundaries", "arrival_time", "cache_salt", "routing", "task", "snapshot_token_ids", "scheduling")
VOCAB = 128
MAX_LEN = 256


def tiny_config(**changes: Any) -> ModelConfig:
    """Three delta-net layers and one attention layer, four experts."""
    values = {"hidden_size": 64, "num_layers": 4, "num_heads": 2, "num_kv_heads": 1, "head_dim": 32, "num_experts": 4}
    values |= {"expert_width": 64, "shared_width": 64, "vocab_size": VOCAB, "max_positions": MAX_LEN}
    return replace(hybrid_config(**(values | changes)), tie_word_embeddings=False)


def tiny_network(config: ModelConfig | None = None, *, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> CausalLM:
    """A network as it is served, with random weights that are large enough for contexts to matter."""
    torch.manual_seed(seed)
    network = CausalLM(config or tiny_config())
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=1.0 if "embedding" in name else 0.2)
    return freeze_network(cast_matrices(network, dtype))


def engine_config(**changes: Any) -> EngineConfig:
    """A cache that holds the sequences of any test at once, unless `changes` say otherwise."""
    values = {"max_model_len": MAX_LEN, "max_num_seqs": 32, "max_num_batched_tokens": 256, "cache_bytes": 2**25}
    return EngineConfig(**(values | {"seed": 0} | changes))


def bytes_for(network: CausalLM, config: EngineConfig, *, blocks: int) -> int:
    """A budget of exactly that many blocks beside the slots."""
    specs = network.cache_specs()
    slots = config.max_num_seqs * bytes_per_row(specs)
    return slots + blocks * bytes_per_block(specs, config.block_size, network.dtype)


def request(request_id: str, prompt: Iterable[int], max_tokens: int = 8, **changes: Any) -> GenerateRequest:
    """Greedy unless told otherwise; what `GenerateRequest` has no field for is sampling."""
    outer = {name: changes.pop(name) for name in OUTER_FIELDS if name in changes}
    if "experts_per_token" in changes:
        outer["routing"] = RoutingParams(changes.pop("experts_per_token"))
    sampling = SamplingParams(max_tokens, **({"temperature": 0.0} | changes))
    return GenerateRequest(request_id, tuple(prompt), sampling, **outer)


def random_prompt(rng: np.random.Generator, length: int) -> tuple[int, ...]:
    return tuple(int(token) for token in rng.integers(3, VOCAB, length))


def run(engine: Engine, requests: Iterable[EngineRequest]) -> dict[str, EngineOutput]:
    """Serve requests to their end; per request one output with everything that came."""
    for item in requests:
        engine.submit(item)
    return drain(engine)


def drain(engine: Engine) -> dict[str, EngineOutput]:
    """Step until nothing is left."""
    outputs: list[EngineOutput] = []
    while engine.has_unfinished:
        outputs += engine.step()
    return collect(outputs)


def collect(outputs: Iterable[EngineOutput]) -> dict[str, EngineOutput]:
    """Join each request's outputs into one, and see that the last of them, and no other, is terminal."""
    joined: dict[str, EngineOutput] = {}
    for output in outputs:
        before = joined.get(output.request_id)
        if before is not None:
            assert before.finish_reason is None, f"{output.request_id} went on after its end"
            output = replace(
                output,
                token_ids=before.token_ids + output.token_ids,
                logprobs=before.logprobs + output.logprobs,
                prompt_logprobs=before.prompt_logprobs + output.prompt_logprobs,
                routing=before.routing + output.routing,
                prompt_routing=before.prompt_routing + output.prompt_routing,
            )
        joined[output.request_id] = output
    unfinished = [output.request_id for output in joined.values() if output.finish_reason is None]
    assert not unfinished, f"without an end: {unfinished}"
    return joined


def assert_memory_is_free(engine: Engine) -> None:
    """No sequence is left, and no memory is in use."""
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.kv_blocks_used, stats.state_slots_used) == (0, 0, 0, 0)


def oracle(network: CausalLM, asked: GenerateRequest, *, eos: frozenset[int] = frozenset()) -> tuple[int, ...]:
    """The tokens of one request, decoded naively. Knows temperature, seed and stop tokens."""
    sampling = asked.sampling
    known = KNOWN.setdefault(network, {})
    key = (
        asked.prompt_token_ids,
        sampling.max_tokens,
        sampling.temperature,
        sampling.seed,
        sampling.stop_token_ids,
        eos,
    )
    if key in known:
        return known[key]

    def choose(logits_V: Tensor, position: int) -> int:
        if not sampling.temperature:
            return greedy(logits_V, position)
        assert sampling.seed is not None, "the oracle cannot guess the engine's seed"
        noise_V = torch.from_numpy(gumbel_noise(sampling.seed, position, len(logits_V)))
        return int(((logits_V - logits_V.max()) / sampling.temperature + noise_V).argmax())

    stop = eos | sampling.stop_token_ids
    known[key] = tuple(generate(network, asked.prompt_token_ids, sampling.max_tokens, stop=stop, choose=choose))
    return known[key]
