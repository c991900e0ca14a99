"""From settings to a backend: what is served, and that what is broken ends in one line before anything runs."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from model.checkpoints.hub import BUNDLED
from model.generate import generate
from model.loading.load import load_network
from model.network import CausalLM
from model.text.tokenizer import Tokenizer
from server.cli import app
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.settings import LONGEST_WAIT, Settings
from server.startup import backend
from server.startup.backend import engine_config, prepare_backend
from tests.server.engine.tiny import request, run, tiny_config, tiny_network


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the bundled model, to be broken."""
    return Path(shutil.copytree(BUNDLED, tmp_path / "mine"))


def settings(**given: Any) -> Settings:
    return Settings(threads=1, cache_bytes=2**28, **given)


def edit_config(checkpoint: Path, **changes: Any) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | changes))


def edit_tensor(checkpoint: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"model.norm.weight": change(tensors["model.norm.weight"])}, path)


def truncate(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def lose_a_shard(checkpoint: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    (checkpoint / "model.safetensors").rename(checkpoint / "model-00001-of-00002.safetensors")


def pickle_only(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated shard": (truncate, "model.safetensors cannot be read as safetensors"),
    "missing shard": (lose_a_shard, "model-00002-of-00002.safetensors is named in model.safetensors.index.json but"),
    "missing tokenizer": (lambda path: (path / "tokenizer.json").unlink(), "has no tokenizer.json"),
    "broken tokenizer": (lambda path: (path / "tokenizer.json").write_text("{}"), "tokenizer.json cannot be read"),
    "wrong type": (
        lambda path: edit_tensor(path, lambda weight: weight.long()),
        "tensor model.norm.weight has type int64",
    ),
    "wrong shape": (
        lambda path: edit_tensor(path, lambda weight: weight[:-1].clone()),
        "tensor model.norm.weight has shape (255,) where the config asks for (256,)",
    ),
    "NaN": (
        lambda path: edit_tensor(path, lambda weight: weight * torch.nan),
        "tensor model.norm.weight holds NaN or infinite weights",
    ),
    "unknown rope type": (
        lambda path: edit_config(path, rope_parameters={"rope_type": "spiral", "rope_theta": 1e4}),
        "rope type 'spiral' is not known",
    ),
    "unknown family": (lambda path: edit_config(path, model_type="mamba3"), "model_type 'mamba3' is not supported"),
    "incomplete config": (
        lambda path: (path / "config.json").write_text('{"model_type": "qwen3_next"}'),
        "config.json has no '",
    ),
    "no config": (lambda path: (path / "config.json").unlink(), "has no config.json"),
    "pickle": (pickle_only, "holds pytorch_model.bin but no .safetensors file"),
    "no such directory": (shutil.rmtree, "there is no directory"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_broken_ends_in_one_line(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    break_it, message = BROKEN[kind]
    break_it(checkpoint)
    monkeypatch.setattr("server.commands.serve.configure_logging", lambda *_, **__: None)  # it is for whole processes
    result = CliRunner().invoke(app, ["serve", "--model", str(checkpoint), "--check-weights", "--port", "0"])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert message in result.stderr
    assert result.stdout == ""


@pytest.mark.slow
def test_the_process_ends_without_a_traceback(checkpoint: Path) -> None:
    truncate(checkpoint)
    command = [sys.executable, "-m", "server", "serve", "--model", str(checkpoint), "--port", "0"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("model.safetensors cannot be read as safetensors")
    assert result.stderr.count("\n") == 1


def test_the_unbroken_copy_can_be_served(checkpoint: Path) -> None:
    """Negative control of the above."""
    assert callable(prepare_backend(settings(model=str(checkpoint), check_weights=True)))


def test_weights_are_looked_at_only_when_asked(checkpoint: Path) -> None:
    edit_tensor(checkpoint, lambda weight: weight * torch.nan)
    assert callable(prepare_backend(settings(model=str(checkpoint))))


@pytest.mark.parametrize("quantize", ["auto", "none", "int8", "int4"])
def test_every_way_to_keep_weights_is_served(quantize: str) -> None:
    assert callable(prepare_backend(settings(quantize=quantize)))


def test_float16_is_served() -> None:
    """Through the engine, to the tokens of the plain decoder."""
    network = load_network(BUNDLED, torch.float16)
    prompts = [[100, 200, 300], [400, 500, 600, 700]]
    engine = Engine(network, EngineConfig(max_model_len=128, cache_bytes=2**26))
    results = run(engine, [request(str(index), prompt, 12) for index, prompt in enumerate(prompts)])
    assert [list(results[str(index)].token_ids) for index in range(2)] == [generate(network, p, 12) for p in prompts]


def test_progress_is_told(checkpoint: Path) -> None:
    told: list[tuple[int, int]] = []
    prepare_backend(settings(), lambda read, total: told.append((read, total)))
    assert told[-1][0] == told[-1][1]


def test_weights_that_do_not_fit_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "available_memory", lambda: 30 * 2**20)
    monkeypatch.setattr(backend, "load_network", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(ValueError, match=r"take \d+\.\d MiB, but 30\.0 MiB .* free: `routelm inspect` shows what fits"):
        prepare_backend(settings(quantize="none", dtype="bfloat16"))


def test_a_gpu_that_is_not_there_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.commands.serve.configure_logging", lambda *_, **__: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = CliRunner().invoke(app, ["serve", "--device", "cuda", "--port", "0"])
    assert result.exit_code == 2
    assert result.stderr == (
        "device is cuda, but PyTorch finds no GPU here: choose --device cpu, or install a PyTorch that is built "
        "for CUDA and the GPU's driver\n"
    )


def test_quantized_weights_are_for_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match=r"quantize is int8, .*but the device is cuda"):
        prepare_backend(settings(quantize="int8", device="cuda"))


def test_the_end_tokens_of_all_files_end_an_answer(checkpoint: Path) -> None:
    edit_config(checkpoint, eos_token_id=[2, 5])
    config = engine_config(settings(), tiny_network(), Tokenizer.load(checkpoint))
    assert config.eos_token_ids == {0, 2, 5}


def test_the_prefix_cache_can_be_turned_off(checkpoint: Path) -> None:
    tokenizer = Tokenizer.load(checkpoint)
    assert engine_config(settings(), tiny_network(), tokenizer).prefix_caching
    assert not engine_config(settings(prefix_caching=False), tiny_network(), tokenizer).prefix_caching


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "routelm"),
        ({"served_model_name": "other"}, "other"),
        ({"model": "org/name", "revision": "v2"}, "org/name"),
        ({"model": "<checkpoint>"}, "mine"),
        ({"model": "<checkpoint>/"}, "mine"),
    ],
)
def test_the_name_in_the_api(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: str
) -> None:
    def snapshot_download(repo_id: str, *, revision: str, **_: object) -> str:
        assert (repo_id, revision) == ("org/name", "v2")
        return str(checkpoint)

    seen: list[str] = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr(backend, "AsyncLLM", lambda engine, speed: SimpleNamespace(stats=None))
    monkeypatch.setattr(backend, "Metrics", lambda model_id, stats, cache_config: seen.append(model_id))
    if "model" in given:
        given = given | {"model": given["model"].replace("<checkpoint>", str(checkpoint))}
    prepare_backend(settings(**given))()
    assert seen == [expected]


# How long a sequence may be


@pytest.fixture(scope="module")
def long_network() -> CausalLM:
    return tiny_network(tiny_config(max_positions=100_000))


def config_for(network: CausalLM, cache_bytes: int, **given: Any) -> EngineConfig:
    chosen = Settings(cache_bytes=cache_bytes, max_num_seqs=4, **given)
    return engine_config(chosen, network, Tokenizer.load(BUNDLED))


def test_the_context_is_the_models_own_where_it_fits(long_network: CausalLM, caplog: pytest.LogCaptureFixture) -> None:
    assert config_for(long_network, 2**30).max_model_len == 100_000
    assert not caplog.records


def test_the_context_shrinks_to_what_the_cache_holds_and_says_so(
    long_network: CausalLM, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_for(long_network, 2**21)
    assert 0 < config.max_model_len < 100_000
    assert f"the cache of 2.0 MiB holds {config.max_model_len}: longer requests are refused" in caplog.text
    layout = Engine(long_network, config).layout
    assert layout.num_snapshots > 0, "a long request must not cost everybody the reuse of prefixes"


def test_a_context_that_is_given_is_kept_and_refused_by_the_engine(long_network: CausalLM) -> None:
    config = config_for(long_network, 2**21, max_model_len=90_000)
    assert config.max_model_len == 90_000
    with pytest.raises(ValueError, match="raise cache_bytes"):
        Engine(long_network, config)


def threads() -> int:
    return sum(1 for _ in Path("/proc/self/task").iterdir())


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads where Linux lists them")
def test_loading_leaves_no_threads_behind() -> None:
    def work() -> int:
        torch.set_num_threads(3)
        torch.ones(1 << 22).exp()  # in parallel
        return threads()

    def threads_after() -> int:
        """How many are left; those of a pool take a moment to end."""
        deadline = time.monotonic() + 10
        while threads() >= during and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        return threads()

    count = torch.get_num_threads()
    during = backend._in_short_lived_thread(work)  # the first parallel loop of a process starts threads that stay
    before = threads_after()
    assert backend._in_short_lived_thread(work) >= before + 2  # without them there would be nothing to leave behind
    torch.set_num_threads(count)
    assert threads_after() <= before


def test_what_goes_wrong_while_loading_is_told() -> None:
    with pytest.raises(ZeroDivisionError):
        backend._in_short_lived_thread(lambda: 1 // 0)


def test_a_chat_template_that_cannot_be_used_is_told_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = Tokenizer.load(BUNDLED)
    assert backend._chat_template(tmp_path, tokenizer) is None
    assert not caplog.text
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}")
    template = backend._chat_template(tmp_path, tokenizer)
    assert "chat is not available: the chat template of the model is not valid" in caplog.text
    assert template is not None
    with pytest.raises(ValueError, match="is not valid"):
        template.render_ids([{"role": "user", "content": "hi"}], tokenizer)


@pytest.mark.parametrize("measure", [True, False])
def test_the_speed_is_measured_unless_it_is_of_no_use(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, *, measure: bool
) -> None:
    """However long requests may wait: a queue that is full of requests tells a Retry-After, too."""
    calls: list[object] = []
    monkeypatch.setattr(backend, "measure_speed", lambda *given: calls.append(given))
    prepare_backend(settings(model=str(checkpoint), max_queue_wait=LONGEST_WAIT), measure=measure)
    assert len(calls) == measure
