"""Where a network computes: what is there, and what can be done there."""

from pathlib import Path

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


@pytest.mark.parametrize(
    ("files", "membership", "expected"),
    [
        ({"cpu.max": "100000 100000"}, "0::/\n", 1),
        ({"cpu.max": "max 100000"}, "0::/\n", 4),
        ({"pod/cpu.max": "max 100000", "cpu.max": "250000 100000"}, "0::/pod\n", 2),  # the group around it counts
        ({"pod/cpu.max": "50000 100000"}, "0::/pod\n", 1),  # less than one processor
        ({"cpu/box/cpu.cfs_quota_us": "200000", "cpu/box/cpu.cfs_period_us": "100000"}, "3:cpu:/box\n0::/\n", 2),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "3:cpu:/\n", 4),
        ({}, "0::/\n", 4),
        ({"cpu.max": "no number"}, "0::/\n", 4),
    ],
)
def test_threads_follow_the_quota(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], membership: str, expected: int
) -> None:
    monkeypatch.setattr(device, "CGROUPS", tmp_path)
    monkeypatch.setattr(device, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    (tmp_path / "membership").write_text(membership)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert device.usable_cpus() == expected
