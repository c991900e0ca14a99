"""What is compiled, kept and refused, and that hostile grammars are bounded."""

import json
import threading
import time
from typing import Any

import pytest
from llguidance import LLParserLimits, LLTokenizer

from server.engine.grammar import compiler as module
from server.engine.grammar.compiler import MAX_GRAMMAR, MAX_LINES, GrammarCompiler
from tests.server.engine.grammar.vocabulary import EOS_ID, Vocabulary


@pytest.fixture
def compiler() -> GrammarCompiler:
    return Vocabulary().compiler()


def schema(value: Any) -> str:
    return json.dumps({"grammars": [{"json_schema": value}]})


def test_nothing_is_loaded_before_the_first_grammar() -> None:
    opened: list[int] = []

    def open_tokenizer() -> LLTokenizer:
        opened.append(1)
        return LLTokenizer(Vocabulary())  # type: ignore[arg-type]

    threads = threading.active_count()
    compiler = GrammarCompiler(open_tokenizer)
    assert not opened
    assert threading.active_count() == threads
    compiler.compile('start: "a"')
    compiler.compile('start: "b"')
    assert len(opened) == 1


def test_a_compiled_grammar_is_kept_and_its_constraints_are_independent(compiler: GrammarCompiler) -> None:
    assert compiler.start('start: "a" "b"').result() is compiler.start('start: "a" "b"').result()
    first, second = compiler.constraint('start: "a" "b"'), compiler.constraint('start: "a" "b"')
    first.advance(Vocabulary()("ab"))
    assert first.is_complete
    assert not second.is_complete
    assert second.forced_tokens() == tuple(Vocabulary()("ab"))


def test_requests_that_wait_for_the_same_grammar_compile_it_once(compiler: GrammarCompiler) -> None:
    waiting = [compiler.start('start: "a" "b"') for _ in range(3)]
    assert len({id(future.result()) for future in waiting}) == 1


def test_few_are_kept_and_the_last_used_stay(compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEPT", 2)
    grammars = [f'start: "{letter}"' for letter in "abc"]
    first, second, third = (compiler.start(grammar).result() for grammar in (*grammars[:2], grammars[0]))
    assert first is third
    compiler.compile(grammars[2])
    assert compiler.start(grammars[0]).result() is first
    assert compiler.start(grammars[1]).result() is not second
    compiler.forget(grammars[0])
    assert compiler.start(grammars[0]).result() is not first


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        ("start: nothing", 'unknown name: "nothing"'),
        ("", "Empty grammar"),
        ("start: /(/", "unclosed group"),
        ("start: /(?=a)b/", "look-around"),
        ('start: ""', "nothing but the empty text"),
        ("start: start", "nothing matches"),
        (schema({"type": "strin"}), "Invalid type: strin"),
        (schema({"allOf": [{"type": "string"}, {"type": "null"}]}), "Unsatisfiable"),
        (schema({"$ref": "https://example.com/x.json"}), "not present"),
        ("start: \ud800", "JSON"),
        ("{", "EOF while parsing"),
        ("x" * (MAX_GRAMMAR + 1), "too long"),
        ("\n" * (MAX_LINES + 1), "too long"),
    ],
    ids=lambda text: text[:24].encode("ascii", "replace").decode(),
)
def test_a_wrong_grammar_is_refused_and_not_kept(compiler: GrammarCompiler, grammar: str, words: str) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match=r".") as error:
            compiler.compile(grammar)
        assert words.lower() in str(error.value).lower()
        assert "\n" not in str(error.value)
        assert len(str(error.value)) <= 400


def references(count: int, **more: Any) -> str:
    """A chain of definitions, each of which refers to the next."""
    links = {f"d{number}": {"type": "array", "items": {"$ref": f"#/$defs/d{number + 1}"}} for number in range(count)}
    return schema({"$ref": "#/$defs/d0", "$defs": links | {f"d{count}": {"type": "null"}}} | more)


HOSTILE = {
    "deep JSON": '{"grammars": [{"json_schema": ' + '{"items": ' * 30_000 + "{}" + "}" * 30_000 + "}]}",
    "deep groups": "start: " + "(" * 20_000 + '"a"' + ")" * 20_000,
    "deep expression": "start: /" + "(" * 20_000 + "a" + ")" * 20_000 + "/",
    "chain of rules": "start: r0\n" + "".join(f'r{n}: "a" r{n + 1}\n' for n in range(1900)) + 'r1900: "b"',
    "chain of terminals": "start: R0\n" + "".join(f"R{n}: R{n + 1}\n" for n in range(1900)) + 'R1900: "b"',
    "chain of references": references(1000),
    "doubled terminals": "start: R0\n" + "".join(f"R{n}: R{n + 1} R{n + 1}\n" for n in range(40)) + 'R40: "a"',
    "doubled rules": "start: r0\n" + "".join(f"r{n}: r{n + 1} r{n + 1}\n" for n in range(40)) + 'r40: "a"',
    "ambiguity": 'start: (a | b)*\na: "x"*\nb: "x"* a',
    "repetition": 'start: "a"{1000000000}',
    "nested repetition": "start: /((a{1,1000}){1,1000}){1,1000}/",
    "backtracking": "start: /(x+x+)+y/",
    "exponential automaton": "start: /(a|b)*a(a|b){200}/",
    "intersection": "start: A\nA: /[ab]*a[ab]{30}/ & /[ab]*b[ab]{29}/ & ~/.*a.{17}b.*/",
    "20,000 values": schema({"enum": [f"value{n}" for n in range(20_000)]}),
    "long value": schema({"const": "x" * 4000}),
    "multiples": schema({"type": "integer", "multipleOf": 999_999_937}),
    "product of alternatives": schema({"allOf": [{"anyOf": [{"minimum": n} for n in range(10)]}] * 8}),
    "many items": schema({"items": {"type": "null"}, "minItems": 10**9, "maxItems": 2 * 10**9}),
    "itself": schema({"$ref": "#"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_grammars_are_bounded_and_leave_other_threads_time(name: str) -> None:
    """Seconds at most, even on a busy machine; another thread is never kept waiting long, so health checks are not."""
    compiler, gaps, done = Vocabulary().compiler(), [0.0], threading.Event()

    def tick() -> None:
        last = time.monotonic()
        while not done.wait(0.002):
            now = time.monotonic()
            gaps.append(now - last)
            last = now

    ticker = threading.Thread(target=tick)
    ticker.start()
    started = time.process_time()
    try:
        follow(compiler, HOSTILE[name])
    finally:
        done.set()
        ticker.join()
    assert time.process_time() - started < 6
    assert max(gaps) < 0.9


def follow(compiler: GrammarCompiler, grammar: str) -> None:
    """Compile a grammar, and choose tokens by their turn, as far as it goes."""
    try:
        compiler.compile(grammar)
    except ValueError:
        return
    constraint = compiler.constraint(grammar)
    for turn in range(60):
        constraint.advance(constraint.forced_tokens())
        if constraint.error is not None or constraint.is_complete:
            return
        mask = int.from_bytes(constraint._next_mask(), "little")
        allowed = [token_id for token_id in range(128) if mask >> token_id & 1]
        constraint.advance([allowed[turn % len(allowed)]])


def test_limits_make_a_constraint_fail_and_not_raise() -> None:
    vocabulary = Vocabulary()
    compiler = GrammarCompiler(
        lambda: LLTokenizer(vocabulary),  # type: ignore[arg-type]
        lambda: LLParserLimits(max_lexer_states=60, verbose_errors=False),
    )
    grammar = "start: /(a|b)*a(a|b){30}/"
    compiler.compile(grammar)
    constraint = compiler.constraint(grammar)
    generator = iter("abbabaabababbbabaabbabaaabba" * 9)
    while constraint.error is None:
        constraint.forced_tokens()
        constraint.advance(vocabulary(next(generator)))
    assert "cannot be followed" in constraint.error
    assert not constraint.is_complete
    assert constraint.forced_tokens() == ()
    constraint.advance([EOS_ID])
