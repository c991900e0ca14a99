"""Quantization formats of other programs. Their tensors are dequantized when they are read.

One file per format; `quantization_config` in config.json names the format.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from model.checkpoints.safetensors_files import CheckpointError, CheckpointReader
from model.quantization.formats import awq, bitsandbytes, compressed_tensors, fp8, gptq, modelopt, mxfp4, torchao
from model.quantization.formats.reader import Codec, DequantizingReader, Settings, require

GGUF = "gguf"  # its reader dequantizes; the settings say how the matrices are served
FORMATS: dict[str, Callable[[Settings], tuple[Codec, ...]]] = {
    "awq": awq.codecs,
    "bitsandbytes": bitsandbytes.codecs,
    "compressed-tensors": compressed_tensors.codecs,
    "fp8": fp8.codecs,
    "gptq": gptq.codecs,
    "modelopt": modelopt.codecs,
    "mxfp4": mxfp4.codecs,
    "torchao": torchao.codecs,
}


def dequantized(reader: CheckpointReader, hf_config: Mapping[str, Any], wanted: Collection[str]) -> CheckpointReader:
    """A reader that dequantizes; `reader` itself if the checkpoint is not quantized.

    `wanted` are the tensors that the model needs. Raises CheckpointError for an unknown format.
    """
    for codec in _codecs(hf_config):
        reader = DequantizingReader(reader, codec, wanted)
    return reader


def nearest_scheme(hf_config: Mapping[str, Any]) -> str | None:
    """The name of our scheme with about as many bits per weight as the checkpoint; None if it is not quantized.

    Of a checkpoint that mixes formats it is that of the first one, which has the fewest bits.
    """
    return next((codec.nearest_scheme for codec in _codecs(hf_config)), None)


def gguf_settings(hf_config: Mapping[str, Any]) -> Settings | None:
    """The settings of a quantized GGUF file (checkpoints/gguf/config.py), None for any other checkpoint."""
    settings = _settings(hf_config)
    return settings if settings is not None and settings.get("quant_method") == GGUF else None


def _codecs(hf_config: Mapping[str, Any]) -> tuple[Codec, ...]:
    settings = _settings(hf_config)
    if not settings or settings.get("quant_method") == GGUF:
        return ()
    method = str(settings.get("quant_method"))
    require(settings, "quant_method", method, FORMATS)
    return FORMATS[method](settings)


def _settings(hf_config: Mapping[str, Any]) -> Settings | None:
    text_config = hf_config.get("text_config") or {}
    if not isinstance(text_config, Mapping):
        raise CheckpointError(f"text_config is {text_config!r} in config.json: an object is expected")
    return hf_config.get("quantization_config") or text_config.get("quantization_config")
