"""Measures of a router by hand, the domains of a probe's tokens, and the agreement of choices."""

import math
from pathlib import Path

import pytest
import tokenizers
import torch
from torch import Tensor

from benchmarks.routing_study.choices import (
    NO_DOMAIN,
    Probe,
    agreement,
    gates,
    layer_measures,
    make_probe,
    save_choices,
)
from benchmarks.routing_study.variants import VARIANTS, Size, model_of
from model.evaluation.data import EvaluationSource, load_sources
from model.network import CausalLM

EXPERTS = 4


def probe_of(*domains: str) -> Probe:
    """One token of each named domain."""
    known = tuple(sorted(set(domains)))
    ids = torch.tensor([[known.index(domain) for domain in domains]])
    return Probe(known, (torch.zeros_like(ids),), (ids,))


def one_hot(*experts: int) -> Tensor:
    return torch.eye(EXPERTS)[list(experts)]


def test_balanced_and_certain_router() -> None:
    found = layer_measures(one_hot(0, 1, 2, 3), probe_of(*["chat en"] * 4))
    assert (found.mean_k, found.max_violation, found.idle_experts, found.experts) == (1, 0, 0, EXPERTS)
    assert (found.entropy, found.token_information) == pytest.approx((2, 2))
    assert found.task_shares == {"chat": [0.25] * 4}


def test_collapsed_and_undecided_router() -> None:
    both = torch.tensor([[0.5, 0.5, 0.0, 0.0]]).repeat(3, 1)
    found = layer_measures(both, probe_of(*["chat en"] * 3))
    assert (found.mean_k, found.idle_experts) == (2, 2)
    assert found.max_violation == pytest.approx(1)
    assert found.entropy == pytest.approx(1)
    assert found.token_information == pytest.approx(0)


def test_the_size_of_a_token_s_gates_does_not_matter_but_their_ratio_does() -> None:
    gates_TE = torch.tensor([[3.0, 1.0, 0, 0], [0, 0, 0.3, 0.1]])
    found = layer_measures(gates_TE, probe_of("chat en", "chat en"))
    quarter = 0.25 * 2 + 0.75 * math.log2(4 / 3)
    assert found.entropy - found.token_information == pytest.approx(quarter)


def test_a_token_without_an_expert_counts_in_the_mean_only() -> None:
    gates_TE = torch.cat([one_hot(0, 1), torch.zeros(2, EXPERTS)])
    found = layer_measures(gates_TE, probe_of(*["chat en"] * 4))
    assert found.mean_k == 0.5
    assert found.entropy == pytest.approx(1)


def test_domains_that_use_other_experts_carry_information() -> None:
    domains = ("chat en", "chat zh", "generate en", "generate zh")
    by_task = layer_measures(one_hot(0, 0, 1, 1), probe_of(*domains))
    assert (by_task.task_information, by_task.language_information) == pytest.approx((1, 0))
    by_language = layer_measures(one_hot(0, 1, 0, 1), probe_of(*domains))
    assert (by_language.task_information, by_language.language_information) == pytest.approx((0, 1))
    assert by_language.task_shares["chat"] == [0.5, 0.5, 0, 0]


def test_a_common_domain_does_not_drown_a_rare_one() -> None:
    found = layer_measures(one_hot(0, 0, 0, 0, 1), probe_of(*["chat en"] * 4, "generate en"))
    assert found.task_information == pytest.approx(1)


def test_a_single_domain_says_nothing() -> None:
    assert layer_measures(one_hot(0, 1), probe_of("chat en", "chat en")).task_information == 0


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [((0, 1), (0, 1), 1.0), ((0, 1), (2, 3), 0.0), ((0, 1), (0, 2), 0.5)],
)
def test_agreement_of_choices(tmp_path: Path, before: tuple[int, ...], now: tuple[int, ...], expected: float) -> None:
    save_choices(tmp_path / "choices.npz", [one_hot(*before)])
    assert agreement(tmp_path / "choices.npz", [one_hot(*now)]) == expected


def test_agreement_of_varying_numbers_of_experts_and_many_layers(tmp_path: Path) -> None:
    wide = torch.rand(30, 19) - 0.5
    path = tmp_path / "choices.npz"
    save_choices(path, [wide, one_hot(0)])
    assert agreement(path, [wide, one_hot(0)]) == 1  # of 19 experts, whose bits fill no whole bytes
    assert agreement(path, [-wide, one_hot(0)]) == 0.5
    two = torch.tensor([[1.0, 1.0, 0, 0]])
    save_choices(path, [two])
    assert agreement(path, [one_hot(0)]) == pytest.approx(2 / 3)


def test_probe_tells_tasks_and_languages(data_dir: Path, tokenizer: tokenizers.Tokenizer) -> None:
    probe = make_probe(load_sources(data_dir, samples=3), tokenizer)
    expected = {"translate en", "translate zh", "summarize en", "chat en", "generate en", "analyze en"}
    assert set(probe.domains) == expected
    assert all(ids.shape == domains.shape for ids, domains in zip(probe.token_ids_BL, probe.domain_ids_BL, strict=True))
    counts = torch.bincount(probe.domain_ids_T, minlength=len(expected))
    assert bool((counts > 0).all())


def test_a_translation_is_in_two_languages_and_its_system_message_in_none(tokenizer: tokenizers.Tokenizer) -> None:
    row = {"task": "translate", "source_lang": "en", "target_lang": "de", "source": "Hello.", "target": "Guten Tag."}
    probe = make_probe([EvaluationSource("translate/one-en-de", (row,))], tokenizer)
    assert probe.domains == ("translate de", "translate en")
    for tokens, domains in zip(probe.token_ids_BL[0], probe.domain_ids_BL[0], strict=True):
        texts = {
            name: tokenizer.decode(tokens[domains == number].tolist()) for number, name in enumerate(probe.domains)
        }
        hidden = tokenizer.decode(tokens[domains == NO_DOMAIN].tolist(), skip_special_tokens=False)
        assert "system" in hidden
        assert "Hello." not in hidden
        both = {texts["translate en"].strip().removeprefix("user").strip(), texts["translate de"].strip()}
        assert "Hello." in texts["translate en"]
        assert "Guten Tag." in texts["translate de"]
        assert len(both) == 2


@pytest.mark.parametrize("name", ["softmax-top-2", "relu", "top-p", "expert-threshold", "hash", "dense-active"])
def test_gates_are_those_of_the_network(name: str, tiny: Size, data_dir: Path, tokenizer: tokenizers.Tokenizer) -> None:
    torch.manual_seed(0)
    network = CausalLM(model_of(VARIANTS[name], tiny, 7680))
    probe = make_probe(load_sources(data_dir, samples=1), tokenizer)
    found = gates(network, probe)
    assert len(found) == (0 if name.startswith("dense") else 4)
    for gates_TE in found:
        assert gates_TE.shape == (len(probe.domain_ids_T), tiny.num_experts)
        measures = layer_measures(gates_TE, probe)
        if name in ("softmax-top-2", "hash"):
            assert measures.mean_k == 2
        assert 0 <= measures.token_information <= measures.entropy <= 2 + 1e-6
