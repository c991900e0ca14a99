"""Sequences with a grammar: what they may say, what it costs the others, and how they end."""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.generate import generate
from model.network import CausalLM
from server.engine.engine import Engine
from server.engine.sampler import gumbel_noise
from server.engine.types import EngineOutput, FinishReason, GenerateRequest
from tests.server.engine.grammar.vocabulary import EOS_ID, Vocabulary
from tests.server.engine.tiny import (
    assert_memory_is_free,
    bytes_for,
    collect,
    engine_config,
    oracle,
    random_prompt,
    request,
    run,
)

WORDS = ("a cat", "a cat and a dog", "a dog", "birds", "big birds, and bigger ones", "x")
CHOICE = "start: " + " | ".join(json.dumps(word) for word in WORDS)
EOS = frozenset({EOS_ID})
PERSON = json.dumps(
    {
        "grammars": [
            {
                "json_schema": {
                    "x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "},
                    "type": "object",
                    "properties": {
                        "name": {"type": "string", "maxLength": 6},
                        "is_member": {"type": "boolean"},
                        "age": {"type": "integer", "minimum": 0, "maximum": 150},
                    },
                    "required": ["name", "is_member", "age"],
                    "additionalProperties": False,
                }
            }
        ]
    }
)


def engine(network: CausalLM, vocabulary: Vocabulary | None = None, **changes: Any) -> Engine:
    vocabulary = vocabulary or Vocabulary()
    ends = frozenset() if vocabulary.eos_token_id is None else EOS
    config = engine_config(**({"eos_token_ids": ends} | changes))
    return Engine(network, config, grammars=vocabulary.compiler())


def outputs_of(engine: Engine, requests: Iterable[GenerateRequest]) -> list[EngineOutput]:
    outputs = []
    for asked in requests:
        engine.submit(asked)
    while engine.has_unfinished:
        outputs += engine.step()
    return outputs


def by_definition(network: CausalLM, asked: GenerateRequest, vocabulary: Vocabulary) -> tuple[int, ...]:
    """The likeliest token, with noise or without, of those that lead to one of WORDS; decoded naively."""
    text = b""

    def choose(logits_V: Tensor, position: int) -> int:
        nonlocal text
        words = [word.encode() for word in WORDS]
        allowed = [
            token_id
            for token_id, token in enumerate(vocabulary.tokens)
            if token_id > EOS_ID + 1 and token and any(word.startswith(text + token) for word in words)
        ]
        allowed += [EOS_ID] if text in words else []
        scores_V = torch.full_like(logits_V, float("-inf"))
        scores_V[allowed] = logits_V[allowed]
        if asked.sampling.temperature:
            noise_V = torch.from_numpy(gumbel_noise(asked.sampling.seed or 0, position, len(logits_V)))
            scores_V = (scores_V - scores_V.max()) / asked.sampling.temperature + noise_V
        token_id = int(scores_V.argmax())
        text += vocabulary.tokens[token_id]
        return token_id

    ends = (*EOS, -1)
    found = generate(network, asked.prompt_token_ids, asked.sampling.max_tokens, stop=ends, choose=choose)
    return tuple(found)


def constrained_and_free(seed: int = 0) -> list[GenerateRequest]:
    rng = np.random.default_rng(seed)
    return [
        request(
            f"r{number}",
            random_prompt(rng, 5 + number),
            30,
            seed=number,
            temperature=(0.0, 1.0, 3.0)[number % 3],
            grammar=CHOICE if number % 2 else None,
        )
        for number in range(8)
    ]


def test_answers_equal_the_definition_and_neighbours_keep_their_bits(network: CausalLM) -> None:
    """Only characters are tokens here, so that the text determines them."""
    vocabulary = Vocabulary(longer=[])
    requests = constrained_and_free()
    found = run(engine(network, vocabulary), requests)
    said = set()
    for asked in requests:
        token_ids = found[asked.request_id].token_ids
        if asked.sampling.grammar is None:
            assert token_ids == oracle(network, asked, eos=EOS)
            continue
        expected = by_definition(network, asked, vocabulary)
        assert [token for token in token_ids if token != EOS_ID] == [token for token in expected if token != EOS_ID]
        assert found[asked.request_id].finish_reason is FinishReason.STOP
        said.add(vocabulary.text(token_ids))
    assert said <= set(WORDS)
    assert len(said) > 1, "the comparison must be of different answers"


def test_forced_tokens_are_not_sampled_and_are_the_same_as_if_they_were(network: CausalLM) -> None:
    """With log-probabilities each token is sampled under a mask of one token."""
    vocabulary = Vocabulary()
    asked = [request(f"r{n}", random_prompt(np.random.default_rng(n), 9), 60, seed=n, temperature=1.0, grammar=PERSON)
             for n in range(4)]  # fmt: skip
    quick = outputs_of(engine(network, vocabulary), asked)
    slow = outputs_of(
        engine(network, vocabulary), [replace(a, sampling=replace(a.sampling, logprobs=2)) for a in asked]
    )
    assert {len(output.token_ids) for output in slow} == {1}
    assert len(quick) < len(slow) / 2
    quickly, slowly = collect(quick), collect(slow)
    for name, output in quickly.items():
        assert output.token_ids == slowly[name].token_ids
        assert output.finish_reason is FinishReason.STOP
        person = json.loads(vocabulary.text(output.token_ids))
        assert list(person) == ["name", "is_member", "age"]
        assert 0 <= person["age"] <= 150


def test_preempted_equals_undisturbed(network: CausalLM) -> None:
    requests = [
        request(f"r{n}", random_prompt(np.random.default_rng(n), 20), 60, seed=n, temperature=1.5, grammar=PERSON)
        for n in range(6)
    ]
    undisturbed = run(engine(network), requests)
    values = {"max_model_len": 96, "max_num_seqs": 6, "block_size": 4}
    budget = bytes_for(network, engine_config(**values), blocks=40)
    small = engine(network, **(values | {"cache_bytes": budget}))
    found = run(small, requests)
    assert small.stats().preemptions > 0
    assert {name: out.token_ids for name, out in found.items()} == {n: o.token_ids for n, o in undisturbed.items()}
    assert_memory_is_free(small)
