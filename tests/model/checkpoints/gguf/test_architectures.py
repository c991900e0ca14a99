"""Every architecture: a GGUF file gives the same logits and tokens as the checkpoint it was made from."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as GgmlType
from torch import Tensor

from model.checkpoints.gguf.architectures import ARCHITECTURES
from model.checkpoints.gguf.config import CONFIGS
from model.checkpoints.gguf.directory import GgufDirectory
from model.checkpoints.safetensors_files import CheckpointError, open_checkpoint, read_parameter
from model.generate import generate
from model.loading.freeze import is_matrix
from model.loading.load import default_scheme, describe, load_network, open_layout
from model.loading.stored_codes import read_codes, stored_format
from model.network import CausalLM
from model.quantization import plain_scheme
from tests.model.batches import whole_batch
from tests.model.checkpoints.gguf import converter
from tests.model.checkpoints.gguf.converter import write_gguf
from tests.model.families.checkpoints import CASES, TINY, write_checkpoint

# cases that GGUF files cannot express: windows of Llama-like and Qwen models, layers without experts among others
NOT_EXPRESSED = {
    "mistral_window", "mixtral_window", "qwen2_window", "qwen3_window", "qwen2_moe_sparse", "qwen3_moe_renormalized",
    "qwen3_5_moe", "lfm2_moe_plain_router", "llama_longrope", "smollm3_window",
    "flex_olmo",
}  # fmt: skip
# settings that llama.cpp fixes, or derives from others
FIXED = {
    "gpt_oss": {"swiglu_limit": 7.0},
    "dots1": {"sliding_window": None},
    "afmoe": {"global_attn_every_n_layers": 4},
    "smollm3": {"no_rope_layer_interval": 4},
    "gemma3_text": {"num_hidden_layers": 6, "layer_types": None, "query_pre_attn_scalar": 32},
    "qwen3_moe": {"norm_topk_prob": True},
    "granitemoehybrid_dense": {"time_step_limit": [0.0, float("inf")]},
    "hunyuan_v1_moe": {"moe_topk": [3, 3]},
    "phimoe_longrope": {
        "max_position_embeddings": 1024,
        "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 500.0, "original_max_position_embeddings": 256, "factor": 4.0,
            "short_mscale": 1.25**0.5, "long_mscale": 1.25**0.5,
            "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
            "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0],
        },
    },
    "deepseek_v2_groups": {
        "rope_parameters": {
            "rope_type": "yarn", "factor": 4.0, "beta_fast": 32, "beta_slow": 1, "mscale": 0.707,
            "mscale_all_dim": 0.707, "original_max_position_embeddings": 64, "rope_theta": 10000.0,
        }
    },
}  # fmt: skip
ERRORS = {GgmlType.Q8_0: 0.1, GgmlType.Q5_1: 0.5}  # of the spread of the logits


@dataclass(frozen=True, slots=True)
class Twins:
    case: str
    safetensors: Path
    gguf: Path


@pytest.fixture(scope="module", params=sorted(set(CASES) - NOT_EXPRESSED))
def twins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Twins:
    directory = tmp_path_factory.mktemp(request.param)
    write_checkpoint(request.param, directory, **FIXED.get(request.param, {}))
    return Twins(request.param, directory, write_gguf(directory, directory / "model.gguf"))


def some_ids(network: CausalLM, count: int = 24) -> Tensor:
    return torch.randint(0, network.config.vocab_size, (count,), generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def logits(network: CausalLM) -> Tensor:
    found: Tensor = network.logits(network(whole_batch(network, some_ids(network)))[0])
    return found


def architecture(case: str) -> str:
    config = json.loads((TINY / f"{case}.json").read_text())
    return converter.architecture_of({"layers_block_type": [], **config})


def test_every_architecture_has_a_case() -> None:
    tested = {architecture(case) for case in set(CASES) - NOT_EXPRESSED}
    assert tested == ARCHITECTURES.keys() == CONFIGS.keys()


def test_float32_gives_the_same_logits_and_tokens(twins: Twins) -> None:
    ours = load_network(twins.safetensors, torch.float32)
    from_gguf = load_network(GgufDirectory(twins.gguf), torch.float32)
    torch.testing.assert_close(logits(from_gguf), logits(ours), atol=1e-4, rtol=0)
    prompt = some_ids(ours, 12).tolist()
    assert generate(from_gguf, prompt, 8) == generate(ours, prompt, 8)


def test_the_magnitude_of_yarn_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0}
    write_checkpoint("llama", tmp_path, rope_parameters=rope | {"attention_factor": 1.5})
    path = write_gguf(tmp_path, tmp_path / "model.gguf")
    ours, from_gguf = load_network(tmp_path, torch.float32), load_network(GgufDirectory(path), torch.float32)
    torch.testing.assert_close(logits(from_gguf), logits(ours), atol=1e-4, rtol=0)


@pytest.mark.parametrize("named", ["rope.scaling.factor", "rope.scale_linear"])
def test_positions_of_older_files_are_scaled(named: str, tmp_path: Path) -> None:
    """They have no type of scaling."""
    write_checkpoint("llama", tmp_path, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0})
    older = {"rope.scaling.type": None, "rope.scaling.factor": None, named: 4.0}
    from_gguf = load_network(GgufDirectory(write_gguf(tmp_path, tmp_path / "model.gguf", **older)), torch.float32)
    torch.testing.assert_close(logits(from_gguf), logits(load_network(tmp_path, torch.float32)), atol=1e-4, rtol=0)


ABSENT = [
    ("deepseek_v3", "expert_gating_func"),  # in early files of GLM-4.7-Flash
    ("granitemoehybrid", "rope.scaling.finetuned"),
]


@pytest.mark.parametrize(("case", "key"), ABSENT)
def test_what_the_metadata_leaves_out_is_as_in_llama_cpp(case: str, key: str, tmp_path: Path) -> None:
    write_checkpoint(case, tmp_path, **({"position_embedding_type": "rope"} if "granite" in case else {}))
    from_gguf = load_network(GgufDirectory(write_gguf(tmp_path, tmp_path / "model.gguf", **{key: None})), torch.float32)
    torch.testing.assert_close(logits(from_gguf), logits(load_network(tmp_path, torch.float32)), atol=1e-4, rtol=0)


def test_a_file_of_gpt_oss_may_say_which_layers_have_windows(tmp_path: Path) -> None:
    kinds = ["full_attention", "sliding_attention"]
    write_checkpoint("gpt_oss", tmp_path, layer_types=kinds, num_hidden_layers=2, **FIXED["gpt_oss"])
    pattern = {"attention.sliding_window_pattern": [kind == "sliding_attention" for kind in kinds]}
    from_gguf = load_network(GgufDirectory(write_gguf(tmp_path, tmp_path / "model.gguf", **pattern)), torch.float32)
    torch.testing.assert_close(logits(from_gguf), logits(load_network(tmp_path, torch.float32)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("case", ["llama", "qwen3_next", "glm4", "phi3", "nemotron_h_moe", "jamba"])
def test_a_quantized_file_stays_near(case: str, kind: GgmlType, tmp_path: Path) -> None:
    write_checkpoint(case, tmp_path)
    path = write_gguf(tmp_path, tmp_path / "quantized.gguf", kind)
    expected = logits(load_network(tmp_path, torch.float32))
    found = logits(load_network(GgufDirectory(path), torch.float32, freeze=False))
    assert (found - expected).square().mean(1).sqrt().median() < ERRORS[kind] * expected.std()


MIXED = {"qwen3_5_moe_text": {"out_proj"}}  # the inputs of these matrices are in another order than in GGUF files


def test_every_matrix_is_taken_as_it_is_stored(twins: Twins) -> None:
    """Rows of codes are moved like rows of numbers."""
    directory = GgufDirectory(write_gguf(twins.safetensors, twins.safetensors / "q8_0.gguf", GgmlType.Q8_0))
    model, again = describe(directory, torch.float32), set()
    reader, rules = open_layout(directory, model)
    scheme = default_scheme(model.hf_config, torch.float32)
    for rule in rules:
        if not is_matrix(model.network, rule.target) or stored_format(reader, rule) is None:
            continue
        codes = read_codes(model.network, reader, rule, scheme)
        if codes is None:
            again.add(rule.target.split(".")[-2])
        else:
            assert torch.equal(codes.dequantized(), read_parameter(reader, rule, torch.float32)), rule.target
    assert again == MIXED.get(twins.case, set())


# of the spread of the logits: activations in 16 bits or in 8 bits
@pytest.mark.parametrize(("kind", "error"), [(GgmlType.Q8_0, 2e-4), (GgmlType.Q4_0, 0.05), (GgmlType.Q4_1, 2e-4)])
@pytest.mark.parametrize("case", ["llama", "qwen3_moe"])
def test_logits_are_those_of_the_dequantized_weights(case: str, kind: GgmlType, error: float, tmp_path: Path) -> None:
    write_checkpoint(case, tmp_path)
    directory = GgufDirectory(write_gguf(tmp_path, tmp_path / "quantized.gguf", kind))
    found = load_network(directory, torch.float32)
    expected = logits(load_network(directory, torch.float32, scheme=plain_scheme(torch.float32)))
    assert (logits(found) - expected).square().mean(1).sqrt().median() < error * expected.std()


def test_headers_tell_what_is_read(twins: Twins) -> None:
    reader = open_checkpoint(GgufDirectory(twins.gguf))
    for name in reader.names():
        tensor, header = reader.get(name), reader.header(name)
        assert (tuple(tensor.shape), tensor.dtype) == (header.shape, header.dtype), name


def test_an_unknown_tensor_is_refused_by_its_name(twins: Twins) -> None:
    directory = GgufDirectory(twins.gguf)
    file = directory._files[0]
    file.tensors["blk.0.attn_rot_embd.weight"] = next(iter(file.tensors.values()))
    with pytest.raises(CheckpointError, match=r"a tensor that this model does not: blk\.0\.attn_rot_embd\.weight"):
        open_layout(directory, describe(directory, torch.float32))


def test_an_order_that_is_not_undone_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control."""
    write_checkpoint("llama", tmp_path)
    monkeypatch.setattr(converter, "_PERMUTED", ())
    path = write_gguf(tmp_path, tmp_path / "model.gguf")
    difference = logits(load_network(GgufDirectory(path), torch.float32)) - logits(
        load_network(tmp_path, torch.float32)
    )
    assert difference.abs().max() > 1e-2
