"""What grammars cost: a token of one matcher, a stream alone, and the neighbours of constrained streams.

    python -m benchmarks.grammar --model model/bundled

The matcher follows answers to four schemas, as a random choice among the allowed tokens makes them. The engine decodes
32 streams, of which none or 8 have a schema, in turn; the ratio is that of the processor's time of a step in which all
of them decode, so it holds on a busy machine too. `--schemas DIRECTORY` reads JSONSchemaBench's files (maskbench/data)
instead: what compiles, in what time, and the masks along their instances. Times are the processor's.
"""

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks import record
from benchmarks.compare import digits
from benchmarks.record import percentile
from model.evaluation.tables import table
from model.loading.load import load_network
from model.text.tokenizer import Tokenizer
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.grammar.compiler import GrammarCompiler
from server.engine.types import GenerateRequest, SamplingParams
from server.generation.grammar import AnswerGrammar, JsonSchemaGrammar
from server.generation.grammar_tokenizer import open_grammar_tokenizer
from server.generation.json_schema import SchemaError

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "email": {"type": "string", "format": "email", "maxLength": 40},
        "role": {"enum": ["admin", "user", "guest"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 4},
    },
    "required": ["name", "age", "email", "role", "tags"],
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "a label": {"enum": ["positive", "negative", "neutral"]},
    "a person": PERSON,
    "40 persons": {"type": "array", "items": PERSON, "minItems": 40, "maxItems": 40},
    "any object": {"type": "object"},
}
STREAMS, CONSTRAINED, PROMPT, OUTPUT = 32, 8, 16, 200


def microseconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """What a call takes of the processors, also in a thread that it waits for, and its result."""
    started = time.process_time()
    result = call()
    return 1e6 * (time.process_time() - started), result


def matcher_costs(compiler: GrammarCompiler, schema: Any, vocab_size: int, answers: int = 30) -> dict[str, float]:
    """Microseconds of what a constraint does for a token, and the share of tokens that are forced."""
    grammar = JsonSchemaGrammar("schema", schema).text()
    compiled, _ = microseconds(lambda: compiler.compile(grammar))
    rng, logits_V = np.random.default_rng(0), torch.zeros(vocab_size)
    applied, advanced, forced, chosen = [], [], 0, 0
    for _ in range(answers):
        constraint = compiler.constraint(grammar)
        while not constraint.is_complete and chosen < 300 * answers:
            scores_V = logits_V.clone()
            applied.append(microseconds(lambda c=constraint, s=scores_V: c.apply(s))[0])
            token = int(rng.choice(np.flatnonzero(np.isfinite(scores_V.numpy()))))
            took, more = microseconds(lambda c=constraint, t=token: (c.advance((t,)), c.forced_tokens())[1])
            advanced.append(took)
            constraint.advance(more)
            forced, chosen = forced + len(more), chosen + 1
    return {
        "compile": compiled,
        "advance, mask p50": percentile(advanced, 0.5),
        "advance, mask p99": percentile(advanced, 0.99),
        "apply p50": percentile(applied, 0.5),
        "apply p99": percentile(applied, 0.99),
        "mean of a sampled token": float(np.mean(applied) + np.mean(advanced)),
        "forced share": forced / max(1, forced + chosen),
    }


def decode(engine: Engine, grammars: list[str | None]) -> tuple[float, float]:
    """Median milliseconds of processor time of a step in which all streams decode, and output tokens a second.

    `grammars` has one entry per stream.
    """
    draw = random.Random(0)
    for number, grammar in enumerate(grammars):
        ids = tuple(draw.randrange(32, engine.runner.network.config.vocab_size) for _ in range(PROMPT))
        sampling = SamplingParams(OUTPUT, temperature=1.0, ignore_eos=True, seed=number, grammar=grammar)
        engine.submit(GenerateRequest(f"{time.perf_counter_ns()}-{number}", ids, sampling))
    times, tokens, begun = [], 0, time.perf_counter()
    while engine.has_unfinished:
        is_decoding = len(engine.scheduler.pool.running) == len(grammars)
        started = time.thread_time()
        tokens += sum(len(output.token_ids) for output in engine.step())
        if is_decoding:
            times.append(1e3 * (time.thread_time() - started))
    return median(times), tokens / (time.perf_counter() - begun)


def neighbour_costs(engine: Engine, grammar: str, runs: int) -> dict[str, Any]:
    free: list[str | None] = [None] * STREAMS
    mixed = [grammar] * CONSTRAINED + free[CONSTRAINED:]
    decode(engine, free), decode(engine, mixed)
    ratios, steps = [], []
    for _ in range(runs):
        alone, together = decode(engine, free)[0], decode(engine, mixed)[0]
        ratios.append(together / alone)
        steps.append((alone, together))
    rates = [(decode(engine, [None])[1], decode(engine, [grammar])[1]) for _ in range(runs)]
    return {
        "step of 32 streams, ms": median(alone for alone, _ in steps),
        "with 8 constrained, ms": median(together for _, together in steps),
        "ratio": median(ratios),
        "one stream, tokens/s": median(free for free, _ in rates),
        "one constrained stream, tokens/s": median(constrained for _, constrained in rates),
    }


def benchmark_schemas(compiler: GrammarCompiler, tokenizer: Tokenizer, directory: Path, every: int) -> dict[str, Any]:
    """How JSONSchemaBench fares."""
    compiled, masks, refused, wrong = [], [], Counter[str](), 0
    for path in sorted(directory.glob("*.json"))[::every]:
        content = json.loads(path.read_text(encoding="utf-8"))
        grammar = JsonSchemaGrammar("schema", content["schema"])
        try:
            text = grammar.text()
            took, _ = microseconds(partial(compiler.compile, text))
        except ValueError as error:
            refused[_kind(error, grammar, compiler)] += 1
            continue
        compiled.append(took / 1e3)
        for test in content["tests"]:
            accepted, took_each = _follow(
                compiler, text, tokenizer.encode(json.dumps(test["data"], ensure_ascii=False))
            )
            masks += took_each
            wrong += accepted and not test["valid"]
    return {
        "compiled": len(compiled),
        "refused": dict(refused.most_common(12)),
        "invalid instances accepted": wrong,
        "compile, ms, p50 p99 max": [percentile(compiled, share) for share in (0.5, 0.99, 1)],
        "mask, us, p50 p99 p99.9 max": [percentile(masks, share) for share in (0.5, 0.99, 0.999, 1)],
        "mask, us, mean": float(np.mean(masks)),
    }


def _kind(error: ValueError, grammar: AnswerGrammar, compiler: GrammarCompiler) -> str:
    found = error if isinstance(error, SchemaError) else grammar.explain(str(error), compiler.validate)
    return str(found).split(":")[0][:60]


def _follow(compiler: GrammarCompiler, grammar: str, token_ids: list[int]) -> tuple[bool, list[float]]:
    """Whether the grammar takes these tokens, and the times of the masks before them."""
    constraint, times = compiler.constraint(grammar), []
    for token in token_ids[:1000]:
        took, mask = microseconds(constraint._next_mask)
        times.append(took)
        if constraint.error is not None or not mask[token // 8] >> token % 8 & 1:
            return False, times
        constraint.advance((token,))
    return constraint.may_end and len(token_ids) <= 1000, times


def rows_of(figures: dict[str, Any]) -> str:
    """The figures as tables."""
    if (found := figures.get("JSONSchemaBench")) is not None:
        return table(["", ""], [[name, _row(value)] for name, value in found.items() if name != "refused"])
    names = list(next(iter(figures["a token, us"].values())))
    costs = [[schema, *(digits(each[name]) for name in names)] for schema, each in figures["a token, us"].items()]
    neighbours = [[name, f"{value:.3g}"] for name, value in figures["neighbours"].items()]
    return f"{table(['microseconds', *names], costs)}\n\n{table(['', ''], neighbours)}"


def _row(value: Any) -> str:
    return ", ".join(map(digits, value)) if isinstance(value, list) else digits(value)


def figures_of(arguments: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    tokenizer, network = Tokenizer.load(arguments.model), load_network(arguments.model)
    compiler = GrammarCompiler(partial(open_grammar_tokenizer, tokenizer, network.config.vocab_size))
    yield "first grammar, ms", microseconds(lambda: compiler.compile('start: "a"'))[0] / 1e3
    if arguments.schemas is not None:
        yield "JSONSchemaBench", benchmark_schemas(compiler, tokenizer, arguments.schemas, arguments.every)
        return
    yield (
        "a token, us",
        {name: matcher_costs(compiler, schema, network.config.vocab_size) for name, schema in SCHEMAS.items()},
    )
    engine = Engine(network, EngineConfig(max_model_len=1024), grammars=compiler)
    grammar = JsonSchemaGrammar("schema", SCHEMAS["40 persons"]).text()
    yield "neighbours", neighbour_costs(engine, grammar, arguments.runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("model/bundled"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--schemas", type=Path, help="JSONSchemaBench's maskbench/data")
    parser.add_argument("--every", type=int, default=1, help="read every n-th file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    figures = dict(figures_of(arguments))
    print(json.dumps(figures, indent=1))
    print(record.write("grammar" if arguments.schemas is None else "grammar-jsonschemabench", figures))


if __name__ == "__main__":
    main()
