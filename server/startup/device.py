"""Where a network computes, and how its weights are kept there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from model.loading.load import default_dtype, default_scheme
from model.quantization import SCHEMES, Scheme, plain_scheme
from server.settings import Settings

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Placement:
    """`scheme` None: on a CPU as the checkpoint is stored, on a GPU plain."""

    device: str
    dtype: torch.dtype
    scheme: Scheme | None = None

    @classmethod
    def of(cls, settings: Settings) -> "Placement":
        """ValueError for a device that is not there, or one that cannot do what is asked."""
        device, dtype = _device(settings), DTYPES.get(settings.dtype) or default_dtype()
        if device == "cpu":
            return cls(device, dtype, _scheme(settings, dtype))
        if settings.quantize not in ("auto", "none"):
            raise ValueError(
                f"quantize is {settings.quantize}, which is computed on a CPU only: the device is {device}"
            )
        return cls(device, dtype)

    @property
    def on_cpu(self) -> bool:
        return self.device == "cpu"

    def kept_as(self, hf_config: Mapping[str, Any]) -> Scheme:
        """The form of this checkpoint's weights."""
        if not self.on_cpu:
            return plain_scheme(self.dtype)
        return self.scheme or default_scheme(hf_config, self.dtype)


def _device(settings: Settings) -> str:
    has_gpu = torch.cuda.is_available()
    if settings.device == "cuda" and not has_gpu:
        raise ValueError(
            "device is cuda, but PyTorch finds no GPU here: choose --device cpu, or install a PyTorch that is "
            "built for CUDA and the GPU's driver"
        )
    if settings.device == "auto":
        return "cuda" if has_gpu else "cpu"
    return settings.device


def _scheme(settings: Settings, dtype: torch.dtype) -> Scheme | None:
    if settings.quantize == "none":
        return plain_scheme(dtype)
    return None if settings.quantize == "auto" else SCHEMES[settings.quantize]
