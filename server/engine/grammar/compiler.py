"""Compiles grammars with llguidance and keeps the compiled ones."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from server.engine.grammar.constraint import GrammarConstraint, MaskBiases, shortened

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

MAX_GRAMMAR = 400_000  # characters
MAX_LINES = 2000  # a rule needs one, and llguidance works through chains of rules by recursion
STACK_BYTES = 64 << 20  # of the thread that compiles: with the usual 8 MiB, 2000 rules in a chain end the process
MAX_KEPT = 64  # compiled grammars
MAX_KEPT_CHARACTERS = 2**22  # of their texts together


class CompiledGrammar(str):
    """The text of a grammar with its compiled form, so that it is not compiled again."""

    matcher: "LLMatcher"


class GrammarCompiler:
    """Makes the constraints of sequences from grammars: Lark text, or llguidance's JSON form.

    Several threads may use it. It compiles one grammar at a time, in a thread of its own. That thread, llguidance and
    its view of the vocabulary are there from the first grammar on.
    """

    def __init__(
        self, open_tokenizer: Callable[[], "LLTokenizer"], limits: Callable[[], "LLParserLimits"] | None = None
    ) -> None:
        self._open_tokenizer, self._limits = open_tokenizer, limits or default_limits
        self._tokenizer: LLTokenizer | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._kept: OrderedDict[str, CompiledGrammar] = OrderedDict()  # by text, the last used one at the end
        self._biases = MaskBiases()
        self._lock = threading.Lock()

    def start(self, grammar: str) -> Future[CompiledGrammar]:
        """Compile a grammar and keep it. The future raises ValueError for one that is wrong, too large or too complex.

        Most grammars take milliseconds, the largest and the most hostile ones some seconds.
        """
        kept = self._find(grammar)
        if kept is None:
            return self._thread().submit(self._compile, grammar)
        done: Future[CompiledGrammar] = Future()
        done.set_result(kept)
        return done

    def compile(self, grammar: str) -> None:
        """Wait until a grammar is compiled. Raises ValueError as `start` does."""
        self.start(grammar).result()

    def validate(self, grammar: str) -> str:
        """What is wrong with a grammar, or an empty text. Does not keep it."""
        return self._thread().submit(self._validate, grammar).result()

    def constraint(self, grammar: str) -> GrammarConstraint:
        """The constraint of one sequence, at the beginning of the grammar. A plain text is compiled if necessary."""
        compiled = grammar if isinstance(grammar, CompiledGrammar) else self.start(grammar).result()
        return GrammarConstraint(compiled.matcher.deep_copy(), self._biases)

    def forget(self, grammar: str) -> None:
        """Compile a grammar anew when it comes again: all its constraints use, and fill, the same lexer."""
        with self._lock:
            self._kept.pop(grammar, None)

    def _find(self, grammar: str) -> CompiledGrammar | None:
        with self._lock:
            if grammar in self._kept:
                self._kept.move_to_end(grammar)
            return self._kept.get(grammar)

    def _thread(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, thread_name_prefix="grammar")
                usual = threading.stack_size(STACK_BYTES)
                self._executor.submit(int)  # starts the thread
                threading.stack_size(usual)
            return self._executor

    def _validate(self, grammar: str) -> str:
        from llguidance import LLMatcher

        return shortened(LLMatcher.validate_grammar(grammar, self._vocabulary(), limits=self._limits()))

    def _vocabulary(self) -> "LLTokenizer":
        if self._tokenizer is None:
            self._tokenizer = self._open_tokenizer()
        return self._tokenizer

    def _compile(self, grammar: str) -> CompiledGrammar:
        from llguidance import LLMatcher

        if len(grammar) > MAX_GRAMMAR or grammar.count("\n") > MAX_LINES:
            raise ValueError(
                f"the grammar is too long: at most {MAX_GRAMMAR:,} characters and {MAX_LINES:,} lines are read"
            )
        if (kept := self._find(grammar)) is not None:
            return kept  # compiled while this request waited for the thread
        vocabulary = self._vocabulary()
        compiled = CompiledGrammar(grammar)
        compiled.matcher = LLMatcher(vocabulary, grammar, log_level=0, limits=self._limits())
        _check_beginning(compiled.matcher, vocabulary.eos_tokens)
        with self._lock:
            self._kept[grammar] = compiled
            while len(self._kept) > MAX_KEPT or sum(map(len, self._kept)) > MAX_KEPT_CHARACTERS:
                self._kept.popitem(last=False)
        return compiled


def default_limits() -> "LLParserLimits":
    """llguidance's own limits are those of one user with an hour to spare: 250,000 states of a lexer take 400 MB.

    Fuel bounds time: the lexer's 200,000 units are about a second of compilation, and 100,000 are 10 ms of a step. All
    11,305 schemas of JSONSchemaBench that llguidance supports compile within these limits.
    """
    from llguidance import LLParserLimits

    return LLParserLimits(
        initial_lexer_fuel=200_000,
        step_lexer_fuel=100_000,
        step_max_items=20_000,
        max_items_in_row=3000,
        max_lexer_states=16_384,
        verbose_errors=False,
    )


def _check_beginning(matcher: "LLMatcher", eos_token_ids: Collection[int]) -> None:
    """Compute the first mask, which shows some faults of a grammar, and is slow: later masks use what it found."""
    beginning = matcher.deep_copy()
    mask = int.from_bytes(beginning.compute_bitmask(), "little")
    if beginning.is_error():
        raise ValueError(shortened(beginning.get_error()))
    if not mask & ~sum(1 << token_id for token_id in set(eos_token_ids)):
        raise ValueError("the grammar matches nothing but the empty text")
