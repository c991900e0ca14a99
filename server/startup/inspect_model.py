"""Describe a checkpoint without loading its weights: its structure, its size in memory, and whether it fits here."""

import math
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from model.checkpoints.hub import find_checkpoint, is_hub_id
from model.checkpoints.safetensors_files import open_checkpoint
from model.config import AttentionConfig, LayerConfig, MoEConfig
from model.files import Directory
from model.layers.feed_forward import MoE
from model.loading.load import ModelDescription, default_dtype, default_scheme, describe, open_layout
from model.loading.memory_estimate import NetworkSize, gib, network_size, weight_bytes
from model.quantization import SCHEMES, Scheme, plain_scheme
from model.quantization import ours as saved
from model.quantization.formats import gguf_settings
from server.engine.cache.layout import available_memory, default_cache_bytes
from server.engine.config import EngineConfig

OVERHEAD_BYTES = 2**29  # Python, libraries, and the activations of one step
COMFORTABLE = 8  # sequences: a wider scheme that leaves room for this many is preferred to a narrower one


@dataclass(frozen=True, slots=True)
class Fit:
    """A type or quantization scheme of the weights, and how many sequences of the given length fit beside them."""

    scheme: str
    weight_bytes: int
    sequences: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """What `routelm inspect` prints. Sizes are in bytes, lengths in tokens.

    `router` names a class of model/layers/router.py. `stored` is empty for a hub id, whose weights are not fetched.
    """

    model: str
    family: str
    layers: dict[str, int]
    router: str | None
    experts: int
    experts_per_token: int
    max_model_len: int
    size: NetworkSize
    stored: dict[str, int]
    memory: int
    length: int
    fits: tuple[Fit, ...]
    recommendation: str
    command: str | None


def inspect_model(model: str, revision: str | None, length: int) -> Inspection:
    """Read config.json and the headers of the weight files. ValueError for a checkpoint that could not be loaded."""
    directory = find_checkpoint(model, revision, weights=False)
    described = describe(directory, default_dtype())
    network, config = described.network, described.network.config
    size, memory = network_size(network), available_memory()
    length = min(length, config.max_positions)
    fits = tuple(
        Fit(name, weights, _sequences(memory - weights, size, length))
        for name, scheme in _schemes(described).items()
        for weights in [weight_bytes(network, scheme)]
    )
    best = best_of(fits)
    by_default = default_scheme(described.hf_config, network.dtype).name
    routed = [module for module in network.modules() if isinstance(module, MoE)]
    return Inspection(
        model=model,
        family=str(described.hf_config["model_type"]),
        layers=dict(Counter([*map(_mixer_name, config.layers), *map(_feed_forward_name, config.layers)])),
        router=", ".join(dict.fromkeys(type(layer.router).__name__ for layer in routed)) or None,
        experts=max((layer.experts.num_experts for layer in routed), default=0),
        experts_per_token=max((layer.router.k for layer in routed), default=0),
        max_model_len=config.max_positions,
        size=size,
        stored={} if is_hub_id(model) else _stored(directory, described),
        memory=memory,
        length=length,
        fits=fits,
        recommendation=_sentence(best or min(fits, key=lambda fit: fit.weight_bytes), size, memory, length),
        command=_command(model, revision, size, best, by_default, length) if best else None,
    )


def best_of(fits: Sequence[Fit]) -> Fit | None:
    """The first with room for several sequences, otherwise the one with the most room; None if nothing fits.

    `fits` are ordered from the widest weights to the narrowest.
    """
    comfortable = next((fit for fit in fits if fit.sequences >= COMFORTABLE), None)
    most = max(fits, key=lambda fit: fit.sequences)
    return comfortable or (most if most.sequences else None)


def _sentence(fit: Fit, size: NetworkSize, memory: int, length: int) -> str:
    if not fit.sequences:
        taken = gib(fit.weight_bytes + OVERHEAD_BYTES + _cache_bytes(size, 1, length))
        return (
            f"This model does not fit here: as {fit.scheme}, with one sequence of {length:,} tokens, it takes {taken}, "
            f"and {gib(memory)} are free."
        )
    return (
        f"{fit.scheme} fits: its weights take {gib(fit.weight_bytes)} of the {gib(memory)} that are free here, which "
        f"leaves room for {fit.sequences:,} sequences of {length:,} tokens."
    )


def _command(model: str, revision: str | None, size: NetworkSize, fit: Fit, by_default: str, length: int) -> str:
    """The command that serves the model with this scheme. `by_default` is the scheme that needs no option."""
    usual = EngineConfig(1).max_num_seqs
    at_once = min(fit.sequences, usual)
    cache = _cache_bytes(size, at_once, length)
    options = {
        "--model": shlex.quote(model),
        "--revision": shlex.quote(revision) if revision else None,
        "--quantize": None if fit.scheme == by_default else fit.scheme if fit.scheme in SCHEMES else "none",
        "--max-num-seqs": at_once if at_once < usual else None,
        "--cache-bytes": f"{-(-cache // 2**20)}MiB" if cache > default_cache_bytes() else None,
    }
    return " ".join(["routelm serve", *(f"{name} {value}" for name, value in options.items() if value is not None)])


def _schemes(described: ModelDescription) -> dict[str, Scheme]:
    """The possible schemes, widest first. A checkpoint that `routelm quantize` wrote has only one.

    A quantized GGUF file is not served wider than it is stored.
    """
    kept = saved.scheme_name(described.hf_config)
    if kept is not None:
        return {kept: SCHEMES[kept]}
    widest = plain_scheme(described.network.dtype)
    if gguf_settings(described.hf_config) is not None:
        widest = default_scheme(described.hf_config, described.network.dtype)
    narrower = {name: scheme for name, scheme in SCHEMES.items() if scheme.bits_per_weight < widest.bits_per_weight}
    return {widest.name: widest, **narrower}


def _sequences(room: int, size: NetworkSize, length: int) -> int:
    return max(0, (room - OVERHEAD_BYTES) // _cache_bytes(size, 1, length))


def _cache_bytes(size: NetworkSize, sequences: int, length: int) -> int:
    """The cache budget for this many sequences: whole blocks, and the share reserved for snapshots."""
    config = EngineConfig(1)
    blocks = -(-length // config.block_size)
    return math.ceil(sequences * size.sequence_bytes(blocks * config.block_size) / (1 - config.snapshot_share))


def _mixer_name(layer: LayerConfig) -> str:
    mixer = layer.mixer
    window = mixer.window if isinstance(mixer, AttentionConfig) else None
    return mixer.title if window is None else f"{mixer.title} over {window} tokens"


def _feed_forward_name(layer: LayerConfig) -> str:
    if layer.feed_forward is None:
        return "no feed-forward"
    if not isinstance(layer.feed_forward, MoEConfig):
        return "dense feed-forward"
    return "routed experts" + (" with a shared one" if layer.feed_forward.shared else "")


def _stored(directory: Directory, described: ModelDescription) -> dict[str, int]:
    """Bytes on disk by type. First checks that all tensors exist and have the right shapes."""
    if saved.scheme_name(described.hf_config) is None:
        open_layout(directory, described)
    reader, stored = open_checkpoint(directory), Counter[str]()
    for name in reader.names():
        header = reader.header(name)
        stored[header.type_name] += header.stored_bytes
    return dict(stored)
