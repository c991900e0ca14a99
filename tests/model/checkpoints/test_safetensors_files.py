"""Checkpoints: what is saved loads again; what is broken is named, before anything is read."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.checkpoints.rules import Concat, Rule, Same
from model.checkpoints.safetensors_files import (
    CheckpointError,
    check_headers,
    choose_layout,
    open_checkpoint,
    read_config,
    save_tensors,
    save_weights,
    shards,
)
from model.checkpoints.tensor_readers import FiniteCheckReader, ProgressReader, ReadOnceReader
from tests.model.loading.plain_loading import load_weights

RULES = [
    Rule("weight", ("q", "k"), Concat((4, 2))),
    Rule("bias", ("b",), Same((6, 1), (6,))),
]


@pytest.fixture
def network() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 6)


@pytest.fixture
def directory(network: nn.Linear, tmp_path: Path) -> Path:
    """One file with q [4, 3], k [2, 3] and b [6, 1]."""
    save_weights(network, RULES, tmp_path)
    return tmp_path


def edit(directory: Path, name: str, tensor: Tensor | None) -> None:
    """Replace a tensor of the checkpoint, or take it out."""
    tensors = load_file(directory / "model.safetensors")
    tensors.pop(name, None)
    save_file(tensors if tensor is None else tensors | {name: tensor}, directory / "model.safetensors")


def in_shards(directory: Path) -> list[Path]:
    """The same checkpoint with a file and an index entry per tensor."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    paths = [
        directory / f"model-0000{number}-of-0000{len(tensors)}.safetensors" for number in range(1, len(tensors) + 1)
    ]
    for path, (name, tensor) in zip(paths, tensors.items(), strict=True):
        save_file({name: tensor}, path)
    weight_map = {name: path.name for path, name in zip(paths, tensors, strict=True)}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return paths


def check(directory: Path, network: nn.Module, ignored: tuple[str, ...] = ()) -> None:
    check_headers(open_checkpoint(directory), RULES, dict(network.named_parameters()), ignored)


@pytest.mark.parametrize("sharded", [False, True])
def test_what_is_saved_loads_again(directory: Path, network: nn.Linear, sharded: bool) -> None:
    if sharded:
        in_shards(directory)
    again = nn.Linear(3, 6)
    load_weights(again, RULES, directory)
    assert torch.equal(again.weight, network.weight)
    assert torch.equal(again.bias, network.bias)


def test_headers_tell_without_reading(directory: Path) -> None:
    reader = open_checkpoint(directory)
    header = reader.header("q")
    assert (header.shape, header.dtype, header.stored_bytes) == ((4, 3), torch.float32, 48)
    assert set(reader.names()) == {"q", "k", "b"}


def test_other_types_are_converted(directory: Path, network: nn.Linear) -> None:
    edit(directory, "q", network.weight[:4].half())
    again = nn.Linear(3, 6)
    load_weights(again, RULES, directory)
    torch.testing.assert_close(again.weight, network.weight, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("k", None, "tensor k is missing"),
        ("k", torch.zeros(3, 3), r"tensor k has shape \(3, 3\) where the config asks for \(2, 3\)"),
        ("b", torch.zeros(6), r"tensor b has shape \(6,\) where the config asks for \(6, 1\)"),
        ("k", torch.zeros(2, 3, dtype=torch.int64), "tensor k has type int64 where weights are expected"),
        ("k", torch.zeros(2, 3).to(torch.float8_e4m3fn), "tensor k has type float8_e4m3fn where weights"),
        ("model.extra", torch.zeros(1), "a tensor that this model does not: model.extra"),
    ],
)
def test_a_broken_tensor_is_named(
    directory: Path, network: nn.Linear, name: str, tensor: Tensor | None, message: str
) -> None:
    check(directory, network)
    edit(directory, name, tensor)
    with pytest.raises(CheckpointError, match=message):
        check(directory, network)


def test_nothing_is_half_loaded(directory: Path, network: nn.Linear) -> None:
    """The first rule's tensors are fine; they are not copied, because the second's are not."""
    edit(directory, "b", torch.zeros(7, 1))
    before = network.weight.clone()
    network.weight.data.mul_(2)
    with pytest.raises(CheckpointError, match="tensor b"):
        load_weights(network, RULES, directory)
    assert torch.equal(network.weight, 2 * before)


def test_some_tensors_may_be_there_unasked(directory: Path, network: nn.Linear) -> None:
    edit(directory, "mtp.weight", torch.zeros(1))
    edit(directory, "layers.0.rotary_emb.inv_freq", torch.zeros(1))
    check(directory, network, ignored=("mtp.",))
    with pytest.raises(CheckpointError, match="mtp"):
        check(directory, network, ignored=("other.",))


@pytest.mark.parametrize("size", [0, 4, 20, -1])
def test_a_truncated_shard_is_named(directory: Path, size: int) -> None:
    path = in_shards(directory)[1]
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors cannot be read as safetensors"):
        open_checkpoint(directory)


def test_of_a_single_file_beside_an_index_the_former_is_read(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = (directory / "model.safetensors").read_bytes()
    in_shards(directory)
    (directory / "model.safetensors").write_bytes(content)
    assert [path.name for path in shards(directory)] == ["model.safetensors"]
    assert "are both there" in caplog.text


def test_a_missing_shard_is_named(directory: Path) -> None:
    in_shards(directory)[2].unlink()
    with pytest.raises(CheckpointError, match=r"model-00003-of-00003.* is named in .*index\.json but missing"):
        open_checkpoint(directory)


def test_an_index_names_no_file_elsewhere(directory: Path) -> None:
    in_shards(directory)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"q": "../q.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"\.\./q\.safetensors.*outside"):
        open_checkpoint(directory)


def test_a_tensor_in_two_files_is_named(directory: Path) -> None:
    paths = in_shards(directory)
    save_file(load_file(paths[0]) | load_file(paths[1]), paths[1])
    with pytest.raises(CheckpointError, match=r"tensor \w is both in model-00001.* and in model-00002"):
        open_checkpoint(directory)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth"])
def test_other_formats_are_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(CheckpointError, match=f"holds {name} but no .safetensors file"):
        open_checkpoint(tmp_path)


def test_an_empty_directory_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no \.safetensors file"):
        open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        read_config(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff"])
def test_a_broken_config_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"config\.json cannot be read"):
        read_config(tmp_path)


def test_the_layout_that_is_there_is_chosen(directory: Path) -> None:
    other = [Rule("weight", ("qk",)), Rule("bias", ("b",))]
    reader = open_checkpoint(directory)
    assert choose_layout(reader, [other, RULES]) is RULES
    assert choose_layout(reader, [other]) is other


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_found(directory: Path, value: float) -> None:
    reader = FiniteCheckReader(open_checkpoint(directory))
    assert all(reader.get(name).isfinite().all() for name in reader.names())
    edit(directory, "k", torch.tensor([[0, 1, value], [2, 3, -4]]))
    with pytest.raises(CheckpointError, match="tensor k holds NaN or infinite"):
        FiniteCheckReader(open_checkpoint(directory)).get("k")


def test_what_rules_share_is_read_once(directory: Path) -> None:
    """Two parameters are made of q; the reader below it is asked once."""
    rules = [Rule("first", ("q", "k")), Rule("second", ("q",))]
    told: list[tuple[int, int]] = []
    reader = ReadOnceReader(
        ProgressReader(open_checkpoint(directory), {"q", "k"}, lambda *told_: told.append(told_)), rules
    )
    tensors = [reader.get(name) for rule in rules for name in rule.sources]
    assert torch.equal(tensors[0], tensors[2])
    assert told == [(48, 72), (72, 72)]


def test_parts_of_a_shared_tensor_are_put_together(tmp_path: Path) -> None:
    """Each rule gives its rows and zeros for the others."""

    class Half:
        def __init__(self, row: int) -> None:
            self.row = row

        def join(self, tensors: object) -> Tensor:
            raise NotImplementedError

        def split(self, tensor: Tensor) -> list[Tensor]:
            whole = torch.zeros(2, 3)
            whole[self.row] = tensor
            return [whole]

    network = nn.ParameterDict({"a": torch.ones(3), "b": torch.full((3,), 2.0)})
    save_weights(network, [Rule("a", ("ab",), Half(0)), Rule("b", ("ab",), Half(1))], tmp_path)
    assert load_file(tmp_path / "model.safetensors")["ab"].tolist() == [[1, 1, 1], [2, 2, 2]]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """As on a full disk. What `safetensors` raises is no OSError, which the commands say in one line."""
    path = tmp_path / "missing" / "model.safetensors"
    with pytest.raises(OSError, match=r"model\.safetensors was not written: .*No such file"):
        save_tensors({"weight": torch.ones(2)}, path)


def test_quantization_may_be_told_in_a_file_of_its_own(tmp_path: Path) -> None:
    """As NVIDIA's exports do. What config.json says comes first."""
    exported = tmp_path / "hf_quant_config.json"
    exported.write_text('{"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "group_size": 16}}')
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    settings = {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}
    assert read_config(tmp_path) == {"model_type": "llama", "quantization_config": settings}
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "fp8"}}')
    assert read_config(tmp_path)["quantization_config"] == {"quant_method": "fp8"}
    (tmp_path / "config.json").write_text('{"text_config": {"quantization_config": {"quant_method": "fp8"}}}')
    assert "quantization_config" not in read_config(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    for not_quantized in ("{}", '{"quantization": null}', '{"quantization": {"quant_algo": null}}'):
        exported.write_text(not_quantized)
        assert read_config(tmp_path) == {}
    exported.write_text('{"quantization": "NVFP4"}')
    with pytest.raises(CheckpointError, match=r"quantization is 'NVFP4' in .*hf_quant_config\.json: an object"):
        read_config(tmp_path)
