"""Checkpoints that `routelm quantize` writes: read back they are what quantizing on load gives, to the last bit."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.checkpoints.safetensors_files import CheckpointError, open_checkpoint, save_weights
from model.config import hybrid_config
from model.families import family_of, qwen3_next
from model.generate import generate
from model.loading import quantize_checkpoint as writer
from model.loading.load import describe, load_network
from model.loading.quantize_checkpoint import quantize_checkpoint
from model.network import CausalLM
from model.quantization import SCHEMES, Scheme, ours

HYBRID = qwen3_next.config_to_hf(
    hybrid_config(
        hidden_size=64, num_layers=4, num_heads=2, num_kv_heads=1, head_dim=32, num_experts=4, expert_width=32,
        shared_width=48, vocab_size=96,
    )
)  # fmt: skip
TIED = {
    "model_type": "llama", "vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "rms_norm_eps": 1e-6,
    "max_position_embeddings": 128, "tie_word_embeddings": True,
}  # fmt: skip
PROMPT = [1, 2, 3, 40, 50]


@pytest.fixture(params=SCHEMES.values(), ids=list(SCHEMES))
def scheme(request: pytest.FixtureRequest) -> Scheme:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=[HYBRID, TIED], ids=["hybrid", "tied"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A random network on disk, with a tokenizer beside it."""
    torch.manual_seed(0)
    directory = tmp_path / "source"
    family = family_of(request.param)
    network = CausalLM(family.config_from_hf(request.param))
    if network.config.tie_word_embeddings:
        network.tie_head()
    for parameter in network.parameters():
        parameter.data.normal_(std=0.3)
    save_weights(network, family.rules(network.config), directory)
    (directory / "config.json").write_text(json.dumps(request.param))
    (directory / "tokenizer.json").write_text("{}")
    return directory


def load_saved(directory: Path, dtype: torch.dtype = torch.bfloat16) -> CausalLM:
    model = describe(directory, dtype)
    assert ours.scheme_name(model.hf_config) is not None
    ours.load_weights(model.network, open_checkpoint(directory))
    return model.network.requires_grad_(False).eval()


def logits(network: CausalLM) -> Tensor:
    """Scores after the prompt."""
    found: list[Tensor] = []

    def remember(logits_V: Tensor, position: int) -> int:
        found.append(logits_V)
        return int(logits_V.argmax())

    generate(network, PROMPT, 8, choose=remember)
    return torch.stack(found)


def tensors_of(directory: Path) -> dict[str, Tensor]:
    return {name: t for path in directory.glob("*.safetensors") for name, t in load_file(path).items()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_saved_and_quantized_on_load_are_one_network(
    source: Path, scheme: Scheme, dtype: torch.dtype, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    quantize_checkpoint(source, target, scheme, dtype)
    on_load = load_network(source, dtype, scheme=scheme)
    assert torch.equal(logits(load_saved(target, dtype)), logits(on_load))


def test_it_is_smaller_and_says_what_it_is(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    quantize_checkpoint(source, target, SCHEMES["int4"])
    config = json.loads((target / "config.json").read_text())
    assert config["quantization_config"] == {"quant_method": "routelm", "version": 1, "scheme": "int4"}
    assert ours.scheme_name(config) == "int4"
    assert ours.scheme_name(json.loads((source / "config.json").read_text())) is None
    assert (target / "tokenizer.json").read_text() == "{}"
    before, after = (sum(t.nbytes for t in tensors_of(directory).values()) for directory in (source, target))
    assert after < before / 2
    assert not any(path.stat().st_mode & 0o044 != 0o044 for path in target.glob("*.safetensors"))


def test_one_changed_code_changes_the_network(source: Path, tmp_path: Path) -> None:
    """The negative control of equality."""
    target = tmp_path / "target"
    quantize_checkpoint(source, target, SCHEMES["int8"])
    expected = logits(load_saved(target))
    tensors = tensors_of(target)
    tensors["head.values"][:, 0] += 1
    save_file(tensors, target / "model-00001.safetensors")
    assert not torch.equal(logits(load_saved(target)), expected)


def test_many_files_are_one_checkpoint(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantize_checkpoint(source, tmp_path / "one", SCHEMES["int4"])
    monkeypatch.setattr(writer, "SHARD_BYTES", 4096)
    quantize_checkpoint(source, tmp_path / "many", SCHEMES["int4"])
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    assert torch.equal(logits(load_saved(tmp_path / "many")), logits(load_saved(tmp_path / "one")))


def test_no_file_is_empty(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SHARD_BYTES", 1)  # each tensor fills a file, so the last one is full at the end
    quantize_checkpoint(source, tmp_path / "many", SCHEMES["int8"])
    files = sorted((tmp_path / "many").glob("*.safetensors"))
    assert all(len(load_file(path)) == 1 for path in files)
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    assert {path.name for path in files} == set(index["weight_map"].values())


def test_another_head_of_a_tied_checkpoint_is_quantized(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, family = tmp_path / "source", family_of(TIED)
    network = CausalLM(family.config_from_hf({**TIED, "tie_word_embeddings": False}))
    for parameter in network.parameters():
        parameter.data.normal_(std=0.3)
    save_weights(network, family.rules(network.config), source)
    (source / "config.json").write_text(json.dumps(TIED))
    quantize_checkpoint(source, tmp_path / "target", SCHEMES["int8"])
    loaded = load_network(source, torch.bfloat16, scheme=SCHEMES["int8"])
    assert torch.equal(logits(load_saved(tmp_path / "target")), logits(loaded))


def test_progress_reaches_the_end(source: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    quantize_checkpoint(source, tmp_path / "target", SCHEMES["int8"], progress=lambda *numbers: told.append(numbers))
    assert told[-1][0] == told[-1][1] == sum(t.nbytes for t in tensors_of(source).values())


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape", "type", "scales", "version"])
def test_what_is_wrong_is_named(source: Path, tmp_path: Path, change: str) -> None:
    target = tmp_path / "target"
    quantize_checkpoint(source, target, SCHEMES["int4"])
    tensors, config = tensors_of(target), json.loads((target / "config.json").read_text())
    name = {
        "missing": "norm.weight",
        "unexpected": "extra",
        "shape": "head.values",
        "type": "head.values",
        "scales": "head.scales",
    }.get(change)
    if change in ("missing", "scales"):
        del tensors[str(name)]
    elif change == "unexpected":
        tensors["extra"] = torch.zeros(1)
    elif change == "shape":
        tensors["head.values"] = tensors["head.values"][:-1]
    elif change == "type":
        tensors["head.values"] = tensors["head.values"].float()
    else:
        config["quantization_config"]["version"] = 99
        (target / "config.json").write_text(json.dumps(config))
    save_file(tensors, target / "model-00001.safetensors")
    with pytest.raises(CheckpointError, match=name or "99"):
        load_saved(target)


def test_a_target_that_is_not_empty_is_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        quantize_checkpoint(source, tmp_path, SCHEMES["int4"])
    assert (tmp_path / "file").read_text() == "mine"


def test_what_is_quantized_is_not_quantized_again(source: Path, tmp_path: Path) -> None:
    quantize_checkpoint(source, tmp_path / "once", SCHEMES["int8"])
    with pytest.raises(CheckpointError, match="already"):
        quantize_checkpoint(tmp_path / "once", tmp_path / "twice", SCHEMES["int4"])


def test_a_broken_source_leaves_nothing_that_looks_whole(source: Path, tmp_path: Path) -> None:
    """config.json is written last."""
    tensors = tensors_of(source)
    tensors.pop("model.norm.weight")
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight"):
        quantize_checkpoint(source, tmp_path / "target", SCHEMES["int4"])
    assert not (tmp_path / "target" / "config.json").exists()
