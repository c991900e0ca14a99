"""Every type of GGUF tensors against the `gguf` library, on random blocks."""

import sys

import gguf
import numpy as np
import pytest
import torch

from model.checkpoints.gguf.ggml_types import OTHER_NAMES, TYPES, GgmlType
from model.checkpoints.reader import CheckpointError

CODES = {kind.name: code for code, kind in TYPES.items()}


@pytest.mark.filterwarnings(
    "ignore:.*encountered in.*:RuntimeWarning"
)  # random scales are NaN or infinite here and there
@pytest.mark.parametrize("name", CODES)
def test_equals_the_library(name: str) -> None:
    kind = TYPES[CODES[name]]
    blocks_NB = np.random.default_rng(0).integers(0, 256, (200, kind.block_bytes), dtype=np.uint8)
    expected = gguf.dequantize(blocks_NB, gguf.GGMLQuantizationType(CODES[name])).reshape(-1, kind.block_weights)
    stored = torch.from_numpy(blocks_NB)
    found = stored.view(kind.dtype) if kind.decode is None else kind.decode(stored)
    np.testing.assert_array_equal(found.float().numpy(), expected)


@pytest.mark.parametrize("name", [name for name, code in CODES.items() if TYPES[code].codes])
def test_codes_mean_what_the_library_says(name: str) -> None:
    """Exactly; where scales are products, up to their rounding to float16."""
    kind, theirs = TYPES[CODES[name]], gguf.GGMLQuantizationType(CODES[name])
    rng = np.random.default_rng(0)
    blocks_NB = rng.integers(0, 256, (200, kind.block_bytes), dtype=np.uint8)
    blocks_NB[:, :4] = rng.normal(size=(200, 2)).astype(np.float16).view(np.uint8)  # the scale, and the minimum
    expected = torch.from_numpy(gguf.dequantize(blocks_NB, theirs)).view(200, -1)
    assert kind.codes is not None
    codes = kind.codes(torch.from_numpy(blocks_NB))
    assert codes.format is kind.format
    if name not in ("IQ4_XS", "Q4_K"):
        assert torch.equal(codes.dequantized(), expected)
    else:
        largest = expected.abs().amax(1, keepdim=True)
        assert ((codes.dequantized() - expected).abs() <= 2**-9 * largest).all()
        assert not torch.equal(codes.dequantized(), expected)


@pytest.mark.parametrize("name", ["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"])
def test_types_with_codebooks_need_the_library(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = TYPES[CODES[name]]
    assert kind.decode is not None
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(CheckpointError, match=rf"type {name} need the library gguf: pip install \"routelm\[gguf\]\""):
        kind.decode(torch.zeros(1, kind.block_bytes, dtype=torch.uint8))


@pytest.mark.parametrize("code", TYPES)
def test_sizes_and_names_are_those_of_the_library(code: int) -> None:
    theirs, kind = gguf.GGMLQuantizationType(code), TYPES[code]
    assert (kind.name, (kind.block_weights, kind.block_bytes)) == (theirs.name, gguf.GGML_QUANT_SIZES[theirs])


@pytest.mark.parametrize("code", OTHER_NAMES)
def test_types_that_are_not_read_have_their_names(code: int) -> None:
    assert gguf.GGMLQuantizationType(code).name == OTHER_NAMES[code]


def test_the_codes_of_microscaling_are_exact_in_bfloat16() -> None:
    kind: GgmlType = TYPES[CODES["MXFP4"]]
    blocks_NB = torch.zeros(254, 17, dtype=torch.uint8)
    blocks_NB[:, 0] = torch.arange(254)  # all scales but the last, whose products overflow, and NaN
    blocks_NB[:, 1:] = torch.arange(16) * 17
    assert kind.decode is not None
    weights_NB = kind.decode(blocks_NB)
    assert torch.equal(weights_NB.bfloat16().float(), weights_NB)
