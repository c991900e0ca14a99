"""`routelm serve`: its options are the settings."""

import gc
from typing import Any

import pytest
from typer.core import TyperCommand
from typer.testing import CliRunner

from server.cli import app
from server.commands.serve import garbage_collection_paused, serve, with_setting_options
from server.settings import Settings


@pytest.fixture
def command() -> TyperCommand:
    return with_setting_options(serve)


@pytest.fixture
def given() -> dict[str, Any]:
    return {}


def call(given: dict[str, Any], *arguments: str) -> dict[str, Any]:
    """What a command with these options passes on."""
    with_setting_options(given.update).main(list(arguments), standalone_mode=False)
    return {name: value for name, value in given.items() if value is not None}


def test_there_is_an_option_for_every_setting_but_the_key(command: TyperCommand) -> None:
    shown = {parameter.name for parameter in command.params if not parameter.hidden}  # type: ignore[attr-defined]
    assert shown == set(Settings.model_fields) - {"api_key"} | {"positional_model"}


def test_the_model_may_be_given_without_its_option(given: dict[str, Any]) -> None:
    """As vLLM's command takes it."""
    assert call(given, "org/name", "--port", "9000") == {"model": "org/name", "port": 9000}


def test_one_model_is_served() -> None:
    result = CliRunner().invoke(app, ["serve", "org/name", "--model", "bundled"])
    assert result.exit_code == 2
    assert result.output == "MODEL and --model are the same: give one of them\n"


def test_a_key_on_the_command_line_is_refused_with_a_better_way() -> None:
    result = CliRunner().invoke(app, ["serve", "--api-key", "secret"])
    assert result.exit_code == 2
    assert "ROUTELM_API_KEY" in result.output
    assert "--api-key-file" in result.output
    assert result.output.count("\n") == 1


def test_the_help_shows_the_defaults(command: TyperCommand) -> None:
    text = {parameter.name: parameter.help for parameter in command.params if parameter.name != "api_key"}  # type: ignore[attr-defined]
    for name in ("host", "port", "model", "max_num_seqs", "max_num_batched_tokens", "max_queue", "dtype", "log_level"):
        assert text[name].endswith(f"[{Settings.model_fields[name].default}]")
    assert text["max_body_bytes"].endswith("[2MiB]")
    assert text["drain_grace"].endswith("[30]")
    assert text["cors_origins"].endswith("[localhost]")
    assert text["seed"].endswith("[random]")
    assert not [name for name, help in text.items() if "[None]" in help or "[]" in help or not help]


def test_what_is_not_given_is_left_to_the_environment(given: dict[str, Any]) -> None:
    assert call(given) == {}


def test_numbers_flags_and_sizes_become_settings(given: dict[str, Any]) -> None:
    arguments = ["--port", "9000", "--drain-grace", "1.5", "--cache-bytes", "1GiB", "--max-body-bytes", "3MiB"]
    found = Settings(**call(given, *arguments, "--log-requests", "--cors-origins", "http://a, http://b"))
    assert (found.port, found.drain_grace, found.cache_bytes, found.max_body_bytes) == (9000, 1.5, 2**30, 3 * 2**20)
    assert found.log_requests
    assert found.cors_origins == ["http://a", "http://b"]


def test_a_key_file_that_is_missing_is_told_in_one_line() -> None:
    result = CliRunner().invoke(app, ["serve", "--api-key-file", "/nowhere/key"])
    assert result.exit_code == 2
    assert result.output.startswith("api_key_file /nowhere/key cannot be read: ")
    assert result.output.count("\n") == 1


def test_the_help_is_shown_without_a_model() -> None:
    result = CliRunner().invoke(app, ["serve", "--help"])
    assert result.exit_code == 0
    assert "ROUTELM_API_KEY" in result.output
    assert "--max-num-seqs" in result.output


def test_objects_of_the_start_are_never_collected_again() -> None:
    enabled, frozen = gc.isenabled(), gc.get_freeze_count()
    try:
        with garbage_collection_paused():
            assert not gc.isenabled()
            kept = [[number] for number in range(1000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() >= frozen + len(kept)
    finally:
        gc.unfreeze()
        (gc.enable if enabled else gc.disable)()
