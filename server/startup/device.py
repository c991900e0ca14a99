"""The device a network runs on, and the type or quantization scheme of its weights there."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from model.loading.load import default_dtype, default_scheme
from model.quantization import SCHEMES, Scheme, plain_scheme
from server.engine.cgroups import cpu_quotas
from server.settings import Settings

logger = logging.getLogger(__name__)

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """`scheme` None means: on a CPU as in the checkpoint, on a GPU not quantized."""

    device: str
    dtype: torch.dtype
    scheme: Scheme | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> "DeviceConfig":
        """Raises ValueError for a device that does not exist, and for a scheme that it cannot compute."""
        device, dtype = _device(settings), DTYPES.get(settings.dtype) or default_dtype()
        if device == "cpu":
            return cls(device, dtype, _scheme(settings, dtype))
        if settings.quantize not in ("auto", "none"):
            raise ValueError(
                f"quantize is {settings.quantize}, which runs on a CPU only, but the device is {device}: "
                "add --device cpu, or leave --quantize out"
            )
        return cls(device, dtype)

    @property
    def on_cpu(self) -> bool:
        return self.device == "cpu"

    def weight_scheme(self, hf_config: Mapping[str, Any]) -> Scheme:
        """The scheme of this checkpoint's weights on the device."""
        if not self.on_cpu:  # where nothing is packed, so every type takes its own size
            return replace(plain_scheme(self.dtype), bits_per_weight=8.0 * self.dtype.itemsize)
        return self.scheme or default_scheme(hf_config, self.dtype)


def _device(settings: Settings) -> str:
    has_gpu = torch.cuda.is_available()
    if settings.device == "cuda" and not has_gpu:
        raise ValueError(
            "device is cuda, but PyTorch finds no GPU here: choose --device cpu, or install a PyTorch that is "
            "built for CUDA and the GPU's driver"
        )
    if settings.device == "auto":
        if has_gpu:
            logger.info("computing on the CPU: GPUs work, but slowly and untested; --device cuda takes the GPU")
        return "cpu"
    return settings.device


def usable_cpus() -> int:
    """Processors that this process may keep busy: those it may run on, but no more than the quotas of its cgroups."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *map(int, cpu_quotas())]))


def _scheme(settings: Settings, dtype: torch.dtype) -> Scheme | None:
    if settings.quantize == "none":
        return plain_scheme(dtype)
    return None if settings.quantize == "auto" else SCHEMES[settings.quantize]
