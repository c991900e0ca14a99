"""Compiles grammars with llguidance and keeps the compiled ones."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from server.engine.grammar.constraint import GrammarConstraint, first_line

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

MAX_GRAMMAR = 2**19  # characters
MAX_KEPT = 64  # compiled grammars
MAX_KEPT_CHARACTERS = 2**22  # of their texts together


class GrammarCompiler:
    """Makes the constraints of sequences from grammars: Lark text, or llguidance's JSON form.

    Several threads may use it. llguidance and its view of the vocabulary are loaded for the first grammar.
    """

    def __init__(self, open_tokenizer: Callable[[], "LLTokenizer"]) -> None:
        self._open_tokenizer = open_tokenizer
        self._tokenizer: LLTokenizer | None = None
        self._kept: OrderedDict[str, LLMatcher] = OrderedDict()  # by text, the last used one at the end
        self._lock = threading.Lock()

    def compile(self, grammar: str) -> None:
        """Compile a grammar and keep it, which takes milliseconds, or 0.3 s at worst.

        Raises ValueError for one that is wrong, too large or too complex.
        """
        if len(grammar) > MAX_GRAMMAR:
            raise ValueError(f"the grammar has {len(grammar):,} characters, and at most {MAX_GRAMMAR:,} are read")
        matcher = self._matcher(grammar)
        if matcher.is_error():
            raise ValueError(first_line(matcher.get_error()))
        if matcher.is_stopped():
            raise ValueError("the grammar allows nothing but the empty text")

    def constraint(self, grammar: str) -> GrammarConstraint:
        """The constraint of one sequence, at the beginning of the grammar.

        Never raises: what is wrong with a grammar that was not compiled before is the constraint's `error`.
        """
        return GrammarConstraint(self._matcher(grammar).deep_copy())

    def forget(self, grammar: str) -> None:
        """Compile a grammar anew when it comes again: all its constraints use, and fill, the same lexer."""
        with self._lock:
            self._kept.pop(grammar, None)

    def _matcher(self, grammar: str) -> "LLMatcher":
        with self._lock:
            if grammar in self._kept:
                self._kept.move_to_end(grammar)
                return self._kept[grammar]
        matcher = self._compiled(grammar)
        with self._lock:
            if not matcher.is_error():
                self._keep(grammar, matcher)
        return matcher

    def _compiled(self, grammar: str) -> "LLMatcher":
        from llguidance import LLMatcher

        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = self._open_tokenizer()
        return LLMatcher(self._tokenizer, grammar, log_level=0, limits=_limits())

    def _keep(self, grammar: str, matcher: "LLMatcher") -> None:
        self._kept[grammar] = matcher
        while len(self._kept) > MAX_KEPT or sum(map(len, self._kept)) > MAX_KEPT_CHARACTERS:
            self._kept.popitem(last=False)


def _limits() -> "LLParserLimits":
    """llguidance's own limits are for one user: 250,000 states of a lexer are 400 MB, and every sequence has its own.

    Fuel bounds the time of a step: 50,000 units are about 4 ms.
    """
    from llguidance import LLParserLimits

    return LLParserLimits(max_lexer_states=16_384, step_lexer_fuel=50_000, step_max_items=20_000, verbose_errors=False)
