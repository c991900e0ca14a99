"""A grammar as a logits processor: only tokens with which the output can still become a word of the grammar.

Shapes: V vocabulary.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from server.engine.logits_processors import FORBIDDEN

if TYPE_CHECKING:
    from llguidance import LLMatcher

COMPLETE = frozenset({"NoExtension", "EndOfSentence"})
TOO_COMPLEX = "The grammar of this request became too complex to follow: {reason}. Simplify it."


class GrammarConstraint:
    """The matcher of one sequence. Comes after all other processors, which choose among the tokens it allows.

    A matcher can fail in the middle of an answer, for instance where a grammar needs more states than allowed. It
    raises nothing then; `error` says what to tell the client.
    """

    is_active = True

    def __init__(self, matcher: "LLMatcher") -> None:
        self._matcher = matcher

    @property
    def error(self) -> str | None:
        """Why the answer cannot go on; None while it can."""
        if self._matcher.is_error():
            return TOO_COMPLEX.format(reason=first_line(self._matcher.get_error()))
        if self._matcher.is_stopped() and self._matcher.stop_reason() not in COMPLETE:
            return TOO_COMPLEX.format(reason=self._matcher.stop_reason())
        return None

    @property
    def is_complete(self) -> bool:
        """Whether no token may follow, except one that ends the sequence."""
        return self._matcher.is_stopped() and self.error is None

    def apply(self, logits_V: Tensor) -> None:
        """Forbid all other tokens. An allowed token that another processor forbade can be sampled, but only as a last
        resort: `min_tokens` cannot lengthen what the grammar ends.
        """
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed_V = np.unpackbits(mask, count=len(logits_V), bitorder="little").view(np.bool_)
        logits_V.clamp_(min=FORBIDDEN)
        logits_V.masked_fill_(torch.from_numpy(~allowed_V).to(logits_V.device), float("-inf"))

    def advance(self, token_ids: Sequence[int]) -> None:
        self._matcher.consume_tokens(list(token_ids))

    def forced_tokens(self) -> tuple[int, ...]:
        """The next tokens, as far as the grammar leaves no choice. `apply` would allow each of them alone."""
        return () if self._matcher.is_stopped() else tuple(self._matcher.compute_ff_tokens())


def first_line(error: str) -> str:
    """What llguidance says, without its dump of the parser's state and without a final full stop."""
    return error.split("\n", 1)[0].strip().rstrip(".")
