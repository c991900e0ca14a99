"""Pooling: the same bits however a text is cut into chunks."""

import pytest
import torch
from torch import Tensor

from model.layers.pooling import POOLERS, PoolingType

HIDDEN_TD = torch.randn(200, 48, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)


def pooled(pooling: PoolingType, sizes: list[int]) -> Tensor:
    pooler = POOLERS[pooling]()
    for chunk_TD in HIDDEN_TD.split(sizes):
        pooler.add(chunk_TD)
    return pooler.result()


@pytest.mark.parametrize("pooling", POOLERS)
@pytest.mark.parametrize("sizes", [[1] * 200, [199, 1], [1, 199], [64, 64, 64, 8]], ids=str)
def test_chunks_do_not_matter(pooling: PoolingType, sizes: list[int]) -> None:
    assert torch.equal(pooled(pooling, sizes), pooled(pooling, [200]))


def test_what_each_kind_is() -> None:
    hidden_TD = HIDDEN_TD.float()
    assert torch.equal(pooled("lasttoken", [200]), hidden_TD[-1])
    assert torch.equal(pooled("cls", [200]), hidden_TD[0])
    torch.testing.assert_close(pooled("mean", [200]), hidden_TD.mean(0))


def test_sums_of_chunks_would_depend_on_them() -> None:
    """Negative control: the usual way to add rows is not the same to the last bit."""
    hidden_TD = HIDDEN_TD.float() * 1.1
    assert any(
        not torch.equal(hidden_TD[:cut].sum(0) + hidden_TD[cut:].sum(0), hidden_TD.sum(0)) for cut in range(1, 200, 7)
    )
