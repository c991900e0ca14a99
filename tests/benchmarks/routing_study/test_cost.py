"""The decoding that is timed is the network's own."""

import torch

from benchmarks.routing_study.cost import _Decoder, _for_serving, decoding_rate
from benchmarks.routing_study.variants import VARIANTS, Size, model_of
from model.generate import generate
from model.network import CausalLM


def network_of(name: str, size: Size) -> CausalLM:
    torch.manual_seed(0)
    network = CausalLM(model_of(VARIANTS[name], size, 300))
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network


@torch.inference_mode()
def test_the_timed_steps_continue_a_text_as_plain_decoding_does(tiny: Size) -> None:
    network = network_of("relu", tiny)
    decoder = _Decoder(_for_serving(network), streams=2)
    prompts = [[5, 6, 7], [9, 8, 7]]
    tokens = decoder.step(torch.tensor([token for prompt in prompts for token in prompt]), 0, 3)
    found = [tokens.tolist()]
    for position in (3, 4):
        tokens = decoder.step(tokens, position, 1)
        found.append(tokens.tolist())
    expected = [generate(network, prompt, 3) for prompt in prompts]
    assert [list(stream) for stream in zip(*found, strict=True)] == expected


def test_every_kind_of_network_decodes(tiny: Size) -> None:
    for name in VARIANTS:
        network = network_of(name, tiny)
        before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
        assert decoding_rate(network, streams=2) > 0
        assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
