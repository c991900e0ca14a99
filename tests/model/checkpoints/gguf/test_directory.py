"""A GGUF file as a directory: its files, split files, and the commands that read it."""

import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as GgmlType
from typer.testing import CliRunner

from model.checkpoints.gguf.directory import GgufDirectory
from model.checkpoints.gguf.file import StoredTensor
from model.checkpoints.reader import CheckpointError
from model.files import read_object
from model.kernels.matmul.packed import PackedWeights
from model.layers.frozen_linear import FrozenLinear
from model.loading.load import load_network
from model.loading.quantize_checkpoint import quantize_checkpoint
from model.network import CausalLM
from model.quantization import SCHEMES
from model.text.chat_template import ChatTemplate
from model.text.tokenizer import Tokenizer
from server.cli import app
from tests.model.batches import whole_batch
from tests.model.checkpoints.gguf.converter import write_gguf
from tests.model.checkpoints.gguf.test_file import HOSTILE
from tests.model.families.checkpoints import write_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama without a tokenizer."""
    directory = tmp_path_factory.mktemp("llama")
    write_checkpoint("llama", directory)
    return write_gguf(directory, directory / "tiny.gguf")


def split(source: Path, directory: Path, parts: int) -> list[Path]:
    """The tensors of a file in several, as llama.cpp's gguf-split writes them: the metadata is in the first."""
    reader = gguf.GGUFReader(source)
    paths = [directory / f"tiny-{part + 1:05}-of-{parts:05}.gguf" for part in range(parts)]
    for part, path in enumerate(paths):
        writer = gguf.GGUFWriter(path, "llama")
        for name, field in reader.fields.items() if part == 0 else ():
            if name.startswith("llama."):
                writer.add_key_value(name, field.contents(), field.types[0])
        writer.add_uint16("split.no", part)
        writer.add_uint16("split.count", parts)
        for tensor in reader.tensors[part::parts]:
            writer.add_tensor(tensor.name, np.array(tensor.data))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return paths


def test_it_has_the_files_of_a_checkpoint(model: Path) -> None:
    directory = GgufDirectory(model)
    assert [file.name for file in directory.iterdir()] == ["config.json"]  # this one has no tokenizer
    config = read_object(directory / "config.json")
    assert (config["model_type"], config["hidden_size"], directory.name) == ("llama", 64, "tiny")
    assert not (directory / "quality.json").is_file()


@pytest.mark.parametrize("given", [0, 2])
def test_a_split_file_is_one_model(model: Path, tmp_path: Path, given: int) -> None:
    paths = split(model, tmp_path, 3)
    directory = GgufDirectory(paths[given])
    whole, parts = (load_network(source, torch.float32) for source in (GgufDirectory(model), directory))
    assert directory.name == "tiny"
    for (name, one), other in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_a_missing_part_is_named(model: Path, tmp_path: Path) -> None:
    paths = split(model, tmp_path, 3)
    renamed = shutil.copy(paths[0], tmp_path / "renamed.gguf")
    with pytest.raises(CheckpointError, match="is one of 3 parts"):
        GgufDirectory(Path(renamed))
    paths[1].unlink()
    with pytest.raises(CheckpointError, match=r"tiny-00002-of-00003\.gguf is missing beside tiny-00001-of-00003\.gguf"):
        GgufDirectory(paths[0])


def test_it_is_quantized_like_the_checkpoint(model: Path, tmp_path: Path) -> None:
    for source, name in ((GgufDirectory(model), "from-gguf"), (model.parent, "from-safetensors")):
        quantize_checkpoint(source, tmp_path / name, SCHEMES["int8"])
    one, other = (load_network(tmp_path / name) for name in ("from-gguf", "from-safetensors"))
    ids = torch.arange(8)
    with torch.inference_mode():
        assert torch.equal(one(whole_batch(one, ids))[0], other(whole_batch(other, ids))[0])


def formats(network: CausalLM) -> dict[str, str]:
    found = {name: module.weights for name, module in network.named_modules() if isinstance(module, FrozenLinear)}
    return {name: w.format.name for name, w in found.items() if isinstance(w, PackedWeights)}


@pytest.mark.compiled_kernels
def test_every_matrix_has_the_format_of_its_own_type(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kinds = {
        "output.weight": GgmlType.Q5_1, "blk.0.ffn_down.weight": GgmlType.Q4_1, "blk.0.attn_output.weight": GgmlType.F16
    }  # fmt: skip
    directory = GgufDirectory(write_gguf(model.parent, tmp_path / "mixed.gguf", GgmlType.Q4_0, kinds))
    with caplog.at_level("INFO"):
        found = formats(load_network(directory, torch.bfloat16))
    assert found["blocks.1.feed_forward.down"] == "INT4"
    assert found["blocks.0.feed_forward.down"] == "Q4_1"
    assert found["head"] == "Q8_0"
    assert "BF16" in found.values()
    assert caplog.messages == ["1 stored matrices are quantized a second time, for another format; one is head"]


@pytest.mark.parametrize(("kind", "scheme"), [(GgmlType.Q8_0, "int8"), (GgmlType.Q4_0, "int4")])
def test_codes_of_the_file_are_those_of_the_quantized_checkpoint(
    kind: GgmlType, scheme: str, model: Path, tmp_path: Path
) -> None:
    source = GgufDirectory(write_gguf(model.parent, tmp_path / "model.gguf", kind, {"output.weight": GgmlType.Q8_0}))
    told: list[tuple[int, int]] = []
    quantize_checkpoint(source, tmp_path / "target", SCHEMES[scheme], progress=lambda *numbers: told.append(numbers))
    assert told[-1][0] == told[-1][1]
    ids, dtype = torch.arange(8), torch.bfloat16
    networks = [load_network(source, dtype, check=True), load_network(tmp_path / "target", dtype)]
    with torch.inference_mode():
        one, other = (network.logits(network(whole_batch(network, ids))[0]) for network in networks)
    assert torch.equal(one, other)


def test_damaged_scales_are_found_when_asked(model: Path, tmp_path: Path) -> None:
    path = write_gguf(model.parent, tmp_path / "model.gguf", GgmlType.Q8_0)
    directory = GgufDirectory(path)
    start = directory._files[0].tensors["blk.0.ffn_down.weight"].start
    with path.open("r+b") as file:
        file.seek(start)
        file.write(np.float16(np.inf).tobytes())
    with pytest.raises(CheckpointError, match=r"down_proj\.weight holds NaN or infinite scales"):
        load_network(directory, check=True)


def test_inspect_offers_a_quantized_file_as_it_is_stored(model: Path, tmp_path: Path) -> None:
    path = write_gguf(model.parent, tmp_path / "model.gguf", GgmlType.Q8_0)
    found = CliRunner().invoke(app, ["inspect", str(path), "--json"])
    assert found.exit_code == 0, found.output
    described = json.loads(found.output)
    assert [fit["scheme"] for fit in described["fits"]] == ["Q8_0", "int8", "int4"]
    assert "--quantize" not in described["command"]


def test_inspect_describes_it(model: Path) -> None:
    found = CliRunner().invoke(app, ["inspect", str(model), "--json"])
    assert found.exit_code == 0, found.output
    described = json.loads(found.output)
    assert (described["family"], list(described["stored"])) == ("llama", ["F32"])


@pytest.mark.parametrize("command", [["inspect"], ["generate", "a", "--model"]])
@pytest.mark.parametrize("case", ["wrong magic", "huge tensor", "big-endian"])
def test_a_damaged_file_ends_a_command_with_one_line(command: list[str], case: str, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(HOSTILE[case][0])
    found = CliRunner().invoke(app, [*command, str(tmp_path / "model.gguf")])
    assert found.exit_code == 2
    assert len(found.output.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general.architecture": "mamba"}, "architecture 'mamba', which is not supported; supported: llama, "),
        ({"general.architecture": ["llama"]}, "is not supported"),
        ({"llama.embedding_length": None}, "has no llama.embedding_length"),
        ({"llama.embedding_length": "64"}, "a whole number is expected"),
        ({"llama.embedding_length": -64}, "a whole number is expected"),
        ({"llama.embedding_length": 2**40}, "cannot be built|shape"),
        ({"llama.rope.freq_base": "x"}, "a finite number is expected"),
        ({"llama.rope.freq_base": float("nan")}, "a finite number is expected"),
        ({"llama.rope.dimension_count": "x"}, "a whole number is expected"),
        ({"llama.attention.head_count": 0}, "heads"),
        ({"llama.block_count": 2**40}, "tensors for 1099511627776 layers"),
        ({"llama.rope.scaling.type": "su"}, "rope scaling 'su'"),
        ({"llama.attention.head_count_kv": 3}, "heads"),
    ],
)
def test_hostile_metadata_is_refused(model: Path, change: dict[str, Any], message: str) -> None:
    directory = GgufDirectory(model)
    directory._files[0].metadata.update(change)
    with pytest.raises(ValueError, match=message):
        load_network(directory, torch.float32)


@pytest.mark.parametrize(
    ("case", "change", "message"),
    [
        ("glm4", {"glm4.attention.head_count": 0, "glm4.attention.key_length": 0}, "heads"),
        ("phi3", {"phi3.attention.head_count": 0}, "heads"),
        ("gemma3_text", {"gemma3.attention.sliding_window_pattern": "x"}, "a whole number is expected"),
        ("gemma3_text", {"gemma3.attention.sliding_window_pattern": -1}, "a whole number is expected"),
        ("gemma3_text", {"gemma3.final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0: only None"),
        ("qwen2", {"qwen2.attention.causal": False}, "is_causal is False: only True"),
        ("deepseek_v2", {"deepseek2.attention.temperature_scale": 0.1}, "scaled by position"),
        ("deepseek_v2", {"deepseek2.expert_weights_norm": True}, "normalized after a softmax"),
    ],
)
def test_hostile_metadata_of_other_architectures_is_refused(
    case: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write_checkpoint(case, tmp_path)
    directory = GgufDirectory(write_gguf(tmp_path, tmp_path / "tiny.gguf"))
    directory._files[0].metadata.update(change)
    with pytest.raises(ValueError, match=message):
        load_network(directory, torch.float32)


def test_experts_of_a_few_bytes_each_are_refused_before_they_are_listed(tmp_path: Path) -> None:
    write_checkpoint("qwen3_moe", tmp_path)
    directory = GgufDirectory(write_gguf(tmp_path, tmp_path / "tiny.gguf"))
    directory.reader()
    tensors = directory._files[0].tensors
    tensors["blk.0.ffn_up_exps.weight"] = StoredTensor((3_000_000,), tensors["output_norm.weight"].type, 0)
    tracemalloc.start()
    with pytest.raises(
        CheckpointError, match=r"blk\.0\.ffn_up_exps\.weight is too small, with 12000000 bytes, for 3000000"
    ):
        directory.reader()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_tokenizer_and_template_come_from_the_metadata(model: Path) -> None:
    directory = GgufDirectory(model)
    directory._files[0].metadata.update({
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.merges": ["h i"],
        "tokenizer.ggml.tokens": ["h", "i", "hi", "Ġ", "<|end|>", "<tool>"],
        "tokenizer.ggml.token_type": np.array([1, 1, 1, 1, 3, 4]), "tokenizer.ggml.eos_token_id": 4,
        "tokenizer.chat_template": "{% for m in messages %}{{ m['content'] }}<|end|>{% endfor %}",
    })  # fmt: skip
    assert {file.name for file in directory.iterdir()} == {
        "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json",
    }  # fmt: skip
    tokenizer, template = Tokenizer.load(directory), ChatTemplate.load(directory)
    assert tokenizer.encode("hi hi") == [2, 3, 2]
    assert (tokenizer.special_ids, tokenizer.eos_token_ids) == ({4}, (4,))
    assert set(tokenizer.added_tokens) == {"<|end|>", "<tool>"}
    assert template is not None
    assert template.render_ids([{"role": "user", "content": "hi"}], tokenizer).token_ids == (2, 4)
    directory._files[0].metadata["tokenizer.chat_template.tool_use"] = "{{ tools[0].name }}"
    template = ChatTemplate.load(directory)
    assert template is not None
    assert template.render([{"role": "user", "content": "hi"}], True, [{"name": "find"}]) == "find"
    assert template.render([{"role": "user", "content": "hi"}], True) == "hi<|end|>"
