"""Which experts a network chooses for the tokens of a fixed probe, and what that says about its router.

All measures are of the gates as they are used, so that they mean the same for every algorithm: the experts of a token
are those of positive weight, and its distribution over experts is its weights divided by their sum.

Shapes: T tokens, E experts, D domains, G groups of domains, B rows, L positions.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import tokenizers
import torch
from torch import Tensor

from benchmarks.routing_study.rectangles import groups, rectangle
from benchmarks.routing_study.result import LayerMeasures
from model.batch import PaddedBatch
from model.evaluation.data import EvaluationSource
from model.layers.router import Routing
from model.load_balance import idle_experts, max_violation
from model.network import CausalLM
from model.training.data.examples import ANSWER, HEADER, Example, ExampleEncoder, conversations
from model.training.data.rows import Row

NO_DOMAIN = -1  # of padding and of system messages, whose tags say the task


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """Token sequences as batches, with the domain of each token: a task and a language, such as "translate de"."""

    domains: tuple[str, ...]
    token_ids_BL: tuple[Tensor, ...]
    domain_ids_BL: tuple[Tensor, ...]

    @property
    def domain_ids_T(self) -> Tensor:
        """Of the tokens that count, in the order in which `gates` gives them."""
        flat = torch.cat([domain_ids_BL.flatten() for domain_ids_BL in self.domain_ids_BL])
        return flat[flat != NO_DOMAIN]


def make_probe(sources: Sequence[EvaluationSource], tokenizer: tokenizers.Tokenizer) -> Probe:
    """All rows of the sources. A translation's prompt is in one language, its answer in the other."""
    encoder = ExampleEncoder(tokenizer)
    tokens: list[list[int]] = []
    names: list[list[str]] = []
    for source in sources:
        drafts = [(row, draft) for row in source.rows for draft in conversations(row, with_instructions=False)]
        language = source.language()
        encoded = encoder.encode([draft for _, draft in drafts])
        for number, ((row, _), examples) in enumerate(zip(drafts, encoded, strict=True)):
            prompt, answer = _languages(row, number % 2 == 1, language)
            for example in examples:
                tokens.append(example.token_ids.tolist())
                names.append(_domain_names(example, f"{source.task} {prompt}", f"{source.task} {answer}"))
    domains = tuple(sorted({name for row in names for name in row if name}))
    number_of = {"": NO_DOMAIN} | {name: number for number, name in enumerate(domains)}
    batches = list(groups([len(row) for row in tokens]))
    return Probe(
        domains,
        tuple(rectangle([tokens[index] for index in group]) for group in batches),
        tuple(rectangle([[number_of[name] for name in names[i]] for i in group], NO_DOMAIN) for group in batches),
    )


@torch.no_grad()
def gates(network: CausalLM, probe: Probe) -> list[Tensor]:
    """The weight of every expert for every token that counts, of each routed layer: float32 [T, E]."""
    device = network.embedding.weight.device
    layers: dict[int, list[Tensor]] = {}
    for token_ids_BL, domain_ids_BL in zip(probe.token_ids_BL, probe.domain_ids_BL, strict=True):
        _, routings = network(PaddedBatch(token_ids_BL.to(device)))
        counts = (domain_ids_BL != NO_DOMAIN).flatten()
        for layer, routing in enumerate(routings):
            if routing is not None:
                layers.setdefault(layer, []).append(_dense(routing).cpu()[counts])
    return [torch.cat(parts) for _, parts in sorted(layers.items())]


def layer_measures(gates_TE: Tensor, probe: Probe) -> LayerMeasures:
    """All measures of one layer; entropies and information in bits."""
    used_TE = (gates_TE > 0).double()
    load_E = used_TE.sum(0)
    domain_ids_T = probe.domain_ids_T
    load_DE = torch.zeros(len(probe.domains), used_TE.shape[1], dtype=torch.float64)
    load_DE.index_add_(0, domain_ids_T, used_TE)
    shares_DE = load_DE / load_DE.sum(1, keepdim=True).clamp(min=1)
    routed_TE = gates_TE[used_TE.any(1)].double()
    certainty_TE = routed_TE / routed_TE.sum(1, keepdim=True)
    marginal, conditional = float(entropy(certainty_TE.mean(0))), float(entropy(certainty_TE).mean())
    tasks = _pooled(shares_DE, probe.domains, lambda domain: domain.split()[0])
    languages = _pooled(shares_DE, probe.domains, lambda domain: domain.split()[1])
    return LayerMeasures(
        mean_k=float(load_E.sum()) / len(used_TE),
        max_violation=max_violation(load_E.tolist()),
        idle_experts=len(idle_experts(load_E.tolist())),
        experts=len(load_E),
        entropy=marginal,
        token_information=marginal - conditional,
        task_information=_normalized_information(tasks),
        language_information=_normalized_information(languages),
        task_shares={task: row.tolist() for task, row in tasks.items()},
    )


def save_choices(path: Path, gates_of_layers: Sequence[Tensor]) -> None:
    """Keep which experts were used, a bit each."""
    partial = path.with_suffix(".tmp")
    with partial.open("wb") as file:
        np.savez_compressed(file, *[np.packbits((gates_TE > 0).numpy(), axis=1) for gates_TE in gates_of_layers])
    partial.replace(path)


def agreement(path: Path, gates_of_layers: Sequence[Tensor]) -> float:
    """Share of the experts of a token that it had in the saved choices too, mean over layers: router saturation.

    2 |A and B| / (|A| + |B|) over all tokens: with a fixed number of experts that is the measure of arXiv 2409.02060.
    """
    with np.load(path) as saved:
        before = [torch.from_numpy(np.unpackbits(saved[name], axis=1)).bool() for name in saved.files]
    shares = []
    for earlier_TE, gates_TE in zip(before, gates_of_layers, strict=True):
        now_TE = gates_TE > 0
        both = int((earlier_TE[:, : now_TE.shape[1]] & now_TE).sum())
        shares.append(2 * both / max(int(earlier_TE.sum()) + int(now_TE.sum()), 1))
    return fmean(shares)


def _dense(routing: Routing) -> Tensor:
    return torch.zeros_like(routing.router_logits_TE).scatter_add(1, routing.experts_TK, routing.weights_TK)


def _pooled(shares_DE: Tensor, domains: Sequence[str], name_of: Callable[[str], str]) -> dict[str, Tensor]:
    """The mean shares of the domains of each group."""
    members: dict[str, list[int]] = {}
    for number, domain in enumerate(domains):
        members.setdefault(name_of(domain), []).append(number)
    return {name: shares_DE[numbers].mean(0) for name, numbers in members.items()}


def entropy(probabilities: Tensor) -> Tensor:
    """Of distributions in the last dimension, in bits."""
    return torch.special.entr(probabilities).sum(-1) / math.log(2)


def _normalized_information(shares_of_group: dict[str, Tensor]) -> float:
    """Information between group and expert, groups weighing the same, as a share of what would tell the group."""
    if len(shares_of_group) < 2:
        return 0.0
    shares_GE = torch.stack(list(shares_of_group.values()))
    information = entropy(shares_GE.mean(0)) - entropy(shares_GE).mean()
    return float(information) / math.log2(len(shares_of_group))


def _languages(row: Row, reverse: bool, language: str) -> tuple[str, str]:
    """Of a row's prompt and of its answer."""
    if row["task"] != "translate":
        return language, language
    pair = (row["source_lang"], row["target_lang"])
    return pair[::-1] if reverse else pair


def _domain_names(example: Example, prompt: str, answer: str) -> list[str]:
    names = {HEADER: "", ANSWER: answer}
    return [names.get(kind, prompt) for kind in example.kinds.tolist()]
