"""The mean of trained models, weight by weight: often better than each of them (arXiv 2203.05482)."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch

from model.loading.load import load_network
from model.training.export import export


@torch.no_grad()
def average(models: Sequence[Path], out: Path) -> Path:
    """Write the mean of finished models of one network, such as `<run>/model`, as a checkpoint directory.

    A model that stands twice counts twice. They must have a common ancestor: the mean of strangers is noise.
    ValueError where there are fewer than two, or their networks differ.
    """
    if len(models) < 2:
        raise ValueError("a mean takes two models or more")
    mean, *others = (load_network(path, torch.float32, freeze=False) for path in models)
    for path, other in zip(models[1:], others, strict=True):
        if other.config != mean.config:
            raise ValueError(f"{path} holds another network than {models[0]}")
    for tensor, *of_others in zip(*(chain(n.parameters(), n.buffers()) for n in (mean, *others)), strict=True):
        if tensor.is_floating_point():
            tensor.copy_(torch.stack([tensor, *of_others]).mean(0))
    return export(mean, models[0], out)
