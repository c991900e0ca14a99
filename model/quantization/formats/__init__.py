"""Quantization formats of other programs. Their tensors are dequantized when they are read.

One file per format; `quantization_config` in config.json names the format.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from model.checkpoints.safetensors_files import CheckpointError, CheckpointReader
from model.quantization.formats import awq, bitsandbytes, compressed_tensors, fp8, gptq, mxfp4, scaled, torchao
from model.quantization.formats.reader import Codec, DequantizingReader, Settings, require

GGUF = "gguf"  # its reader dequantizes; the settings say how the matrices are served
FORMATS: dict[str, Callable[[Settings], Codec]] = {
    "awq": awq.codec,
    "bitsandbytes": bitsandbytes.codec,
    "compressed-tensors": compressed_tensors.codec,
    "fp8": fp8.codec,
    "gptq": gptq.codec,
    "modelopt": scaled.modelopt,
    "mxfp4": mxfp4.codec,
    "torchao": torchao.codec,
}


def dequantized(reader: CheckpointReader, hf_config: Mapping[str, Any], wanted: Collection[str]) -> CheckpointReader:
    """A reader that dequantizes; `reader` itself if the checkpoint is not quantized.

    `wanted` are the tensors that the model needs. Raises CheckpointError for an unknown format.
    """
    codec = _codec(hf_config)
    return reader if codec is None else DequantizingReader(reader, codec, wanted)


def nearest_scheme(hf_config: Mapping[str, Any]) -> str | None:
    """The name of our scheme with about as many bits per weight as the checkpoint; None if it is not quantized."""
    codec = _codec(hf_config)
    return codec.nearest_scheme if codec else None


def gguf_settings(hf_config: Mapping[str, Any]) -> Settings | None:
    """The settings of a quantized GGUF file (checkpoints/gguf/config.py), None for any other checkpoint."""
    settings = _settings(hf_config)
    return settings if settings is not None and settings.get("quant_method") == GGUF else None


def _codec(hf_config: Mapping[str, Any]) -> Codec | None:
    settings = _settings(hf_config)
    if not settings or settings.get("quant_method") == GGUF:
        return None
    method = str(settings.get("quant_method"))
    require(settings, "quant_method", method, FORMATS)
    return FORMATS[method](settings)


def _settings(hf_config: Mapping[str, Any]) -> Settings | None:
    text_config = hf_config.get("text_config") or {}
    if not isinstance(text_config, Mapping):
        raise CheckpointError(f"text_config is {text_config!r} in config.json: an object is expected")
    return hf_config.get("quantization_config") or text_config.get("quantization_config")
