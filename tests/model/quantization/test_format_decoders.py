"""Every format that quantized checkpoints come in: what is decoded is exactly what was encoded."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from model.checkpoints.safetensors_files import CheckpointError, CheckpointReader, open_checkpoint
from model.quantization.formats import dequantized, nearest_scheme
from model.quantization.formats.mxfp4 import Mxfp4
from tests.model.quantization.encoded_formats import (
    Encoded,
    awq,
    awq_gemv,
    fp8,
    gptq,
    mxfp4,
    mxfp4_matrix,
    mxfp8,
    nf4,
    nvfp4,
    packed,
    scaled,
    torchao,
    torchao_int4,
)

ROWS, COLUMNS = 48, 64
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [32, 24]}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm", "zero_point": True}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": True}
MXFP4 = {"quant_method": "mxfp4"}
IN_ORDER = [i // 16 for i in range(COLUMNS)]
SHUFFLED = [IN_ORDER[i] for i in torch.randperm(COLUMNS, generator=torch.Generator().manual_seed(3)).tolist()]


def random_weight(*shape: int) -> Tensor:
    """Groups of very different sizes, some without negative values: their zero point is 0."""
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    weight *= torch.linspace(-8, 8, shape[-1]).exp2()
    weight[..., 4, :] = weight[..., 4, :].abs()
    return weight


def stored(directory: Path, tensors: dict[str, Tensor], settings: dict[str, Any]) -> CheckpointReader:
    save_file(tensors, directory / "model.safetensors")
    return dequantized(open_checkpoint(directory), {"quantization_config": settings}, wanted={"a.weight"})


def matrix(directory: Path, encoded: Encoded, settings: dict[str, Any]) -> CheckpointReader:
    return stored(directory, {f"a.{name}": tensor for name, tensor in encoded.parts.items()}, settings)


def compressed(layout: str, bits: int, kind: str, strategy: str, **more: Any) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": kind, "strategy": strategy, "symmetric": True, **more}
    return {"quant_method": "compressed-tensors", "format": layout, "config_groups": {"group_0": {"weights": weights}}}


def compressed_blocks() -> Encoded:
    parts, plain = fp8(random_weight(ROWS, COLUMNS), (32, 24))
    return Encoded({"weight": parts["weight"], "weight_scale": parts["weight_scale_inv"]}, plain)


def modelopt_blocks() -> Encoded:
    parts, plain = fp8(random_weight(192, 320))
    return Encoded({"weight": parts["weight"], "weight_scale": parts["weight_scale_inv"][:, None, :, None]}, plain)


def bitsandbytes() -> Encoded:
    codes, scale = scaled(random_weight(ROWS, COLUMNS), torch.int8, "channel").parts.values()
    largest = scale.flatten() * 127
    return Encoded({"weight": codes, "SCB": largest}, codes.float() * (largest / 127)[:, None])


NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


def torchao_settings(kind: str) -> dict[str, Any]:
    return {"quant_method": "torchao", "quant_type": {"default": {"_type": kind, "_version": 2, "_data": {}}}}


CASES: dict[str, tuple[Encoded, dict[str, Any], str]] = {
    "fp8": (fp8(random_weight(ROWS, COLUMNS), (32, 24)), FP8, "int8"),
    "awq": (awq(random_weight(ROWS, COLUMNS), 16), AWQ, "int4"),
    "gptq": (gptq(random_weight(ROWS, COLUMNS), IN_ORDER), GPTQ | {"desc_act": False}, "int4"),
    "gptq desc_act": (gptq(random_weight(ROWS, COLUMNS), SHUFFLED), GPTQ, "int4"),
    "gptq_v2": (
        gptq(random_weight(ROWS, COLUMNS), SHUFFLED, first_form=False),
        GPTQ | {"checkpoint_format": "gptq_v2"},
        "int4",
    ),
    "gptq 8 bits": (gptq(random_weight(ROWS, COLUMNS), SHUFFLED, 8), GPTQ | {"bits": 8}, "int8"),
    "gptq 3 bits": (gptq(random_weight(64, COLUMNS), SHUFFLED, 3), GPTQ | {"bits": 3}, "int4"),
    "fp8 by tensor": (
        scaled(random_weight(ROWS, COLUMNS), torch.float8_e4m3fn, "tensor"),
        {"quant_method": "fp8", "activation_scheme": "static"},
        "int8",
    ),
    "modelopt": (
        scaled(random_weight(ROWS, COLUMNS), torch.float8_e4m3fn, "tensor"),
        {"quant_method": "modelopt", "quant_algo": "FP8"},
        "int8",
    ),
    "compressed fp8": (
        scaled(random_weight(ROWS, COLUMNS), torch.float8_e4m3fn, "channel"),
        compressed("float-quantized", 8, "float", "channel"),
        "int8",
    ),
    "modelopt fp8 by output": (
        scaled(random_weight(ROWS, COLUMNS), torch.float8_e4m3fn, "channel"),
        {"quant_method": "modelopt", "quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"},
        "int8",
    ),
    "modelopt fp8 by block": (
        fp8(random_weight(192, 192)),
        {"quant_method": "modelopt", "quant_algo": "fp8_pb_wo"},
        "int8",
    ),
    "modelopt fp8 by block, in four axes": (
        modelopt_blocks(),
        {"quant_method": "modelopt", "quant_algo": "FP8_PB_WO"},
        "int8",
    ),
    "modelopt mxfp8": (
        mxfp8(random_weight(ROWS, COLUMNS)),
        {"quant_method": "modelopt", "quant_algo": "MXFP8"},
        "int8",
    ),
    "modelopt nvfp4": (
        nvfp4(random_weight(ROWS, COLUMNS), ("weight", "weight_scale", "weight_scale_2"), divides=False),
        {"quant_method": "modelopt", "quant_algo": "NVFP4"},
        "int4",
    ),
    "compressed fp8 by block": (
        compressed_blocks(),
        compressed("float-quantized", 8, "float", "block", block_structure=[32, 24]),
        "int8",
    ),
    "compressed mxfp8": (
        mxfp8(random_weight(ROWS, COLUMNS)),
        compressed("mxfp8-quantized", 8, "float", "group"),
        "int8",
    ),
    "compressed mxfp4": (
        mxfp4_matrix(random_weight(ROWS, COLUMNS)),
        compressed("mxfp4-pack-quantized", 4, "float", "group"),
        "int4",
    ),
    "compressed nvfp4": (
        nvfp4(random_weight(ROWS, COLUMNS), ("weight_packed", "weight_scale", "weight_global_scale"), divides=True),
        compressed("nvfp4-pack-quantized", 4, "float", "tensor_group"),
        "int4",
    ),
    "compressed int8": (
        scaled(random_weight(ROWS, COLUMNS), torch.int8, "group"),
        compressed("int-quantized", 8, "int", "group"),
        "int8",
    ),
    "compressed packed": (
        packed(random_weight(ROWS, COLUMNS)),
        compressed("pack-quantized", 4, "int", "group"),
        "int4",
    ),
    "compressed packed with zero points": (
        packed(random_weight(ROWS, COLUMNS), zeros=True),
        compressed("pack-quantized", 4, "int", "group"),
        "int4",
    ),
    "compressed packed 8 bits": (
        packed(random_weight(ROWS, COLUMNS), 8),
        compressed("pack-quantized", 8, "int", "group"),
        "int8",
    ),
    "awq gemv": (
        awq_gemv(random_weight(ROWS, COLUMNS), 32),
        AWQ | {"version": "gemv", "group_size": 32},
        "int4",
    ),
    "bitsandbytes nf4": (nf4(random_weight(ROWS, COLUMNS), nested=False), NF4, "int4"),
    "bitsandbytes nf4 nested": (nf4(random_weight(ROWS * 8, COLUMNS), nested=True), NF4, "int4"),
    "torchao int4": (torchao_int4(random_weight(ROWS, COLUMNS)), torchao_settings("Int4WeightOnlyConfig"), "int4"),
    "torchao int8": (
        torchao(random_weight(ROWS, COLUMNS), torch.int8, "channel"),
        torchao_settings("Int8WeightOnlyConfig"),
        "int8",
    ),
    "torchao fp8": (
        torchao(random_weight(ROWS, COLUMNS), torch.float8_e4m3fn, "channel"),
        torchao_settings("Float8DynamicActivationFloat8WeightConfig"),
        "int8",
    ),
    "bitsandbytes": (bitsandbytes(), {"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8"),
}


@pytest.mark.parametrize("case", CASES)
def test_decoded_equals_encoded(case: str, tmp_path: Path) -> None:
    encoded, settings, scheme = CASES[case]
    reader = matrix(tmp_path, encoded, settings)
    assert list(reader.names()) == ["a.weight"]
    header, plain = reader.header("a.weight"), reader.get("a.weight")
    assert (header.shape, header.dtype) == (tuple(plain.shape), plain.dtype)
    assert (header.shape, header.dtype) == (tuple(encoded.plain.shape), torch.float32)
    assert header.stored_bytes == sum(part.nbytes for part in encoded.parts.values())
    assert torch.equal(plain, encoded.plain)
    assert nearest_scheme({"quantization_config": settings}) == scheme


@pytest.mark.parametrize("case", CASES)
def test_the_encoders_of_these_tests_stay_near_the_weight(case: str) -> None:
    """Negative control: an encoder that lost the weight could agree with a decoder that does too."""
    encoded, _, _ = CASES[case]
    weight = random_weight(*encoded.plain.shape)
    assert (encoded.plain - weight).norm() < 0.25 * weight.norm()
    assert len(set(encoded.plain.flatten().tolist())) > 40


def test_zero_points_of_zero_are_among_the_cases() -> None:
    """GPTQ's first form stores them as the highest number."""
    for case in ("awq", "gptq"):
        encoded, _, _ = CASES[case]
        assert (encoded.plain[4] >= 0).all()
        assert (encoded.plain[5] < 0).any()


def test_the_two_forms_of_gptq_differ(tmp_path: Path) -> None:
    """Negative control: read as the other form, every weight is one step off."""
    encoded, settings, _ = CASES["gptq_v2"]
    reader = matrix(tmp_path, encoded, settings | {"checkpoint_format": "gptq"})
    assert not (reader.get("a.weight") == encoded.plain).any()


def test_fp8_of_stacked_experts(tmp_path: Path) -> None:
    encoded = [fp8(weight, (32, 24)) for weight in random_weight(3, ROWS, COLUMNS)]
    codes = torch.stack([e.parts["weight"].view(torch.uint8) for e in encoded]).view(torch.float8_e4m3fn)
    scales = torch.stack([e.parts["weight_scale_inv"] for e in encoded])
    reader = stored(tmp_path, {"experts.down_proj": codes, "experts.down_proj_scale_inv": scales}, FP8)
    assert torch.equal(reader.get("experts.down_proj"), torch.stack([e.plain for e in encoded]))


def test_a_checkpoint_may_mix_formats(tmp_path: Path) -> None:
    """As NVIDIA's exports of Qwen3.6 do: experts in NVFP4, attention in FP8, a draft head in blocks, the rest plain."""
    weight = random_weight(192, 192)
    encoded = {
        "experts.0": nvfp4(weight, ("weight", "weight_scale", "weight_scale_2"), divides=False),
        "attention": scaled(weight, torch.float8_e4m3fn, "tensor"),
        "mtp": fp8(weight),
    }
    tensors = {f"{module}.{name}": tensor for module, (parts, _) in encoded.items() for name, tensor in parts.items()}
    settings = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}
    reader = stored(tmp_path, tensors | {"norm.weight": weight, "attention.input_scale": torch.ones(())}, settings)
    assert set(reader.names()) == {"experts.0.weight", "attention.weight", "mtp.weight", "norm.weight"}
    for module, (_, plain) in encoded.items():
        assert reader.header(f"{module}.weight").shape == (192, 192)
        assert torch.equal(reader.get(f"{module}.weight"), plain)
    assert torch.equal(reader.get("norm.weight"), weight)
    assert nearest_scheme({"quantization_config": settings}) == "int4"


def test_groups_of_compressed_tensors_may_differ(tmp_path: Path) -> None:
    """As far as the names of the scales tell them apart."""
    weight = random_weight(ROWS, COLUMNS)
    four = nvfp4(weight, ("weight_packed", "weight_scale", "weight_global_scale"), divides=True)
    eight = scaled(weight, torch.float8_e4m3fn, "channel")
    tensors = {f"a.{name}": part for name, part in eight.parts.items()}
    tensors |= {f"b.{name}": part for name, part in four.parts.items()}
    layouts = {
        "group_0": {"format": "float-quantized", "weights": {"num_bits": 8, "type": "float", "strategy": "channel"}},
        "group_1": {"format": "nvfp4-pack-quantized", "weights": {"num_bits": 4, "type": "float"}},
    }
    settings = {"quant_method": "compressed-tensors", "format": "mixed-precision", "config_groups": layouts}
    reader = stored(tmp_path, tensors, settings)
    assert torch.equal(reader.get("a.weight"), eight.plain)
    assert torch.equal(reader.get("b.weight"), four.plain)
    layouts["group_1"] = {"format": "pack-quantized", "weights": {"num_bits": 4, "type": "int"}}
    with pytest.raises(CheckpointError, match="or NVFP4 beside another one"):
        nearest_scheme({"quantization_config": settings})


def test_mxfp4(tmp_path: Path) -> None:
    encoded = mxfp4(random_weight(3, ROWS, COLUMNS))
    bias = torch.randn(3, ROWS)
    tensors = {f"experts.down_proj_{name}": tensor for name, tensor in encoded.parts.items()}
    reader = stored(tmp_path, tensors | {"experts.down_proj_bias": bias}, MXFP4)
    assert set(reader.names()) == {"experts.down_proj", "experts.down_proj_bias"}
    plain = reader.get("experts.down_proj")
    assert (plain.shape, plain.dtype) == ((3, COLUMNS, ROWS), torch.bfloat16)
    assert reader.header("experts.down_proj").shape == tuple(plain.shape)
    assert torch.equal(plain.float(), encoded.plain.mT)
    assert torch.equal(reader.get("experts.down_proj_bias"), bias)
    assert nearest_scheme({"quantization_config": MXFP4}) == "int4"


def test_mxfp4_equals_transformers() -> None:
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (3, ROWS, 5, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(20, 230, (3, ROWS, 5), dtype=torch.uint8, generator=generator)
    assert torch.equal(Mxfp4().decode(blocks, scales), convert_moe_packed_tensors(blocks, scales))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"quant_method": "hqq"},
            r"quant_method is 'hqq' .* known are: awq, bitsandbytes, compressed-tensors, ",
        ),
        ({}, "quant_method is 'None'"),
        (AWQ | {"bits": 3}, "bits is 3 .* for quant_method awq are: 4"),
        (AWQ | {"version": "marlin"}, "version is 'marlin' .* gemm, gemv"),
        (AWQ | {"version": "gemv", "group_size": 16}, "group_size is 16 .* -1, 32, 64, 128"),
        (NF4 | {"bnb_4bit_quant_type": "int4"}, "bnb_4bit_quant_type is 'int4' .* nf4, fp4"),
        (NF4 | {"bnb_4bit_quant_storage": "bfloat16"}, "bnb_4bit_quant_storage is 'bfloat16' .* uint8"),
        (torchao_settings("NVFP4InferenceConfig"), "quant_type is 'NVFP4InferenceConfig' .* Int4WeightOnlyConfig"),
        ({"quant_method": "torchao", "quant_type": "int8"}, "quant_type of quantization_config: one `default`"),
        (GPTQ | {"bits": 2}, "bits is 2 .* for quant_method gptq are: 3, 4, 8"),
        (GPTQ | {"bits": [4]}, r"bits is \[4\] .* for quant_method gptq are: 3, 4, 8"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": False}, "load_in_8bit is False"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4_AWQ"}, "quant_algo is 'NVFP4_AWQ' .* MIXED_PRECISION"),
        ({"quant_method": "modelopt"}, "quant_algo is 'NONE' .* FP8"),
        (compressed("marlin-24", 4, "int", "group"), "format is 'marlin-24' .* nvfp4-pack-quantized"),
        (compressed("int-quantized", 8, "int", "block"), "type is 'int' .* float"),
        (compressed("float-quantized", 8, "float", "block", block_structure="128x128"), "block_structure is '128x128'"),
        ({"quant_method": "compressed-tensors", "format": "int-quantized"}, "config_groups"),
        (GPTQ | {"checkpoint_format": "marlin"}, "checkpoint_format is 'marlin' .* gptq, gptq_v2"),
        (FP8 | {"activation_scheme": "static"}, "activation_scheme is 'static'"),
        (FP8 | {"weight_block_size": [0, 128]}, r"weight_block_size is \[0, 128\]"),
    ],
)
def test_what_is_not_known_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        nearest_scheme({"quantization_config": settings or {"bits": 4}})


@pytest.mark.parametrize("case", CASES)
def test_parts_that_do_not_fit(case: str, tmp_path: Path) -> None:
    encoded, settings, _ = CASES[case]
    name = next(
        name
        for name in ("weight_scale_inv", "weight_scale", "SCB", "scales", "_weight_scale", "weight.quant_map")
        if name in encoded.parts
    )
    broken = Encoded(encoded.parts | {name: torch.ones(7, 5)}, encoded.plain)
    with pytest.raises(CheckpointError, match=rf"a\.weight is stored in parts that do not fit.*a\.{name}"):
        matrix(tmp_path, broken, settings).header("a.weight")


@pytest.mark.parametrize(
    ("case", "part", "dtype"),
    [
        ("modelopt mxfp8", "weight_scale", torch.int8),
        ("modelopt nvfp4", "weight_scale", torch.uint8),
        ("modelopt nvfp4", "weight_scale_2", torch.int32),
        ("compressed mxfp4", "weight_scale", torch.float32),
        ("compressed int8", "weight_scale", torch.uint8),
        ("fp8", "weight_scale_inv", torch.uint8),
    ],
)
def test_scales_of_another_type_are_refused(case: str, part: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Exponents read as numbers, or the other way round, would give finite weights that are wrong."""
    encoded, settings, _ = CASES[case]
    broken = Encoded(encoded.parts | {part: torch.ones(encoded.parts[part].shape, dtype=dtype)}, encoded.plain)
    with pytest.raises(CheckpointError, match=rf"a\.weight is stored in parts that do not fit.*a\.{part}"):
        matrix(tmp_path, broken, settings).header("a.weight")


def test_blocks_may_be_larger_than_the_matrix(tmp_path: Path) -> None:
    parts, plain = scaled(random_weight(ROWS, COLUMNS), torch.float8_e4m3fn, "tensor")
    encoded = Encoded({"weight": parts["weight"], "weight_scale": parts["weight_scale"].view(1, 1)}, plain)
    settings = compressed("float-quantized", 8, "float", "block", block_structure=[10**30, 10**10])
    assert torch.equal(matrix(tmp_path, encoded, settings).get("a.weight"), plain)


@pytest.mark.parametrize("case", CASES)
def test_a_missing_part_is_named(case: str, tmp_path: Path) -> None:
    encoded, settings, _ = CASES[case]
    first = next(iter(encoded.parts))
    rest = {name: part for name, part in encoded.parts.items() if name != first}
    with pytest.raises(CheckpointError, match=rf"a\.{first} is missing"):
        matrix(tmp_path, Encoded(rest, encoded.plain), settings)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (b"[1", "no JSON"),
        (b"[]", "no JSON"),
        (b'{"shape": "48"}', "a list of sizes"),
        (b'{"shape": [48, -64], "blocksize": 64}', "a list of sizes"),
        (b'{"shape": [48, 64], "blocksize": 0}', "blocksize 0"),
        (b'{"shape": [64, 64], "blocksize": 64}', "do not fit together"),
    ],
)
def test_a_hostile_description_is_refused(state: bytes, message: str, tmp_path: Path) -> None:
    encoded, settings, _ = CASES["bitsandbytes nf4"]
    parts = encoded.parts | {"weight.quant_state.bitsandbytes__nf4": torch.tensor(list(state), dtype=torch.uint8)}
    reader = matrix(tmp_path, Encoded(parts, encoded.plain), settings)
    with pytest.raises(CheckpointError, match=message):
        [read("a.weight") for read in (reader.header, reader.get)]


@pytest.mark.parametrize(
    ("offset", "message"),
    [
        ({}, "nested_offset None"),
        ({"nested_offset": "0.1"}, "nested_offset '0.1'"),
        ({"nested_offset": float("nan")}, "nested_offset nan"),
        ({"nested_offset": 10**400}, "nested_offset 1000"),
    ],
)
def test_a_hostile_offset_of_nested_scales_is_refused(offset: dict[str, Any], message: str, tmp_path: Path) -> None:
    encoded, settings, _ = CASES["bitsandbytes nf4 nested"]
    state = {"shape": [ROWS * 8, COLUMNS], "blocksize": 64, "nested_blocksize": 256, **offset}
    described = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    parts = encoded.parts | {"weight.quant_state.bitsandbytes__nf4": described}
    with pytest.raises(CheckpointError, match=message):
        matrix(tmp_path, Encoded(parts, encoded.plain), settings).get("a.weight")


def test_groups_lie_in_order_without_their_index(tmp_path: Path) -> None:
    encoded, settings, _ = CASES["gptq"]
    parts = {name: part for name, part in encoded.parts.items() if name != "g_idx"}
    assert torch.equal(matrix(tmp_path, Encoded(parts, encoded.plain), settings).get("a.weight"), encoded.plain)


def test_scales_that_are_not_of_weights_are_left_out(tmp_path: Path) -> None:
    encoded, settings, _ = CASES["fp8 by tensor"]
    others = {"input_scale": torch.ones(()), "k_scale": torch.ones(()), "v_scale": torch.ones(())}
    reader = matrix(tmp_path, Encoded(encoded.parts | others, encoded.plain), settings)
    assert list(reader.names()) == ["a.weight"]


@pytest.mark.parametrize("activations", ["static", "dynamic"])
def test_fp8_without_blocks_as_transformers_and_mistral_store_it(tmp_path: Path, activations: str) -> None:
    parts, plain = scaled(random_weight(ROWS, COLUMNS), torch.float8_e4m3fn, "tensor")
    renamed = {"weight": parts["weight"], "weight_scale_inv": parts["weight_scale"], "activation_scale": torch.ones(())}
    settings = {"quant_method": "fp8", "activation_scheme": activations, "weight_block_size": None}
    reader = matrix(tmp_path, Encoded(renamed, plain), settings)
    assert list(reader.names()) == ["a.weight"]
    assert torch.equal(reader.get("a.weight"), plain)


def test_a_group_that_is_not_there(tmp_path: Path) -> None:
    encoded, settings, _ = CASES["gptq"]
    broken = Encoded(encoded.parts | {"g_idx": encoded.parts["g_idx"] + 1}, encoded.plain)
    with pytest.raises(CheckpointError, match=r"tensor a\.weight cannot be decoded"):
        matrix(tmp_path, broken, settings).get("a.weight")
