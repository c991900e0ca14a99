"""Adapters of every family against the same weights merged into the checkpoint."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.loading.load import load_network
from model.network import CausalLM
from tests.model.batches import whole_batch
from tests.model.families.checkpoints import CASES, write_checkpoint
from tests.model.loading.lora.adapters import matrices, merged, with_adapters, write_adapter

LENGTH = 20


@torch.inference_mode()
def logits(network: CausalLM, adapter: int | None = None) -> torch.Tensor:
    ids = torch.randint(0, network.config.vocab_size, (LENGTH,), generator=torch.Generator().manual_seed(1))
    batch = whole_batch(network, ids)
    if adapter is not None:
        batch = replace(batch, adapters_T=torch.full((LENGTH,), adapter))
    return network.logits(network(batch)[0])


@pytest.mark.parametrize("case", CASES)
def test_an_adapter_equals_its_merged_weights(case: str, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(case, tmp_path / "base").directory
    changed = matrices(checkpoint)
    assert changed
    adapter = write_adapter(tmp_path / "one", changed)
    network = with_adapters(checkpoint, [adapter])
    alone, expected = (
        logits(network),
        logits(load_network(merged(checkpoint, adapter, tmp_path / "merged"), torch.float32)),
    )
    difference, error = (alone - expected).abs().max(), (logits(network, 0) - expected).abs().max()
    assert error < 1e-3 * difference, "the merged weights are rounded to float32"
    assert torch.equal(alone, logits(load_network(checkpoint, torch.float32)))
