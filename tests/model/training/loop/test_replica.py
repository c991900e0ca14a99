"""Replicas: who does which micro-batch, and gradients as those of one network."""

import torch

from model.config import hybrid_config
from model.network import CausalLM
from model.training.loop.replica import Replica, Workers


def tied_network() -> CausalLM:
    network = CausalLM(
        hybrid_config(
            hidden_size=16,
            num_layers=4,
            num_heads=2,
            num_kv_heads=1,
            head_dim=8,
            num_experts=4,
            expert_width=16,
            shared_width=16,
            vocab_size=32,
        )
    )
    network.tie_head()
    return network


def test_each_work_is_done_once_dealt_out_in_turn() -> None:
    workers = Workers(tied_network(), 2)

    def work(replica: Replica, number: int) -> tuple[int, int]:
        return workers.replicas.index(replica), number

    assert workers.run(work, 5) == [(0, 0), (0, 2), (0, 4), (1, 1), (1, 3)]


def test_mean_gradients_are_the_sum_over_replicas_by_the_micro_batches() -> None:
    workers = Workers(tied_network(), 2)
    for replica, value in zip(workers.replicas, (1.0, 5.0), strict=True):
        for gradient in replica.gradients.values():
            gradient.fill_(value)
    assert all(torch.equal(mean, torch.full_like(mean, 2.0)) for mean in workers.mean_gradients(3).values())
