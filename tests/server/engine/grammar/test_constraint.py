"""Sequences with a grammar: what they may say, what it costs the others, and how they end."""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from llguidance import LLParserLimits, LLTokenizer
from torch import Tensor

from model.generate import generate
from model.kernels.sampling_reference import gumbel_noise
from model.network import CausalLM
from server.engine.engine import Engine
from server.engine.grammar import constraint
from server.engine.grammar.compiler import GrammarCompiler
from server.engine.grammar.constraint import MaskBiases
from server.engine.types import EngineOutput, FinishReason, GenerateRequest
from tests.server.engine.grammar.vocabulary import EOS_ID, TAG_ID, Vocabulary
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


def one(network: CausalLM, vocabulary: Vocabulary | None = None, **sampling: Any) -> EngineOutput:
    """The answer to one request with a grammar."""
    values = {"temperature": 1.0, "seed": 3, "grammar": CHOICE} | sampling
    return run(engine(network, vocabulary), [request("r", (40, 41, 42), values.pop("max_tokens", 60), **values)])["r"]


def test_the_end_token_may_come_where_the_grammar_may_end_and_nowhere_else(network: CausalLM) -> None:
    """A bias makes the end token the likeliest everywhere."""
    vocabulary = Vocabulary()
    ends = ((EOS_ID, 100.0),)
    shortest = one(network, grammar='start: "xy" /z*/', logit_bias=ends)
    assert vocabulary.text(shortest.token_ids) == "xy"
    assert shortest.token_ids[-1] == EOS_ID
    longer = one(network, grammar='start: "xy" /z*/', logit_bias=((EOS_ID, -100.0),), max_tokens=9)
    assert vocabulary.text(longer.token_ids) == "xy" + "z" * 7
    assert longer.finish_reason is FinishReason.LENGTH


def test_a_complete_answer_ends_without_an_end_token(network: CausalLM) -> None:
    for vocabulary in (Vocabulary(), Vocabulary(eos_token_id=None)):
        found = one(network, vocabulary)
        assert vocabulary.text(found.token_ids) in WORDS
        assert EOS_ID not in found.token_ids
        assert found.finish_reason is FinishReason.STOP


@pytest.mark.parametrize("more", [{"min_tokens": 50}, {"ignore_eos": True}, {"allowed_token_ids": (5,)}], ids=str)
def test_a_grammar_has_the_last_word(network: CausalLM, more: dict[str, Any]) -> None:
    vocabulary = Vocabulary()
    found = one(network, vocabulary, **more)
    assert vocabulary.text(found.token_ids) in WORDS
    assert found.finish_reason is FinishReason.STOP


def test_other_processors_choose_among_what_is_allowed(network: CausalLM) -> None:
    vocabulary = Vocabulary()
    (letter,) = vocabulary("x")
    assert vocabulary.text(one(network, vocabulary, logit_bias=((letter, 100.0),)).token_ids) == "x"
    assert vocabulary.text(one(network, vocabulary, logit_bias=((letter, -100.0),)).token_ids) != "x"
    digits = vocabulary.text(one(network, grammar="start: /[0-9]{10}/", frequency_penalty=2.0, temperature=0).token_ids)
    assert len(set(digits)) > 5, "a penalty spreads the digits"


def test_a_stop_token_ends_the_answer_in_the_middle_of_the_grammar(network: CausalLM) -> None:
    vocabulary = Vocabulary()
    (space,) = vocabulary(" ")
    found = one(network, vocabulary, grammar='start: "a" " " "b"', stop_token_ids=frozenset({space}))
    assert vocabulary.text(found.token_ids) == "a "
    assert found.finish_reason is FinishReason.STOP


def test_forced_tokens_end_where_max_tokens_says(network: CausalLM) -> None:
    found = one(network, grammar='start: "one two three"', max_tokens=5)
    assert Vocabulary().text(found.token_ids) == "one t"
    assert found.finish_reason is FinishReason.LENGTH


def test_log_probabilities_are_those_of_the_model(network: CausalLM) -> None:
    free = one(network, grammar=None, logprobs=3, max_tokens=1)
    bound = one(network, logprobs=3)
    assert bound.logprobs[0].top == free.logprobs[0].top
    assert len(bound.logprobs) == len(bound.token_ids)


def test_a_special_token_is_named_and_is_no_text(network: CausalLM) -> None:
    vocabulary = Vocabulary()
    found = one(network, vocabulary, grammar=f'start: /[a-z]{{3}}/ <[{TAG_ID}]> "y"')
    assert found.token_ids[-2:] == (TAG_ID, *vocabulary("y"))
    text = one(network, vocabulary, grammar='start: "<tag>"')
    assert TAG_ID not in text.token_ids
    assert vocabulary.text(text.token_ids) == "<tag>"


def test_a_grammar_that_fails_on_the_way_ends_its_own_request_alone(network: CausalLM) -> None:
    vocabulary = Vocabulary()
    compiler = GrammarCompiler(
        lambda: LLTokenizer(vocabulary),  # type: ignore[arg-type]
        lambda: LLParserLimits(max_lexer_states=60, verbose_errors=False),
    )
    made = Engine(network, engine_config(eos_token_ids=EOS), grammars=compiler)
    hard = "start: /(a|b)*a(a|b){30}/"
    neighbour = request("free", (50, 51), 120, temperature=1.0, seed=1)
    compiler.compile(hard)
    kept = compiler.start(hard).result()
    found = run(made, [request("hard", (40, 41), 120, temperature=1.0, seed=2, grammar=hard), neighbour])
    failed = found["hard"]
    assert failed.finish_reason is FinishReason.ERROR
    assert failed.is_request_error
    assert "cannot be followed" in str(failed.error)
    assert set(vocabulary.text(failed.token_ids)) <= {"a", "b"}
    assert found["free"].token_ids == oracle(network, neighbour, eos=EOS)
    assert made.stats().step_failures == 0
    assert compiler.start(hard).result() is not kept, "the next request must not begin with a full lexer"
    assert_memory_is_free(made)


def test_requests_that_cannot_be_served_are_refused(network: CausalLM) -> None:
    with pytest.raises(ValueError, match="grammars are not available"):
        Engine(network, engine_config()).submit(request("r", (40,), 5, grammar=CHOICE))
    made = engine(network)
    with pytest.raises(ValueError, match="unknown name"):
        made.submit(request("r", (40,), 5, grammar="start: nothing"))
    with pytest.raises(ValueError, match="grammar has no meaning in a beam search"):
        made.submit(request("r", (40,), 5, grammar=CHOICE, beam_width=2))
    assert not made.has_unfinished


def test_the_engine_compiles_no_grammar_that_was_compiled_before(
    network: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the compiler does not keep it any more."""
    vocabulary = Vocabulary()
    compiler = vocabulary.compiler()
    made = Engine(network, engine_config(eos_token_ids=EOS), grammars=compiler)
    grammar = compiler.start(CHOICE).result()
    compiler.forget(CHOICE)
    monkeypatch.setattr(compiler, "_compile", None)
    asked = request("r", (40, 41), 30, temperature=1.0, seed=3, grammar=grammar)
    assert vocabulary.text(run(made, [asked])["r"].token_ids) in WORDS
    with pytest.raises(TypeError):
        made.check(request("r", (40, 41), 30, grammar=str(grammar)))


def test_an_evicted_grammar_is_compiled_again(network: CausalLM) -> None:
    vocabulary = Vocabulary()
    compiler = vocabulary.compiler()
    made = Engine(network, engine_config(eos_token_ids=EOS), grammars=compiler)
    asked = request("r", (40, 41), 30, temperature=1.0, seed=3, grammar=CHOICE)
    made.check(asked)
    compiler.forget(CHOICE)
    assert vocabulary.text(run(made, [asked])["r"].token_ids) in WORDS


def test_a_mask_forbids_the_tokens_whose_bit_is_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it was kept, and after it was dropped for others."""
    monkeypatch.setattr(constraint, "MAX_BIASES", 3 * 45)
    rng, biases, logits_V = np.random.default_rng(0), MaskBiases(), torch.zeros(45)
    masks = [rng.bytes(8) for _ in range(5)]
    for number in rng.integers(0, 5, 50):
        bits = np.unpackbits(np.frombuffer(masks[number], np.uint8), bitorder="little", count=45)
        expected = torch.tensor([0.0 if bit else -torch.inf for bit in bits])
        assert torch.equal(biases.bias(masks[number], logits_V), expected)
        assert len(biases._kept) <= 3
