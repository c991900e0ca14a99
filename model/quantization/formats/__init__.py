"""Checkpoints that come quantized: read as plain tensors, and the scheme of ours that is nearest to what they had.

One file per format. `quantization_config` in config.json says which it is.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from model.checkpoints.safetensors_files import CheckpointReader
from model.quantization.formats import awq, fp8, gptq, mxfp4
from model.quantization.formats.reader import Codec, DequantizingReader, Settings, require

FORMATS: dict[str, Callable[[Settings], Codec]] = {
    "awq": awq.codec,
    "fp8": fp8.codec,
    "gptq": gptq.codec,
    "mxfp4": mxfp4.codec,
}


def decoded(reader: CheckpointReader, hf_config: Mapping[str, Any], wanted: Collection[str]) -> CheckpointReader:
    """The checkpoint as if it had never been quantized; `reader` itself if it has not been.

    `wanted` are the tensors the model asks for. Raises CheckpointError for a format that is not known.
    """
    codec = _codec(hf_config)
    return reader if codec is None else DequantizingReader(reader, codec, wanted)


def nearest_scheme(hf_config: Mapping[str, Any]) -> str | None:
    """Which of our schemes keeps about as many bits as the checkpoint has; None if it is not quantized."""
    codec = _codec(hf_config)
    return codec.nearest_scheme if codec else None


def _codec(hf_config: Mapping[str, Any]) -> Codec | None:
    text_config = hf_config.get("text_config") or {}
    settings = hf_config.get("quantization_config") or text_config.get("quantization_config")
    if not settings:
        return None
    method = settings.get("quant_method")
    require(settings, "quant_method", method, FORMATS)
    return FORMATS[method](settings)
