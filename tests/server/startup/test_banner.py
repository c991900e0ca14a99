"""The line at the start: an operator's only sign of what computes and who may ask."""

import logging
from typing import Any

import pytest

from model import kernels
from server.engine.config import EngineConfig
from server.settings import Settings
from server.startup.backend import prepare_backend
from server.startup.banner import banner


def line(device: str = "cpu", **given: Any) -> str:
    return banner(Settings(**given), "mine", EngineConfig(4096, cache_bytes=3 * 2**29), "int8", device)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "instruction_set", lambda: "avx2")


@pytest.mark.usefixtures("built")
def test_it_says_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    assert line(api_key="secret") == (
        "serving mine: int8 on cpu, 2 threads, kernels avx2, context 4096 tokens, cache 1.50 GiB, API key: required"
    )


def test_the_start_line_names_the_vectors_of_the_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "instruction_set", lambda: "generic")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert ", kernels generic (NEON), " in line()


def test_an_open_server_says_to_whom() -> None:
    assert line(keys_file="keys.toml").endswith("API key: required")
    assert line(host="0.0.0.0").endswith("API key: none, open to whoever reaches 0.0.0.0")
    assert line(uds="/run/routelm").endswith("API key: none, open to whoever reaches /run/routelm")


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float32"])
def test_compiled_kernels_keep_the_promise(dtype: str) -> None:
    """Negative control of those below."""
    assert "may depend" not in line(dtype=dtype)


def test_plain_kernels_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "instruction_set", lambda: None)
    assert "plain kernels (slower, and answers may depend on what else is in the batch)" in line()


@pytest.mark.usefixtures("built")
def test_float16_and_other_devices_do_not_promise_equal_answers() -> None:
    assert "kernels avx2 for products, else plain ones (answers may depend on" in line(dtype="float16")
    assert "plain kernels (answers may depend on what else is in the batch)" in line(device="cuda")


@pytest.mark.parametrize(
    ("given", "weight_scheme"), [({"quantize": "int4"}, "int4"), ({"quantize": "none", "dtype": "float32"}, "float32")]
)
def test_loading_ends_with_it(given: dict[str, Any], weight_scheme: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        prepare_backend(Settings(threads=1, cache_bytes=2**28, **given))
    assert caplog.messages[-1].startswith(f"serving routelm: {weight_scheme} on cpu, 1 thread, ")
    assert "context 4096 tokens, cache 256.0 MiB" in caplog.messages[-1]
