"""The `routelm` command."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model import kernels
from server.cli import app
from server.startup.listeners import bind_unix
from tests.server.applications import Server, listening, listening_on, make_server

COMMANDS = [
    "serve", "chat", "generate", "inspect", "quantize", "train", "train-tokenizer", "prepare", "average", "evaluate",
    "compare", "version",
]  # fmt: skip


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()


def test_help_names_every_command(runner: CliRunner) -> None:
    output = runner.invoke(app, ["--help"]).output
    assert all(command in output for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(runner: CliRunner, command: str) -> None:
    result = runner.invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert command in result.output


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys; from server.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'fastapi', 'pydantic', 'tokenizers', 'httpx') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"


def test_a_start_imports_nothing_that_most_servers_do_not_need() -> None:
    needless = (
        "torch._dynamo",
        "torch._inductor",
        "sympy",
        "torch.distributed.fsdp",
        "transformers",
        "ray",
        "httpx",
        "huggingface_hub",
        "rich.console",
        "sqlite3",
        "numpy.testing",
        "model.training",
        "opentelemetry.sdk",
        "opentelemetry.exporter",
    )
    program = (
        "import sys; from server.commands.common.load_backend import load_backend\n"
        "from server.settings import Settings\n"
        "load_backend(Settings()); import server.startup.uvicorn_server, server.batches.directory\n"
        f"print([name for name in {needless} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1:] == ["[]"], result.stderr


def test_version(runner: CliRunner) -> None:
    lines = runner.invoke(app, ["version"]).output.splitlines()
    assert [line.split()[0] for line in lines] == ["routelm", "python", "torch", "kernels"]


@pytest.mark.parametrize(
    ("level", "machine", "name"),
    [
        ("avx2", "x86_64", "avx2"),
        ("generic", "x86_64", "generic (SSE2)"),
        ("generic", "aarch64", "generic (NEON)"),
        ("generic", "riscv64", "generic"),
        (None, "aarch64", "plain"),
    ],
)
def test_version_names_the_instructions_of_the_kernels(
    runner: CliRunner, level: str | None, machine: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "instruction_set", lambda: level)
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert f"kernels {name}\n" in runner.invoke(app, ["version"]).output


def test_version_is_an_option_too(runner: CliRunner) -> None:
    assert runner.invoke(app, ["--version"]).output == runner.invoke(app, ["version"]).output


def test_a_wrong_setting_is_explained(runner: CliRunner) -> None:
    result = runner.invoke(app, ["serve", "--port", "99999", "--cache-bytes", "lots"])
    assert result.exit_code == 2
    assert "--port (ROUTELM_PORT)" in result.output
    assert "'lots' is not a size" in result.output


def test_generate_prints_what_comes(runner: CliRunner, server: Server, url: str) -> None:
    server.answer_with(" upon 一次")
    result = runner.invoke(app, ["generate", "once", "--url", url, "--max-tokens", "50"])
    assert result.output == " upon 一次\n"
    result = runner.invoke(app, ["generate", "-", "--url", url], input="from standard input")
    assert result.exit_code == 0
    assert server.tokenizer.decode(server.engine.submitted[-1].prompt_token_ids) == "from standard input"


def test_refusals_are_told(runner: CliRunner, server: Server, url: str) -> None:
    result = runner.invoke(app, ["generate", "x" * 1000, "--url", url])
    assert result.exit_code == 1
    assert "1001 tokens" in result.output


def test_without_a_server_it_says_how_to_start_one(runner: CliRunner) -> None:
    result = runner.invoke(app, ["generate", "x", "--url", "http://127.0.0.1:9"])
    assert result.exit_code == 1
    assert "routelm serve" in result.output
    assert "--model bundled" in result.output


@pytest.mark.parametrize("form", ["{host}", "{host}/", "http://{host}/v1", "{host}/v1/"])
def test_an_address_may_be_written_as_for_other_clients(runner: CliRunner, server: Server, url: str, form: str) -> None:
    server.answer_with("hello")
    address = form.format(host=url.removeprefix("http://"))
    result = runner.invoke(app, ["generate", "once", "--url", address])
    assert result.output == "hello\n"


def test_a_server_with_a_key_is_asked_with_it(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    server = make_server(api_key="clé-à")
    server.answer_with("hello")
    with listening(server) as url:
        refused = runner.invoke(app, ["generate", "once", "--url", url])
        assert refused.exit_code == 1
        assert "set ROUTELM_API_KEY" in refused.output
        monkeypatch.setenv("ROUTELM_API_KEY", "clé-à")
        assert runner.invoke(app, ["generate", "once", "--url", url]).output == "hello\n"


def test_a_unix_socket_is_asked(runner: CliRunner, tmp_path: Path) -> None:
    server = make_server()
    server.answer_with("hello")
    with listening_on(server, bind_unix(tmp_path / "socket")) as url:
        assert runner.invoke(app, ["generate", "once", "--url", url]).output == "hello\n"


def test_chat_has_line_editing(runner: CliRunner, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`input` uses readline once that is imported."""
    pytest.importorskip("readline")
    monkeypatch.delitem(sys.modules, "readline")
    assert runner.invoke(app, ["chat", "--url", url], input="/quit\n").exit_code == 0
    assert "readline" in sys.modules


def test_a_directory_without_a_model_is_explained(runner: CliRunner, tmp_path: Path) -> None:
    result = runner.invoke(app, ["generate", "x", "--model", str(tmp_path)])
    assert result.exit_code == 2
    assert "config.json" in result.output


def test_a_conversation_remembers_its_turns(runner: CliRunner, server: Server, url: str) -> None:
    server.answer_with("hello")
    lines = "/system be kind\nfirst\nsecond\n/reset\nthird\n/what\n/quit\n"
    result = runner.invoke(app, ["chat", "--url", url], input=lines)
    assert result.exit_code == 0, result.output
    assert result.output.count("hello") == 3
    prompts = [
        server.tokenizer.decode(request.prompt_token_ids, skip_special=False) for request in server.engine.submitted
    ]
    assert "first" in prompts[1]
    assert "hello" in prompts[1]
    assert "second" in prompts[1]
    assert all("be kind" in prompt for prompt in prompts)
    assert "first" not in prompts[2]


def test_a_turn_that_fails_is_told_and_forgotten(runner: CliRunner, server: Server, url: str) -> None:
    server.answer_with("hello")
    result = runner.invoke(app, ["chat", "--url", url], input="x" * 1000 + "\nshort\n")
    assert "maximum context length" in result.output
    assert "hello" in result.output
    assert result.exit_code == 0
