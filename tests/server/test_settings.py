"""Settings from the environment and from options."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from server.settings import Settings, parse_size


def settings(**given: Any) -> Settings:
    return Settings(**given)


@pytest.mark.parametrize(
    ("text", "size"),
    [("1GiB", 2**30), ("512 MiB", 2**29), ("1.5kb", 1500), ("1048576", 2**20), ("2gb", 2 * 10**9), ("7B", 7)],
)
def test_sizes_have_units(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert settings(cache_bytes=text).cache_bytes == size


@pytest.mark.parametrize("text", ["", "lots", "1 XB", "-1MiB", "0", "1e9"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        settings(max_body_bytes=text)


def test_the_environment_sets_and_options_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTELM_PORT", "9000")
    monkeypatch.setenv("ROUTELM_CORS_ORIGINS", "https://a.example, https://b.example")
    monkeypatch.setenv("ROUTELM_API_KEY", "")
    assert Settings().port == 9000
    assert Settings(port=9001).port == 9001
    assert Settings().cors_origins == ["https://a.example", "https://b.example"]
    assert Settings().api_key is None


def test_the_defaults_are_safe() -> None:
    defaults = Settings()
    assert defaults.host == "127.0.0.1"
    assert defaults.cors_origins == ["localhost"]
    assert not defaults.metrics_public
    assert not defaults.log_requests
    assert defaults.max_queue < 10_000


@pytest.mark.parametrize("written", ["sesame\n", " sesame ", "sesame"])
def test_spaces_and_line_ends_are_no_part_of_the_key(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    """A secret that was made of a file ends with a line end, and a client's header cannot carry one."""
    monkeypatch.setenv("ROUTELM_API_KEY", written)
    key = Settings().api_key
    assert key is not None
    assert key.get_secret_value() == "sesame"


def test_the_key_is_not_shown() -> None:
    assert "hunter2" not in repr(settings(api_key="hunter2"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("port", 70000), ("max_num_seqs", 0), ("dtype", "int3"), ("drain_grace", -1), ("api_key", ""), ("api_key", " ")],
)
def test_values_out_of_range_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        settings(**{name: value})


@pytest.mark.parametrize("name", ["model", "uds", "api_key_file", "keys_file", "batch_dir"])
def test_an_empty_path_is_not_the_current_directory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match=name):
        settings(**{name: ""})
    monkeypatch.setenv(f"ROUTELM_{name.upper()}", "")
    assert getattr(Settings(), name) == Settings.model_fields[name].default


def test_the_key_can_be_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("clé\n", encoding="utf-8")
    key = settings(api_key_file=path).api_key
    assert key is not None
    assert key.get_secret_value() == "clé"


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_a_file_without_a_key_leaves_no_server_open(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValidationError, match=f"api_key_file .*{path.name} (is empty|cannot be read)"):
        settings(api_key_file=path)


def test_one_key_is_enough(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="api_key and api_key_file are both set"):
        settings(api_key_file=tmp_path, api_key="x")


def test_adapters_have_names(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"german": Path("/a"), "legal": Path("b=c")}
    assert Settings(lora="german=/a, legal=b=c").lora == Settings(lora=["german=/a", "legal=b=c"]).lora == both
    monkeypatch.setenv("ROUTELM_LORA", "german=/a,legal=b=c")
    assert Settings().lora == both


@pytest.mark.parametrize("given", ["/a", "=/a", "german=", "german=/a,german=/b", f"{'x' * 257}=/a"])
def test_adapters_without_a_name_of_their_own_are_refused(given: str) -> None:
    with pytest.raises(ValueError, match="write name=path"):
        Settings(lora=given)
