"""What the training benchmark puts in place of the trainer's parts fits there."""

import inspect

from benchmarks.training import coarse_stream, fused_attention, weighted
from model import batch
from model.training.loop import losses
from model.training.loop.trainer import Trainer


def test_variants_are_called_as_what_they_replace() -> None:
    replaced = {
        coarse_stream: Trainer._stream,
        fused_attention: batch._explicit_attention,
        weighted: losses.sample_weights,
    }
    for variant, original in replaced.items():
        assert len(inspect.signature(variant).parameters) == len(inspect.signature(original).parameters)
