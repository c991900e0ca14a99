"""Answers to random JSON schemas, checked by `jsonschema`."""

import json
import random
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from server.engine.engine import Engine
from server.engine.grammar.constraint import GrammarConstraint
from server.engine.types import EngineOutput, FinishReason
from server.generation.grammar import JsonSchemaGrammar
from tests.server.engine.grammar.random_schemas import SchemaMaker, changed
from tests.server.engine.grammar.vocabulary import Vocabulary
from tests.server.engine.tiny import engine_config, request, run, tiny_config, tiny_network

NUM_SCHEMAS = 300
VOCABULARY = Vocabulary()
LENGTH = 600
SCHEMAS = [SchemaMaker(seed).schema() for seed in range(NUM_SCHEMAS)]


def is_valid(value: Any, schema: Any) -> bool:
    return Draft202012Validator(schema, format_checker=FormatChecker()).is_valid(value)


@pytest.fixture(scope="module")
def complete() -> dict[int, str]:
    """What a network that knows no JSON answers to SCHEMAS, by their index; it likes to end strings and lists.

    Answers that did not end in time are left out.
    """
    network = tiny_network(tiny_config(max_positions=LENGTH))
    ends = tuple((VOCABULARY(character)[0], 9.0) for character in '"]},')
    requests = [
        request(
            f"{number}",
            VOCABULARY("Say something."),
            LENGTH - 20,
            temperature=1.0,
            seed=number,
            logit_bias=ends,
            frequency_penalty=0.1,
            grammar=JsonSchemaGrammar("schema", schema).text(),
        )
        for number, schema in enumerate(SCHEMAS)
    ]
    config = engine_config(max_model_len=LENGTH, cache_bytes=2**26)
    found: dict[str, EngineOutput] = run(Engine(network, config, grammars=VOCABULARY.compiler()), requests)
    ended = {name: output for name, output in found.items() if output.finish_reason is FinishReason.STOP}
    return {int(name): VOCABULARY.text(output.token_ids) for name, output in ended.items()}


def accepts(constraint: GrammarConstraint, text: str) -> bool:
    """Whether the grammar may end after the text."""
    constraint.advance(VOCABULARY(text))
    return constraint.error is None and constraint.may_end


@pytest.mark.slow
def test_every_answer_is_valid(complete: dict[int, str]) -> None:
    assert len(complete) > 0.95 * NUM_SCHEMAS
    values = {number: json.loads(text) for number, text in complete.items()}
    wrong = [(SCHEMAS[number], value) for number, value in values.items() if not is_valid(value, SCHEMAS[number])]
    assert not wrong
    rng = random.Random(0)
    elsewhere = sum(not is_valid(value, rng.choice(SCHEMAS)) for value in values.values())
    assert elsewhere > len(values) / 2, "an answer to another schema must be able to fail"


@pytest.mark.slow
def test_invalid_instances_are_never_accepted(complete: dict[int, str]) -> None:
    compiler, rng = VOCABULARY.compiler(), random.Random(1)
    refused = accepted = 0
    for number, text in complete.items():
        schema = SCHEMAS[number]
        grammar = JsonSchemaGrammar("schema", schema).text()
        assert accepts(compiler.constraint(grammar), text)
        for _ in range(10):
            value = changed(json.loads(text), rng)
            if not is_valid(value, schema):
                assert not accepts(compiler.constraint(grammar), json.dumps(value)), (schema, value)
                refused += 1
            else:
                accepted += accepts(compiler.constraint(grammar), json.dumps(value))
    assert refused > 5 * NUM_SCHEMAS
    assert accepted > NUM_SCHEMAS / 5, "changed values must be able to be accepted"
