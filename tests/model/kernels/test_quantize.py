"""The compiled quantization to INT4 has the bits of its definition, at every level that runs here, and for aarch64."""

import pytest
import torch
from torch import Tensor

from model.kernels.matmul import quantize, quantize_reference
from model.kernels.matmul.codes import Codes

pytestmark = pytest.mark.usefixtures("kernel_target")

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 32), (70, 96), (3, 37, 64)]
LARGE = (4096, 1024)  # so many groups that one of them has another scale if its sums are in another order


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def same(found: Codes, expected: Codes) -> bool:
    return all(map(torch.equal, found.tensors().values(), expected.tensors().values()))


def weights(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Some of them large, some so small that they become zero."""
    return (torch.randn(shape) * torch.randn(shape).exp()).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_int4_has_the_bits_of_its_definition(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    weight = weights(shape, dtype)
    assert same(quantize.quantize_int4(weight), quantize_reference.quantize_int4(weight))


def test_sums_have_the_order_of_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = weights(LARGE, torch.float32)
    found = quantize.quantize_int4(weight)
    assert same(found, quantize_reference.quantize_int4(weight))
    monkeypatch.setattr(quantize_reference, "COLUMNS", 1)
    assert not same(found, quantize_reference.quantize_int4(weight)), "another order gives other scales"


def test_weights_need_not_be_contiguous() -> None:
    weight = torch.randn(64, 96)
    assert same(quantize.quantize_int4(weight.T.contiguous().T), quantize.quantize_int4(weight))


def test_the_first_of_two_largest_weights_becomes_the_lowest_integer() -> None:
    weight = torch.zeros(2, 32)
    weight[0, 3], weight[0, 20], weight[1, 3], weight[1, 20] = 8, -8, -8, 8
    codes = quantize.quantize_int4(weight)
    assert codes.scales is not None
    assert codes.scales.flatten().sign().tolist() == [-1, 1]
    assert same(codes, quantize_reference.quantize_int4(weight))


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_spoil_their_own_group_alone(broken: float) -> None:
    weight = torch.randn(2, 96)
    expected = quantize.quantize_int4(weight)
    weight[0, 40] = broken
    found = quantize.quantize_int4(weight)
    assert torch.equal(found.values[0, :16], expected.values[0, :16])
    assert torch.equal(found.values[1], expected.values[1])
