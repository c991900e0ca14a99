"""What the kernel tests share: random tensors, ragged sequences, tolerances."""

import torch
from torch import Tensor

DTYPES = [torch.float32, torch.bfloat16]
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


def close(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    torch.testing.assert_close(actual.float(), expected.float(), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape).to(dtype)


def starts_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)


def ragged(lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Starts and (shuffled) rows of sequences of those lengths."""
    return starts_of(lengths), torch.randperm(len(lengths) + 1)[: len(lengths)].to(torch.int32)
