"""The grammar of a format allows what its router reads: random answers that follow one are calls of the tools."""

import json
import random
import re
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from llguidance import LLMatcher, LLTokenizer

from model.text.chat_formats import atem
from model.text.chat_formats.atem import AtemFormat
from model.text.chat_formats.chat_format import ChatFormat, Constraints, PromptEnd
from model.text.chat_formats.detection import chat_format
from model.text.chat_formats.families import CALL_FAMILIES, PLAIN_JSON, REASONING_FAMILIES, CallFamily
from model.text.chat_formats.fields import Field
from model.text.chat_formats.harmony import MARKERS, HarmonyFormat
from model.text.chat_formats.tagged_format import TaggedFormat
from model.text.tokenizer import Tokenizer
from tests.model.text.chat_formats.vocabulary import byte_tokenizer

SCHEMAS: dict[str, dict[str, Any]] = {
    "weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 5},
            "days": {"type": "integer", "minimum": 0, "maximum": 99},
            "unit": {"type": "string", "enum": ["c", "f"]},
            "place": {"type": "object", "properties": {"x": {"type": "boolean"}}, "additionalProperties": False},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 2},
            "note": {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "null"}]},
        },
        "required": ["city"],
        "additionalProperties": False,
    },
    "now": {"type": "object", "properties": {}, "additionalProperties": False},
}
CHARACTERS = set(b"ab<>/\"'{}[]\n =:,.0123456789cefinotuy_xwhrdsplg")


class Vocabulary:
    """What llguidance asks of a tokenizer."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.eos_token_id = tokenizer.eos_token_ids[0]
        self.tokens = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)]
        self.special_token_ids = sorted(tokenizer.special_ids)
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)


def random_answer(tokenizer: Tokenizer, grammar: str, seed: int, begun: str = "") -> str:
    """Goes on with `begun` at random as the grammar allows, with few characters; ends where it may."""
    matcher = LLMatcher(LLTokenizer(Vocabulary(tokenizer)), grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    choose, ids = random.Random(seed), tokenizer.encode(begun, allow_special=True)
    assert matcher.try_consume_tokens(ids) == len(ids), begun
    while not matcher.is_stopped() and len(ids) < 2000:
        if matcher.is_accepting() and choose.random() < 0.5:
            break
        biases = matcher.compute_logit_bias()
        allowed = [token_id for token_id, bias in enumerate(biases) if bias and token_id != tokenizer.eos_token_ids[0]]
        if not allowed:
            break
        usual = [each for each in allowed if tokenizer.token_bytes(each)[:1][0] in CHARACTERS or each > 256]
        ids.append(choose.choice(usual or allowed))
        assert matcher.consume_token(ids[-1])
    assert matcher.is_accepting(), tokenizer.decode(ids, skip_special=False)
    return tokenizer.decode(ids, skip_special=False)


def calls_of(form: ChatFormat, answer: str, end: PromptEnd) -> list[tuple[str, str]]:
    router = form.router(SCHEMAS, end)
    assert router is not None
    calls: list[list[str]] = []
    for delta in [*router.feed(answer), *router.finish()]:
        if delta.field is Field.TOOL_NAME:
            calls.append([delta.text, ""])
        elif delta.field is Field.TOOL_ARGUMENTS:
            calls[delta.index][1] += delta.text
        else:
            assert delta.field is Field.REASONING or not delta.text, (answer, delta)
    return [(name, arguments) for name, arguments in calls]


def check_calls(calls: list[tuple[str, str]]) -> None:
    assert calls
    for name, arguments in calls:
        jsonschema.validate(json.loads(arguments, strict=False), SCHEMAS[name])


@pytest.mark.parametrize("special", [False, True], ids=["markers are text", "markers are tokens"])
@pytest.mark.parametrize("family", [*CALL_FAMILIES, PLAIN_JSON], ids=lambda family: family.name)
def test_what_a_grammar_of_required_calls_allows_is_read_as_calls(family: CallFamily, special: bool) -> None:
    markers = [marker for marker in family.calls.markers if re.fullmatch(r"<.*>|]<]minimax\[>\[", marker)]
    tokenizer = byte_tokenizer(list(dict.fromkeys(markers)) if special else ())
    form = chat_format(" ".join(family.signs), tokenizer.special_tokens)
    assert isinstance(form, TaggedFormat)
    end = PromptEnd(form.reasoning.close if form.reasoning else "")  # without reasoning
    for many in (False, True):
        grammar = form.grammar(Constraints(SCHEMAS, required=True, many=many), end)
        assert grammar is not None
        for seed in range(1 + many):
            calls = calls_of(form, random_answer(tokenizer, grammar, seed), end)
            check_calls(calls)
            assert many or len(calls) == 1


def test_harmony() -> None:
    tokenizer = byte_tokenizer(MARKERS)
    form = chat_format("", tokenizer.special_tokens)
    assert isinstance(form, HarmonyFormat)
    end = PromptEnd("<|start|>assistant")
    grammar = form.grammar(Constraints(SCHEMAS, required=True), end)
    assert grammar is not None
    for begun in ("", "<|channel|>analysis<|message|>hm<|end|><|start|>assistant"):
        for seed in range(3):
            answer = random_answer(tokenizer, grammar, seed, f"{begun}<|channel|>commentary")
            check_calls(calls_of(form, answer, end))


NESTED: dict[str, Any] = {
    "type": "object",
    "properties": {
        "steps": {
            "type": "array",
            "minItems": 2,
            "maxItems": 3,
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "maxLength": 3},
                    "sizes": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "maxItems": 2},
                },
                "required": ["name"],
                "additionalProperties": False,
            },
        },
        "none": {"type": "array", "items": {"type": "string"}, "maxItems": 0},
        "shared": {"$ref": "#/$defs/flag"},
        "flags": {"type": "array", "items": {"$ref": "#/$defs/flag"}, "minItems": 1, "maxItems": 2},
        "free": {
            "type": "object",
            "properties": {"a": {"const": 1}},
            "minProperties": 1,
            "additionalProperties": False,
        },
    },
    "required": ["steps", "none", "shared", "flags", "free"],
    "additionalProperties": False,
    "$defs": {"flag": {"type": "boolean"}},
}


@pytest.mark.parametrize("name", ["Gemma 4", "MiniMax M3"])
def test_nested_arguments_follow_the_schema(name: str) -> None:
    [family] = [row for row in CALL_FAMILIES if row.name == name]
    form, tokenizer = chat_format(" ".join(family.signs), {}), byte_tokenizer()
    grammar = form.grammar(Constraints({"f": NESTED}, required=True, many=False), PromptEnd())
    assert grammar is not None
    for seed in range(5):
        router = form.router({"f": NESTED}, PromptEnd())
        assert router is not None
        answer = random_answer(tokenizer, grammar, seed)
        deltas = [*router.feed(answer), *router.finish()]
        arguments = "".join(delta.text for delta in deltas if delta.field is Field.TOOL_ARGUMENTS)
        jsonschema.validate(json.loads(arguments), NESTED)


@pytest.mark.parametrize("family", CALL_FAMILIES, ids=lambda family: family.name)
def test_only_what_refers_to_definitions_has_them(family: CallFamily) -> None:
    parts = {f"p{number}": {"type": "integer", "minimum": number} for number in range(30)}
    members = {"a": {"type": "object", "properties": parts}, "b": {"$ref": "#/$defs/flag"}}
    schema = {"type": "object", "properties": members, "$defs": {"flag": {"type": "boolean"}}}
    form = chat_format(" ".join(family.signs), {})
    grammar = form.grammar(Constraints({"f": schema}, required=True), PromptEnd())
    assert grammar is not None
    assert grammar.count('$defs"') <= 1


@pytest.mark.parametrize("family", [*CALL_FAMILIES, PLAIN_JSON], ids=lambda family: family.name)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda each: each,
        lambda each: {"type": "array", "items": each, "maxItems": 3},
        lambda each: {"anyOf": [each, {"type": "null"}]},
    ],
    ids=["alone", "listed", "optional"],
)
def test_the_size_of_a_grammar_is_linear_in_that_of_the_schema(
    family: CallFamily, wrap: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    def growth(size: int) -> float:
        """The size of the grammar by that of the schema: `size` definitions of as many members that refer to them."""

        def members(number: int) -> dict[str, Any]:
            references = {f"r{place}": wrap({"$ref": f"#/$defs/d{place}"}) for place in range(size)}
            return {"type": "object", "properties": references | {"n": {"type": "integer", "minimum": number}}}

        schema = members(size) | {"$defs": {f"d{number}": members(number) for number in range(size)}}
        grammar = chat_format(" ".join(family.signs), {}).grammar(
            Constraints({"f": schema}, required=True), PromptEnd()
        )
        assert grammar is not None
        return len(grammar) / len(json.dumps(schema))

    assert growth(24) < 1.3 * growth(8)


TREE: dict[str, Any] = {
    "type": "object",
    "properties": {"tree": {"$ref": "#/$defs/tree"}, "any": {"$ref": "#/$defs/any"}},
    "required": ["tree"],
    "$defs": {
        "tree": {
            "type": "object",
            "properties": {
                "a~/ä": {"type": "integer", "minimum": 0, "maximum": 9},
                "left": {"$ref": "#/$defs/tree"},
                "more": {"type": "array", "items": {"$ref": "#/$defs/branch~1es"}, "minItems": 1, "maxItems": 2},
            },
            "required": ["a~/ä"],
        },
        "branch/es": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}, {"$ref": "#/$defs/leaf"}]},
        "leaf": {"allOf": [{"$ref": "#/$defs/word"}]},
        "word": {"type": "string", "maxLength": 3},
        "any": True,
    },
}


@pytest.mark.parametrize(
    ("value", "is_allowed"),
    [
        ('{"a~/ä": 1}', True),
        ('{"a~/ä": 1, "left": {"a~/ä": 2, "left": {"a~/ä": 3}}, "more": [null, "abc"]}', True),
        ('{"a~/ä": 1, "more": [{"a~/ä": 2, "more": [null]}]}', True),
        ('{"a~/ä": 10}', False),
        ('{"left": {"a~/ä": 2}}', False),
        ('{"a~/ä": 1, "left": {"left": {"a~/ä": 3}}}', False),
        ('{"a~/ä": 1, "more": []}', False),
        ('{"a~/ä": 1, "more": [null, null, null]}', False),
        ('{"a~/ä": 1, "more": ["abcd"]}', False),
    ],
)
def test_definitions_may_refer_to_themselves(value: str, is_allowed: bool) -> None:
    tagged = f"<tool_call>\n<function=f>\n<parameter=tree>\n{value}\n</parameter>\n</function>\n</tool_call>"
    for sign, text in (
        (TAGGED, tagged),
        (PYTHONIC, f"<|tool_call_start|>[f(tree={value}, any=[1])]<|tool_call_end|>"),
        ("<tool_call>", f'<tool_call>\n{{"name": "f", "arguments": {{"tree": {value}}}}}\n</tool_call>'),
        ("<|tool_call>call:", f"<|tool_call>call:f{{tree:{value}}}<tool_call|>"),
    ):
        assert allows(sign, TREE, text) == is_allowed, sign
    if is_allowed:
        jsonschema.validate(json.loads(f'{{"tree": {value}}}'), TREE)


def test_many_definitions_that_refer_to_the_next_are_written() -> None:
    chain = {f"d{number}": {"type": "array", "items": {"$ref": f"#/$defs/d{number + 1}"}} for number in range(900)}
    schema = {"properties": {"x": {"$ref": "#/$defs/d0"}}, "$defs": chain | {"d900": {"type": "null"}}}
    grammar = chat_format(PYTHONIC, {}).grammar(Constraints({"f": schema}, required=True), PromptEnd())
    assert grammar is not None
    assert grammar.count("shared_900: ") == 1


def test_definitions_of_the_same_name_are_those_of_each_tool() -> None:
    schemas = {
        name: {"properties": {"x": {"$ref": "#/$defs/d"}}, "$defs": {"d": {"const": name}}, "required": ["x"]}
        for name in ("f", "g")
    }
    tokenizer = byte_tokenizer()
    grammar = chat_format(PYTHONIC, {}).grammar(Constraints(schemas, required=True), PromptEnd())
    assert grammar is not None
    matcher = LLMatcher(LLTokenizer(Vocabulary(tokenizer)), grammar, log_level=0)
    for text, is_allowed in (('f(x="f")', True), ('g(x="g")', True), ('f(x="g")', False)):
        ids = tokenizer.encode(f"<|tool_call_start|>[{text}]")
        assert (matcher.deep_copy().try_consume_tokens(ids) == len(ids)) == is_allowed


@pytest.mark.parametrize("special", [False, True], ids=["markers are text", "markers are tokens"])
def test_atem(special: bool) -> None:
    tokenizer = byte_tokenizer([marker for marker in atem.MARKERS if marker.startswith("<|")] if special else ())
    form = chat_format("<atem:function_calls>", tokenizer.special_tokens)
    assert isinstance(form, AtemFormat)
    end = PromptEnd("<|start|>assistant")
    for many in (False, True):
        grammar = form.grammar(Constraints(SCHEMAS, required=True, many=many), end)
        assert grammar is not None
        for begun in ("", " to=self<|message|>hm<|eom|><|start|>assistant"):
            for name in SCHEMAS:
                calls = calls_of(form, random_answer(tokenizer, grammar, many, f"{begun} to={name}<|message|>"), end)
                check_calls(calls)
                assert many or len(calls) == 1


@pytest.mark.parametrize("reasoning", REASONING_FAMILIES, ids=lambda markers: markers.open)
def test_a_response_begins_after_the_reasoning(reasoning: Any) -> None:
    tokenizer = byte_tokenizer()
    sign = {"<|open|>think<|sep|>": "<|open|>", "<think:opensource>": ":opensource"}.get(
        reasoning.open, reasoning.close
    )
    form = chat_format(sign, tokenizer.special_tokens)
    for end in (PromptEnd(f"user\n{reasoning.open}"), PromptEnd("user\n")):
        grammar = form.grammar(Constraints(has_answer=True), end)
        assert grammar is not None
        grammar = json.dumps(
            {"grammars": [{"lark_grammar": grammar}, {"name": "answer", "lark_grammar": 'start: "yes" | "no"'}]}
        )
        for seed in range(3):
            router = form.router({}, end)
            assert router is not None
            opened = "" if end.text.endswith(reasoning.open) else reasoning.open
            answer = random_answer(tokenizer, grammar, seed, f"{opened}hm < {reasoning.close}\n")
            deltas = [*router.feed(answer), *router.finish()]
            content = "".join(delta.text for delta in deltas if delta.field is Field.CONTENT)
            assert content in ("yes", "no"), answer
            assert "".join(delta.text for delta in deltas if delta.field is Field.REASONING) == "hm <"


def test_calls_that_are_not_required_follow_the_schemas_where_they_are() -> None:
    tokenizer = byte_tokenizer()
    form = chat_format("<tool_call>", {})
    grammar = form.grammar(Constraints(SCHEMAS), PromptEnd())
    assert grammar is not None
    matcher = LLMatcher(LLTokenizer(Vocabulary(tokenizer)), grammar, log_level=0)

    def consumed(text: str) -> int:
        ids = tokenizer.encode(text)
        count = matcher.deep_copy().try_consume_tokens(ids)
        return int(count) - len(ids)

    assert consumed("no call at all, < or <tool") == 0
    assert consumed('I call:\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call> and more') == 0
    assert consumed('<tool_call>\n{"name": "now", "arguments": {"') < 0
    assert consumed('<tool_call>\n{"name": "other') < 0


def test_nothing_is_constrained_where_nothing_is_asked() -> None:
    assert chat_format("<tool_call>", {}).grammar(Constraints(), PromptEnd()) is None


@pytest.mark.parametrize("family", [*CALL_FAMILIES, PLAIN_JSON], ids=lambda family: family.name)
@pytest.mark.parametrize("wanted", [Constraints(SCHEMAS), Constraints(SCHEMAS, many=False)], ids=["many", "one"])
def test_grammars_of_calls_that_are_not_required_compile(family: CallFamily, wanted: Constraints) -> None:
    grammar = chat_format(" ".join(family.signs), {}).grammar(wanted, PromptEnd())
    assert grammar is not None
    matcher = LLMatcher(LLTokenizer(Vocabulary(byte_tokenizer())), grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()


PYTHONIC, TAGGED = "<|tool_call_start|>", "<tool_call><function=<parameter="


def allows(sign: str, schema: dict[str, Any], text: str) -> bool:
    tokenizer = byte_tokenizer()
    grammar = chat_format(sign, {}).grammar(Constraints({"f": schema}, required=True), PromptEnd())
    assert grammar is not None
    matcher = LLMatcher(LLTokenizer(Vocabulary(tokenizer)), grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    return bool(matcher.try_consume_tokens(ids := tokenizer.encode(text)) == len(ids) and matcher.is_accepting())


@pytest.mark.parametrize(
    ("required", "allowed"),
    [
        ((), ["", "a=1", "b=1", "c=1", "a=1, b=1", "a=1, c=1", "b=1, c=1", "a=1, b=1, c=1"]),
        (("b",), ["b=1", "a=1, b=1", "b=1, c=1", "a=1, b=1, c=1"]),
        (("c",), ["c=1", "a=1, c=1", "b=1, c=1", "a=1, b=1, c=1"]),
        (("a", "c"), ["a=1, c=1", "a=1, b=1, c=1"]),
    ],
)
def test_parameters_are_in_order_and_only_those_that_are_not_required_are_left_out(
    required: tuple[str, ...], allowed: list[str]
) -> None:
    schema = {"properties": {key: {"const": 1} for key in "abc"}, "required": list(required)}
    every = ["", "a=1", "b=1", "c=1", "a=1, b=1", "a=1, c=1", "b=1, c=1", "a=1, b=1, c=1", "b=1, a=1", "a=1, "]
    written = {each: f"<|tool_call_start|>[f({each})]<|tool_call_end|>" for each in every}
    assert [each for each in every if allows(PYTHONIC, schema, written[each])] == allowed


@pytest.mark.parametrize("name", ["from", "user-id", "a b", "a=b", '"', "(x)"])
def test_calls_of_python_whose_arguments_have_any_name_are_read(name: str) -> None:
    schema = {"properties": {name: {"const": 1}}, "required": [name]}
    form, tokenizer = chat_format(PYTHONIC, {}), byte_tokenizer()
    grammar = form.grammar(Constraints({"f": schema}, required=True, many=False), PromptEnd())
    assert grammar is not None
    [(_, arguments)] = calls_of(form, random_answer(tokenizer, grammar, 0), PromptEnd())
    assert json.loads(arguments) == {name: 1}


def test_many_parameters_that_may_be_left_out_compile() -> None:
    schema = {"properties": {f"p{number}": {"const": 1} for number in range(500)}}
    assert allows(PYTHONIC, schema, "<|tool_call_start|>[f(p7=1, p499=1)]<|tool_call_end|>")


def test_equal_parameters_are_defined_once() -> None:
    def lines(num_tools: int) -> int:
        schemas = {f"f{number}": {"properties": {"x": {"type": "string"}}} for number in range(num_tools)}
        grammar = chat_format(PYTHONIC, {}).grammar(Constraints(schemas, required=True), PromptEnd())
        assert grammar is not None
        return grammar.count("\n")

    assert lines(2) == lines(100)


def test_texts_between_tags_are_those_that_the_schema_names() -> None:
    def call(value: str) -> str:
        return f"<tool_call>\n<function=f>\n<parameter=x>\n{value}\n</parameter>\n</function>\n</tool_call>"

    for schema in ({"type": "string", "enum": ["a", 1]}, {"type": "string", "const": "a"}):
        assert allows(TAGGED, {"properties": {"x": schema}}, call("a"))
        assert not allows(TAGGED, {"properties": {"x": schema}}, call("b"))


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/zip"},
        {"allOf": [{"$ref": "#/$defs/zip"}], "default": "10115"},
        {"anyOf": [{"$ref": "#/$defs/zip"}, {"const": "x"}]},
        {"oneOf": [{"type": "string", "enum": ["10115"]}, {"type": "string", "enum": ["20095"]}]},
        {"$ref": "#/$defs/recursive"},
    ],
)
def test_texts_between_tags_follow_definitions_and_alternatives(schema: dict[str, Any]) -> None:
    zips = {"type": "string", "enum": ["10115", "20095"]}
    definitions = {"zip": zips, "recursive": {"anyOf": [{"$ref": "#/$defs/recursive"}, {"$ref": "#/$defs/zip"}]}}
    whole = {"properties": {"x": schema}, "required": ["x"], "$defs": definitions}

    def call(value: str) -> str:
        return f"<tool_call>\n<function=f>\n<parameter=x>\n{value}\n</parameter>\n</function>\n</tool_call>"

    values = ["10115", "20095", "99999", '"10115"']
    assert [value for value in values if allows(TAGGED, whole, call(value))] == values[:2]


@pytest.mark.parametrize(
    ("pattern", "right", "wrong"),
    [
        (r"^[0-9]{2}$", ["12"], ["1", "123", "1a"]),
        (r"^\d+(a|b)", ["12a", "1b/c\nd"], ["a1", "١a", ""]),
        ("x/y", ["x/y", "ax/yb"], ["xy"]),
        ("cat|dog", ["a cat", "dogs"], ["bird"]),
        ("^(?:/[a-z]+)+$", ["/usr/bin"], ["usr", "/usr/"]),
        (r"\$[.\w]", ["5$.", "$a"], ["$ä"]),
    ],
)
def test_texts_between_tags_match_the_pattern(pattern: str, right: list[str], wrong: list[str]) -> None:
    schema = {"properties": {"x": {"type": "string", "pattern": pattern, "maxLength": 9}}, "required": ["x"]}

    def call(value: str) -> str:
        return f"<tool_call>\n<function=f>\n<parameter=x>\n{value}\n</parameter>\n</function>\n</tool_call>"

    assert [value for value in (*right, *wrong) if allows(TAGGED, schema, call(value))] == right
    assert not allows(TAGGED, schema, call(f"{right[0]}{'x' * 10}")), "other bounds hold too"


@pytest.mark.parametrize("pattern", ["a(?!b)", r"(a)\1", r"\bx", "^a|b$", "a^b", r"\p{L}", "[a[b]", "^", "(?i)a"])
def test_patterns_that_cannot_be_followed_allow_any_text(pattern: str) -> None:
    schema = {"properties": {"x": {"type": "string", "pattern": pattern}}, "required": ["x"]}
    written = "<tool_call>\n<function=f>\n<parameter=x>\nqqq\n</parameter>\n</function>\n</tool_call>"
    assert allows(TAGGED, schema, written)
