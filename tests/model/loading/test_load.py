"""From a directory to a network: each weight read once, packed at once, its plain form let go."""

import json
import mmap
import tracemalloc
from pathlib import Path
from typing import ClassVar
from weakref import ref

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.checkpoints.safetensors_files import CheckpointError, save_weights
from model.config import hybrid_config
from model.families import family_of, qwen3_next
from model.generate import generate
from model.layers.frozen_linear import FrozenGroupedLinear, FrozenLinear
from model.layers.linear import Linear
from model.loading import load as loading
from model.loading.freeze import freeze_network
from model.loading.load import describe, load_network
from model.loading.quantize_checkpoint import quantize_checkpoint
from model.network import CausalLM, cast_matrices
from model.quantization import SCHEMES, Scheme, plain, plain_scheme

TINY = hybrid_config(
    hidden_size=32, num_layers=4, num_heads=2, num_kv_heads=1, head_dim=16, num_experts=4, expert_width=16,
    shared_width=16, vocab_size=64,
)  # fmt: skip
TIED = {
    "model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "rms_norm_eps": 1e-6,
    "max_position_embeddings": 128, "tie_word_embeddings": True,
}  # fmt: skip
PROMPT = [1, 2, 3, 40, 50]


def write(directory: Path, hf_config: dict[str, object]) -> CausalLM:
    """A random network on disk."""
    torch.manual_seed(0)
    family = family_of(hf_config)
    network = CausalLM(family.config_from_hf(hf_config))
    for parameter in network.parameters():
        parameter.data.normal_(std=0.3)
    (directory / "config.json").write_text(json.dumps(hf_config))
    save_weights(network, family.rules(network.config), directory)
    return network.requires_grad_(False).eval()


@pytest.fixture
def stored(tmp_path: Path) -> CausalLM:
    return write(tmp_path, qwen3_next.config_to_hf(TINY))


class Recorder(Scheme):
    """Keeps float32 as it is, and remembers what it was given."""

    shapes: ClassVar[list[tuple[int, ...]]]
    plain: "ClassVar[list[ref[Tensor]]]"

    def linear(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> nn.Module:
        self._look_at(weight_OI)
        return plain_scheme(torch.float32).linear(weight_OI, bias_O)

    def grouped(self, weight_EOI: Tensor, bias_EO: Tensor | None = None) -> nn.Module:
        self._look_at(weight_EOI)
        return plain_scheme(torch.float32).grouped(weight_EOI, bias_EO)

    def _look_at(self, weight: Tensor) -> None:
        assert not [tensor for tensor in self.plain if tensor() is not None], "a packed weight is still there unpacked"
        self.shapes.append(tuple(weight.shape))
        self.plain.append(ref(weight))


@pytest.fixture
def recorder() -> Recorder:
    Recorder.shapes, Recorder.plain = [], []
    return Recorder("recorder", 32.0, plain.keep, head_scheme=plain_scheme(torch.float32))


def test_weights_arrive(stored: CausalLM, tmp_path: Path) -> None:
    loaded = load_network(tmp_path, torch.float32, freeze=False)
    expected = stored.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_on_the_way_or_afterwards_is_the_same(stored: CausalLM, tmp_path: Path, dtype: torch.dtype) -> None:
    expected, loaded = freeze_network(cast_matrices(stored, dtype)), load_network(tmp_path, dtype)
    assert generate(loaded, PROMPT, 8) == generate(expected, PROMPT, 8)


def test_a_scheme_gets_every_matrix_and_plain_weights_go_at_once(
    stored: CausalLM, tmp_path: Path, recorder: Recorder
) -> None:
    loaded = load_network(tmp_path, torch.float32, scheme=recorder)
    matrices = 4 * (2 + 2 + 2)  # a layer's mixer, experts and shared expert; not its router, not the head
    assert len(recorder.shapes) == matrices
    assert not [tensor for tensor in recorder.plain if tensor() is not None]
    assert not [module for module in loaded.modules() if isinstance(module, Linear)]
    assert generate(loaded, PROMPT, 8) == generate(load_network(tmp_path, torch.float32), PROMPT, 8)


def test_the_largest_come_first(stored: CausalLM, tmp_path: Path, recorder: Recorder) -> None:
    load_network(tmp_path, torch.float32, scheme=recorder)
    sizes = [torch.Size(shape).numel() for shape in recorder.shapes]
    assert sizes == sorted(sizes, reverse=True)


def test_every_byte_is_read_once_and_told(stored: CausalLM, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    load_network(tmp_path, progress=lambda read, total: told.append((read, total)))
    stored_bytes = sum(tensor.nbytes for tensor in load_file(tmp_path / "model.safetensors").values())
    assert {total for _, total in told} == {stored_bytes}
    assert [read for read, _ in told] == sorted({read for read, _ in told})
    assert told[-1][0] == stored_bytes


def add_head(directory: Path, weight_VD: torch.Tensor) -> None:
    path = directory / "model.safetensors"
    save_file(load_file(path) | {"lm_head.weight": weight_VD}, path)


@pytest.mark.parametrize("has_copy", [False, True])
def test_a_tied_head_is_the_embedding(tmp_path: Path, has_copy: bool, caplog: pytest.LogCaptureFixture) -> None:
    network = write(tmp_path, TIED)
    if has_copy:
        add_head(tmp_path, load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"].clone())
    hidden_RD = torch.randn(3, 32)
    expected = hidden_RD @ network.embedding.weight.T
    for freeze in (True, False):
        loaded = load_network(tmp_path, torch.float32, freeze=freeze, check=True)
        torch.testing.assert_close(loaded.logits(hidden_RD), expected)
    assert not caplog.text


@pytest.mark.parametrize("freeze", [True, False])
def test_another_head_in_a_tied_checkpoint_is_used_with_a_warning(
    tmp_path: Path, freeze: bool, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, TIED)
    head_VD, hidden_RD = torch.randn(64, 32), torch.randn(3, 32)
    add_head(tmp_path, head_VD)
    loaded = load_network(tmp_path, torch.float32, freeze=freeze)
    torch.testing.assert_close(loaded.logits(hidden_RD), hidden_RD @ head_VD.T)
    assert "lm_head.weight, which differs from the embedding" in caplog.text


def test_another_head_is_used_in_another_type_too_but_not_a_rounded_copy(tmp_path: Path) -> None:
    network = write(tmp_path, TIED)
    add_head(tmp_path, network.embedding.weight.detach().bfloat16())
    assert describe(tmp_path, torch.float32).network.config.tie_word_embeddings
    add_head(tmp_path, torch.randn(64, 32).bfloat16())
    assert not describe(tmp_path, torch.float32).network.config.tie_word_embeddings


@pytest.mark.compiled_kernels
@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="this system has no huge pages to ask for")
def test_small_matrices_lie_one_after_the_other(stored: CausalLM, tmp_path: Path) -> None:
    network = load_network(tmp_path, torch.bfloat16)
    weights = [module.weights for module in network.modules() if isinstance(module, FrozenLinear | FrozenGroupedLinear)]
    places = [one.data.data_ptr() for one in weights]
    assert places == sorted(places)
    assert places[-1] - places[0] < 2 * sum(one.nbytes for one in weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_tied_matrix_is_in_memory_once(tmp_path: Path, dtype: torch.dtype) -> None:
    network = write(tmp_path, TIED)
    loaded, token_ids_T = load_network(tmp_path, dtype), torch.tensor([5, 63, 0])
    assert loaded.embedding.weights is loaded.head.weights
    assert torch.equal(loaded.embedding(token_ids_T), network.embedding(token_ids_T).to(dtype))
    coded = load_network(tmp_path, dtype, scheme=SCHEMES["int8"])  # codes serve the head alone
    assert torch.equal(coded.embedding(token_ids_T), network.embedding(token_ids_T).to(dtype))


def test_weights_that_are_no_numbers_are_found_when_asked(stored: CausalLM, tmp_path: Path) -> None:
    path, name = tmp_path / "model.safetensors", "model.layers.2.mlp.experts.3.up_proj.weight"
    tensors = load_file(path)
    load_network(tmp_path, check=True)
    tensors[name][0, 0] = torch.nan
    save_file(tensors, path)
    load_network(tmp_path)
    with pytest.raises(CheckpointError, match=f"tensor {name} holds NaN"):
        load_network(tmp_path, check=True)


def test_nothing_is_read_from_a_checkpoint_that_does_not_fit(
    stored: CausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    save_file(load_file(path) | {"model.norm.weight": torch.zeros(31)}, path)
    monkeypatch.setattr(loading, "_fill", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(
        CheckpointError, match=r"model\.norm\.weight has shape \(31,\) where the config asks for \(32,\)"
    ):
        load_network(tmp_path)


def test_a_config_that_no_network_has_is_refused(stored: CausalLM, tmp_path: Path) -> None:
    config = qwen3_next.config_to_hf(TINY)
    for changes, message in (
        ({"model_type": "mamba3"}, "'mamba3' is not supported; supported: .*qwen3_next"),
        ({"rope_parameters": {"rope_type": "spiral", "rope_theta": 1e4}}, "rope type 'spiral' is not known"),
        ({"rms_norm_eps": None, "hidden_size": "many"}, r"config\.json describes a network that cannot be built"),
        ({"hidden_size": -1}, "config.json has hidden_size -1: it must be positive"),
        ({"rope_scaling": [1]}, r"config\.json describes a network that cannot be built"),
        ({"rope_parameters": "default"}, r"config\.json describes a network that cannot be built"),
        ({"text_config": [1]}, r"text_config is \[1\] in config\.json: an object is expected"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 5e5}}}, "rope_parameters for each type of layer"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(CheckpointError, match=message):
            load_network(tmp_path)


def assert_refused_at_once(directory: Path, message: str) -> None:
    """Before anything is made for each layer or expert, which would take memory."""
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=message):
            load_network(directory)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts": 1_000_000}, r"is too small, with \d+ bytes, for 4000000 experts"),
        ({"num_experts": 10**15}, "is too small"),
        ({"num_hidden_layers": 10**11}, r"config\.json has num_hidden_layers 100000000000: at most \d+ are possible"),
        ({"num_nextn_predict_layers": 10**11}, "config.json has num_nextn_predict_layers"),
        ({"text_config": {"num_hidden_layers": 10**11}}, "config.json has num_hidden_layers"),
    ],
)
def test_a_config_with_more_than_the_weights_can_hold_is_refused_at_once(
    stored: CausalLM, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(qwen3_next.config_to_hf(TINY) | changes))
    assert_refused_at_once(tmp_path, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts": 8_000_000}, "cannot be read as safetensors"),
        ({"num_hidden_layers": 10**11}, "config.json has num_hidden_layers"),
    ],
)
def test_it_is_refused_at_once_beside_broken_weights_too(
    stored: CausalLM, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(qwen3_next.config_to_hf(TINY) | changes))
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    assert_refused_at_once(tmp_path, message)


@pytest.mark.parametrize("freeze", [True, False])
def test_float16_computes(stored: CausalLM, tmp_path: Path, freeze: bool) -> None:
    network = load_network(tmp_path, torch.float16, freeze=freeze)
    assert network.dtype == torch.float16
    assert generate(network, PROMPT, 4) == generate(load_network(tmp_path, torch.float32), PROMPT, 4)


def test_a_scheme_without_packing_is_refused(stored: CausalLM, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"int8 .* needs freeze=True"):
        load_network(tmp_path, scheme=SCHEMES["int8"], freeze=False)


# What `routelm quantize` wrote


@pytest.fixture
def quantized(stored: CausalLM, tmp_path: Path) -> Path:
    quantize_checkpoint(tmp_path, tmp_path / "int8", SCHEMES["int8"], torch.float32)
    return tmp_path / "int8"


def test_quantized_before_or_on_load_is_the_same(quantized: Path) -> None:
    told: list[tuple[int, int]] = []
    loaded = load_network(quantized, torch.float32, check=True, progress=lambda read, total: told.append((read, total)))
    expected = load_network(quantized.parent, torch.float32, scheme=SCHEMES["int8"])
    hidden_RD = torch.randn(3, 32)
    assert torch.equal(loaded.logits(hidden_RD), expected.logits(hidden_RD))
    assert generate(loaded, PROMPT, 8) == generate(expected, PROMPT, 8)
    assert told[-1][0] == told[-1][1]


def test_what_was_quantized_stays_as_it_is(quantized: Path) -> None:
    assert load_network(quantized, scheme=SCHEMES["int8"])
    for options, wanted in (({"scheme": SCHEMES["int4"]}, "not as int4"), ({"freeze": False}, "not as plain matrices")):
        with pytest.raises(ValueError, match=f"served as int8, on a CPU, and {wanted}"):
            load_network(quantized, **options)
