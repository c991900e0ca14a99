"""A grammar as a logits processor: only tokens with which the output can still become a text of the grammar.

Shapes: V vocabulary.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from llguidance import LLMatcher

BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
BIAS_OF_BYTE = np.where(BITS == 1, np.float32(0), np.float32("-inf"))  # for each byte of a mask: what 8 tokens get
MAX_ERROR = 300  # characters
COMPLETE = frozenset({"NoExtension", "EndOfSentence"})
MAX_BIASES = 2**20  # numbers in the biases that are kept
FAILED = "The grammar of this request cannot be followed any further: {reason}. Simplify it."


class MaskBiases:
    """Masks as what is added to logits: 0 for an allowed token, minus infinity for any other.

    The last used ones are cached: few masks make up most of an answer, and a cached one takes a third of the time. Not
    thread-safe; all logits must have the same size and device.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()  # by mask, the last used one at the end

    def bias(self, mask: bytes, like: Tensor) -> Tensor:
        """[V], as many and on the device of `like`. Do not change it."""
        bias_V = self._kept.get(mask)
        if bias_V is not None:
            self._kept.move_to_end(mask)
            return bias_V
        bias_V = _bias(mask)[: len(like)].to(like.device)
        self._kept[mask] = bias_V
        if len(self._kept) * len(like) > MAX_BIASES:
            self._kept.popitem(last=False)
        return bias_V


def _bias(mask: bytes) -> Tensor:
    return torch.from_numpy(BIAS_OF_BYTE.take(np.frombuffer(mask, dtype=np.uint8), axis=0).reshape(-1))


class GrammarConstraint:
    """The matcher of one sequence. Comes after all other processors, which choose among the tokens it allows.

    A matcher can fail in the middle of an answer, for instance where a grammar needs more states than allowed. It
    raises nothing then; `error` says what to tell the client.
    """

    is_active = True

    def __init__(self, matcher: "LLMatcher", biases: MaskBiases) -> None:
        self._matcher, self._biases = matcher, biases
        self._mask: bytes | None = None  # of the next token, if it is computed already

    @property
    def error(self) -> str | None:
        """Why the answer cannot go on; None while it can."""
        if self._matcher.is_error():
            return FAILED.format(reason=shortened(self._matcher.get_error()))
        if self._matcher.is_stopped() and self._matcher.stop_reason() not in COMPLETE:
            return FAILED.format(reason=self._matcher.stop_reason())
        return None

    @property
    def is_complete(self) -> bool:
        """Whether no token may follow, except one that ends the sequence."""
        return self._matcher.is_stopped() and self.error is None

    @property
    def may_end(self) -> bool:
        """Whether the output is a text of the grammar."""
        return self._matcher.is_accepting()

    def apply(self, logits_V: Tensor) -> None:
        """Forbid all other tokens.

        Other processors forbid with finite numbers, so a token that is allowed here and forbidden there can be sampled
        as a last resort: `min_tokens` cannot lengthen what the grammar ends.
        """
        logits_V += self._biases.bias(self._next_mask(), logits_V)

    def advance(self, token_ids: Sequence[int]) -> None:
        self._matcher.consume_tokens(list(token_ids))
        self._mask = None

    def forced_tokens(self) -> tuple[int, ...]:
        """The next tokens, as far as the grammar leaves no choice. `apply` would allow each of them alone."""
        if self._matcher.is_stopped() or not _is_one_bit(self._next_mask()):
            return ()  # the mask finds forced text without the GIL, which compute_ff_tokens would hold
        return tuple(self._matcher.compute_ff_tokens())

    def _next_mask(self) -> bytes:
        """One bit a token, the lowest bit first; those that end the sequence where the matcher has stopped."""
        if self._mask is None:
            self._mask = self._matcher.compute_bitmask()
        return self._mask


def _is_one_bit(mask: bytes) -> bool:
    if mask.count(0) < len(mask) - 1:
        return False
    return max(mask).bit_count() == 1


def shortened(error: str) -> str:
    """What llguidance says, on one line and without a final full stop."""
    words = " ".join(error.replace("<non-verbose/>", "").split())
    return "nothing matches" if words == "NoExtensionBias" else words[:MAX_ERROR].rstrip(". ")
