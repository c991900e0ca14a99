"""Stop strings in a stream of text: what may be shown now, and whether the end is reached."""

from collections.abc import Sequence


class StopStringMatcher:
    """Passes text on, but holds back what may become a stop string; after a match nothing follows.

    The stop string itself is passed on only with `include_stop`.
    """

    def __init__(self, stops: Sequence[str], include_stop: bool = False) -> None:
        self._stops = tuple(stops)
        self._include_stop = include_stop
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """Take the next piece; return what can no longer be part of a stop string. Sets `matched` on a match."""
        if self.matched is not None:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        found = [(position + len(stop), position, stop) for stop in self._stops if (position := text.find(stop)) >= 0]
        if found:
            # The match that ends first, so that the result does not depend on how the text was cut into pieces.
            end, start, self.matched = min(found)
            self._held = ""
            return text[: end if self._include_stop else start]
        held = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self) -> str:
        """Return what was held back, at the end of the text. Another text may follow."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of `text` that is a proper prefix of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)
