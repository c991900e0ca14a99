"""Settings from the environment and from options."""

import pytest
from pydantic import ValidationError

from server.settings import Settings, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("1GiB", 2**30), ("512 MiB", 2**29), ("1.5kb", 1500), ("1048576", 2**20), ("2gb", 2 * 10**9), ("7B", 7)],
)
def test_sizes_have_units(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert Settings(cache_bytes=text).cache_bytes == size


@pytest.mark.parametrize("text", ["", "lots", "1 XB", "-1MiB", "0", "1e9"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        Settings(max_body_bytes=text)


def test_the_environment_sets_and_options_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTELM_PORT", "9000")
    monkeypatch.setenv("ROUTELM_CORS_ORIGINS", "https://a.example, https://b.example")
    monkeypatch.setenv("ROUTELM_API_KEY", "")
    assert Settings().port == 9000
    assert Settings(port=9001).port == 9001
    assert Settings().cors_origins == ["https://a.example", "https://b.example"]
    assert Settings().api_key is None


def test_the_defaults_are_safe() -> None:
    settings = Settings()
    assert settings.host == "127.0.0.1"
    assert settings.cors_origins == []
    assert not settings.metrics_public
    assert not settings.log_requests
    assert settings.max_queue < 10_000


def test_the_key_is_not_shown() -> None:
    assert "hunter2" not in repr(Settings(api_key="hunter2"))


@pytest.mark.parametrize(
    ("name", "value"), [("port", 70000), ("max_num_seqs", 0), ("dtype", "int3"), ("drain_grace", -1), ("api_key", "")]
)
def test_values_out_of_range_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        Settings(**{name: value})
