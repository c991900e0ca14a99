"""Routing metrics by hand, and a real network routed token by token."""

import math
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import decoders, pre_tokenizers
from tokenizers.models import BPE

from model.batch import RectangularBatch
from model.config import hybrid_config
from model.evaluation.data import load_sources
from model.evaluation.routing import network_routings, routing_domains, routing_report
from model.generate import sequence_hidden
from model.layers.router import Routing
from model.network import CausalLM
from model.special_tokens import SPECIAL_TOKENS

EXPERTS = 4


def routing_of(experts: list[list[int]], logits: list[list[float]] | None = None) -> Routing:
    experts_TK = torch.tensor(experts)
    scores_TE = torch.zeros(len(experts), EXPERTS) if logits is None else torch.tensor(logits)
    return Routing(torch.full(experts_TK.shape, 0.5), experts_TK, scores_TE)


def test_balanced_and_certain_router() -> None:
    certain = (1000 * torch.eye(EXPERTS)).tolist()
    report = routing_report(lambda tokens: [routing_of([[0], [1], [2], [3]], certain)], {"a": [[1, 2, 3, 4]]})
    [layer] = report.layers
    assert (layer.mean_k, layer.max_violation, layer.dead_experts) == (1, 0, 0)
    assert layer.marginal_entropy == pytest.approx(2)
    assert layer.conditional_entropy == pytest.approx(0)
    assert layer.token_information == pytest.approx(2)
    assert layer.expert_shares == ((0.25, 0.25, 0.25, 0.25),)


def test_collapsed_and_undecided_router() -> None:
    report = routing_report(lambda tokens: [routing_of([[0, 1]] * 3)], {"a": [[1, 2, 3]]})
    [layer] = report.layers
    assert layer.mean_k == 2
    assert layer.max_violation == pytest.approx(1)  # 3 pairs where the mean is 1.5
    assert layer.dead_experts == 2
    assert layer.token_information == pytest.approx(0)


def test_domains_that_use_other_experts_carry_information() -> None:
    def route(tokens: list[int]) -> list[Routing]:
        return [routing_of([[token] for token in tokens])]

    apart = routing_report(route, {"a": [[0, 1]], "b": [[2, 3], [2, 3]]})  # type: ignore[arg-type]
    assert apart.layers[0].domain_information == pytest.approx(1)
    assert apart.layers[0].expert_shares == ((0.5, 0.5, 0, 0), (0, 0, 0.5, 0.5))
    alike = routing_report(route, {"a": [[0, 2]], "b": [[2, 0], [0, 2]]})  # type: ignore[arg-type]
    assert alike.layers[0].domain_information == pytest.approx(0, abs=1e-9)


def test_choices_of_weight_zero_do_not_count() -> None:
    def route(tokens: object) -> list[Routing | None]:
        weights_TK = torch.tensor([[0.9, 0.0], [0.5, 0.5]])
        return [None, Routing(weights_TK, torch.tensor([[0, 1], [0, 1]]), torch.zeros(2, EXPERTS))]

    [layer] = routing_report(route, {"a": [[5, 6]]}).layers
    assert layer.layer == 1
    assert layer.mean_k == 1.5
    assert layer.expert_shares[0][:2] == pytest.approx((2 / 3, 1 / 3))


def test_nothing_routed_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing was routed"):
        routing_report(lambda tokens: [None], {"a": [[1, 2]]})
    with pytest.raises(ValueError, match="nothing was routed"):
        routing_report(lambda tokens: [routing_of([[0]])], {"a": []})


@pytest.fixture(scope="module")
def network() -> CausalLM:
    torch.manual_seed(0)
    config = hybrid_config(
        hidden_size=32,
        num_layers=2,
        attention_every=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        num_experts=EXPERTS,
        expert_width=16,
        shared_width=16,
        vocab_size=600,
    )
    network = CausalLM(config)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network.requires_grad_(False).eval()


def test_padding_does_not_show(network: CausalLM) -> None:
    route = network_routings(network)
    for size in (1, 15, 16, 17):
        routings = route(list(range(40, 40 + size)))
        assert [len(routing.experts_TK) for routing in routings if routing] == [size, size]
    long, short = route(list(range(40, 72))), route(list(range(40, 55)))
    assert long[1] is not None
    assert short[1] is not None
    torch.testing.assert_close(long[1].scores_TE[:15], short[1].scores_TE)


def test_report_of_a_network_is_within_bounds(network: CausalLM) -> None:
    domains = {"en": [list(range(40, 60)), list(range(70, 80))], "zh": [list(range(300, 340))]}
    report = routing_report(network_routings(network), domains)
    assert (report.domains, report.tokens, len(report.layers)) == (("en", "zh"), 70, 2)
    for layer in report.layers:
        assert layer.mean_k == 2
        assert 0 <= layer.conditional_entropy <= layer.marginal_entropy <= math.log2(EXPERTS) + 1e-6
        assert all(sum(shares) == pytest.approx(1) for shares in layer.expert_shares)
    text = report.to_markdown()
    assert "| zh |" in text
    assert f"{report.layers[0].max_violation:.2f}" in text
    assert report.to_dict()["layers"][1]["token_information"] == report.layers[1].token_information


def test_routed_network_serves_the_same(network: CausalLM) -> None:
    """The training form that is measured and the serving form see the same hidden states."""
    tokens = list(range(50, 70))
    padded = torch.tensor([[*tokens, *[0] * 12]])
    hidden_TD, _ = network(RectangularBatch(padded))
    torch.testing.assert_close(hidden_TD[:20], sequence_hidden(network, tokens), atol=1e-4, rtol=1e-3)


def test_domains_are_tasks_and_languages(data_dir: Path) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: number for number, character in enumerate(alphabet)}
    tokenizer = tokenizers.Tokenizer(BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    domains = routing_domains(load_sources(data_dir, samples=2), tokenizer)
    assert set(domains) == {
        "translate en-de",
        "translate de-en",
        "summarize en",
        "analyze en",
        "chat en",
        "generate en",
    }
    assert all(sequences and all(sequence for sequence in sequences) for sequences in domains.values())
    assert len(domains["translate en-de"]) == len(domains["translate de-en"]) == 2
