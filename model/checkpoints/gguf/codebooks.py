"""Types of one to three bits, whose bits are numbers of entries in codebooks. The `gguf` library has the codebooks."""

from collections.abc import Callable

import torch
from torch import Tensor

from model.checkpoints.reader import CheckpointError

BLOCKS = 256  # of a row


def decoder(name: str) -> Callable[[Tensor], Tensor]:
    """Dequantizes blocks [N, B] of the type with this name. CheckpointError where the library is not installed."""

    def decode(blocks_NB: Tensor) -> Tensor:
        try:
            import gguf
        except ModuleNotFoundError:
            raise CheckpointError(
                f'tensors of type {name} need the library gguf: pip install "routelm[gguf]"'
            ) from None
        # in long rows: the library takes sixteen of them at a time
        rows = blocks_NB if len(blocks_NB) % BLOCKS else blocks_NB.reshape(len(blocks_NB) // BLOCKS, -1)
        plain = torch.from_numpy(gguf.dequantize(rows.numpy(), gguf.GGMLQuantizationType[name]))
        return plain.view(len(blocks_NB), -1)

    return decode
