"""Where a network computes: what is there, and what can be done there."""

import pytest
import torch

from model.quantization import SCHEMES
from server.settings import Settings
from server.startup import device
from server.startup.device import DeviceConfig


def placed(**given: str) -> DeviceConfig:
    return DeviceConfig.from_settings(Settings(**given))  # type: ignore[arg-type]


def test_without_a_gpu_it_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert placed().device == "cpu"
    assert placed(quantize="int4").scheme is SCHEMES["int4"]
    with pytest.raises(ValueError, match="device is cuda, but PyTorch finds no GPU here"):
        placed(device="cuda")


def test_a_gpu_computes_plain_weights_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for quantize in ("auto", "none"):
        found = placed(device="cuda", quantize=quantize, dtype="float16")
        assert (found.device, found.scheme) == ("cuda", None)
        assert found.weight_scheme({}).name == "float16"
    with pytest.raises(ValueError, match="quantize is int8, which runs on a CPU only"):
        placed(device="cuda", quantize="int8")
    assert placed(quantize="int8", device="cpu").scheme is SCHEMES["int8"]


def test_none_means_plain_weights_on_a_cpu() -> None:
    assert placed(device="cpu", dtype="float32", quantize="none").weight_scheme({}).name == "float32"


def test_auto_is_the_cpu_until_gpus_are_tested(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with caplog.at_level("INFO"):
        assert placed(device="auto").device == "cpu"
    assert "--device cuda takes the GPU" in caplog.text


@pytest.mark.parametrize(("quotas", "expected"), [([], 4), ([1.0], 1), ([3.0, 2.5], 2), ([0.5], 1), ([8.0], 4)])
def test_threads_follow_affinity_and_quotas(
    monkeypatch: pytest.MonkeyPatch, quotas: list[float], expected: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(device, "cpu_quotas", lambda: quotas)
    assert device.usable_cpus() == expected
