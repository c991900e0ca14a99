"""The moving average of the weights: its arithmetic, and that training goes on from the last weights."""

import torch

from model.config import hybrid_config
from model.network import CausalLM, cast_matrices
from model.training.ema import ExponentialMovingAverage
from model.training.optimizer import Optimizer, OptimizerConfig


def averaged(decay: float) -> tuple[Optimizer, ExponentialMovingAverage]:
    torch.manual_seed(0)
    network = CausalLM(
        hybrid_config(hidden_size=16, num_layers=4, num_heads=2, num_kv_heads=1, head_dim=8, vocab_size=32)
    )
    network.tie_head()
    optimizer = Optimizer(network, OptimizerConfig())
    cast_matrices(network, torch.bfloat16)
    return optimizer, ExponentialMovingAverage(optimizer, decay)


def test_the_mean_is_that_of_the_definition() -> None:
    optimizer, average = averaged(0.5)
    name, master = next(iter(optimizer.masters.items()))
    expected = master.clone()
    for step in range(1, 21):
        master.add_(1.0)
        average.update()
        decay = min(0.5, step / (step + 9))
        expected = decay * expected + (1 - decay) * master
    torch.testing.assert_close(average.state_tensors()[f"ema/{name}"], expected)


def test_the_network_holds_the_average_only_inside() -> None:
    optimizer, average = averaged(0.9)
    name, master = next(iter(optimizer.masters.items()))
    before = optimizer.parameters[name].clone()
    optimizer.show({key: value + 1.0 for key, value in optimizer.masters.items()})
    master.add_(1.0)
    average.update()
    with average.in_network():
        mean = average.state_tensors()[f"ema/{name}"]
        torch.testing.assert_close(optimizer.parameters[name].float(), mean, atol=0.02, rtol=0.02)
    assert not torch.equal(optimizer.parameters[name], before)
    torch.testing.assert_close(optimizer.parameters[name].float(), master, atol=0.02, rtol=0.02)


def test_it_resumes_and_begins_at_the_masters_without_a_state() -> None:
    _, one = averaged(0.9)
    optimizer, other = averaged(0.9)
    state = {name: tensor + 3.0 for name, tensor in one.state_tensors().items()}
    other.load_state_tensors(state, updates=7)
    assert all(torch.equal(tensor, state[name]) for name, tensor in other.state_tensors().items())
    other.load_state_tensors({}, updates=0)
    assert all(torch.equal(other.state_tensors()[f"ema/{name}"], master) for name, master in optimizer.masters.items())
