"""A checkpoint that comes quantized makes the same network as one that stores what its tensors mean."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.checkpoints.safetensors_files import CheckpointError, open_checkpoint, read_config
from model.loading.load import load_network
from model.quantization.formats import dequantized, nearest_scheme
from tests.model.families.checkpoints import write_checkpoint
from tests.model.quantization.encoded_formats import Encoded, awq, fp8, gptq, mxfp4

Encode = Callable[[str, Tensor], tuple[dict[str, Tensor], Tensor]]


def encode_mxfp4(name: str, tensor: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    encoded = mxfp4(tensor.mT)
    return {f"{name}_{part}": value for part, value in encoded.parts.items()}, encoded.plain.mT


def by_matrix(encoder: Callable[[Tensor], Encoded]) -> Encode:
    def encode(name: str, tensor: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        encoded = encoder(tensor)
        return {f"{name.removesuffix('weight')}{part}": value for part, value in encoded.parts.items()}, encoded.plain

    return encode


def encode_gptq(tensor: Tensor) -> Encoded:
    """As AutoGPTQ does: with a bias of zeros that no model asked for."""
    groups = [(7 * i) % tensor.shape[1] // 16 for i in range(tensor.shape[1])]
    encoded = gptq(tensor, groups)
    return Encoded(encoded.parts | {"bias": torch.zeros(len(tensor), dtype=torch.float16)}, encoded.plain)


# family, settings, encoder, the end of the names of what is encoded in the second layer
CASES: dict[str, tuple[str, dict[str, Any], Encode, tuple[str, ...]]] = {
    "mxfp4": ("gpt_oss", {"quant_method": "mxfp4"}, encode_mxfp4, ("gate_up_proj", "down_proj")),
    "fp8": ("deepseek_v3", {"quant_method": "fp8"}, by_matrix(fp8), ("proj.weight", "mqa.weight")),
    "awq": ("mixtral", {"quant_method": "awq"}, by_matrix(lambda x: awq(x, 16)), ("proj.weight", "w1.weight")),
    "gptq": ("mixtral", {"quant_method": "gptq"}, by_matrix(encode_gptq), ("proj.weight", "w2.weight", "w3.weight")),
}


@pytest.fixture(scope="module", params=CASES)
def twins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The directory of a quantized checkpoint, and of one that stores the same plainly."""
    family, settings, encode, names = CASES[request.param]
    quantized, plain = (tmp_path_factory.mktemp(request.param) for _ in range(2))
    write_checkpoint(family, plain)
    tensors = load_file(plain / "model.safetensors")
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if "layers.1." in name and name.endswith(names):
            parts, tensors[name] = encode(name, tensor)
            stored |= {part: value.contiguous() for part, value in parts.items()}
        else:
            stored[name] = tensor
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, plain / "model.safetensors")
    save_file(stored, quantized / "model.safetensors")
    config = json.loads((plain / "config.json").read_text()) | {"quantization_config": settings}
    (quantized / "config.json").write_text(json.dumps(config))
    return quantized, plain


def test_the_same_network(twins: tuple[Path, Path]) -> None:
    quantized, plain = (load_network(directory, torch.float32, freeze=False).state_dict() for directory in twins)
    assert quantized.keys() == plain.keys()
    for name, tensor in quantized.items():
        assert torch.equal(tensor, plain[name]), name


def test_only_a_quantized_checkpoint_has_a_nearest_scheme(twins: tuple[Path, Path]) -> None:
    schemes = [nearest_scheme(read_config(directory)) for directory in twins]
    assert schemes[0] in ("int8", "int4")
    assert schemes[1] is None


def test_a_plain_checkpoint_is_read_as_it_is(twins: tuple[Path, Path]) -> None:
    reader = open_checkpoint(twins[1])
    assert dequantized(reader, read_config(twins[1]), wanted=()) is reader


def test_a_wrapper_says_it_in_its_text_config() -> None:
    assert nearest_scheme({"text_config": {"quantization_config": {"quant_method": "fp8"}}}) == "int8"


def names_beside(bias: Tensor, directory: Path, *wanted: str) -> set[str]:
    """What is seen of a matrix in GPTQ with that bias."""
    parts = gptq(torch.randn(8, 16), [0] * 16).parts | {"bias": bias}
    save_file({f"a.{name}": part for name, part in parts.items()}, directory / "model.safetensors")
    return set(
        dequantized(open_checkpoint(directory), {"quantization_config": {"quant_method": "gptq"}}, wanted).names()
    )


def test_a_bias_of_zeros_is_left_out_unless_it_is_wanted(tmp_path: Path) -> None:
    assert names_beside(torch.zeros(8), tmp_path, "a.weight") == {"a.weight"}
    assert names_beside(torch.zeros(8), tmp_path, "a.weight", "a.bias") == {"a.weight", "a.bias"}


def test_a_bias_that_says_something_stays(tmp_path: Path) -> None:
    assert names_beside(torch.ones(8), tmp_path, "a.weight") == {"a.weight", "a.bias"}


def test_codes_of_another_type(tmp_path: Path) -> None:
    parts = fp8(torch.randn(8, 16)).parts
    save_file(
        {"a.weight": parts["weight"].half(), "a.weight_scale_inv": parts["weight_scale_inv"]},
        tmp_path / "model.safetensors",
    )
    reader = dequantized(open_checkpoint(tmp_path), {"quantization_config": {"quant_method": "fp8"}}, ())
    with pytest.raises(CheckpointError, match=r"a\.weight \(8, 16\) float16"):
        reader.header("a.weight")
