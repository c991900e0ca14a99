"""Centrality of sentences: how many words each sentence of a text shares with the others."""

import re
from collections import Counter
from collections.abc import Sequence

_WORD = re.compile(r"\w+")


def units(text: str, language: str) -> list[str]:
    """The units that are counted: lower-case words, or characters for Chinese; without punctuation."""
    return [c for c in text if c.isalnum()] if language == "zh" else _WORD.findall(text.lower())


def centrality(sentences: Sequence[str], language: str) -> list[float]:
    """ROUGE-1 of each sentence against all others, from 0 to 1 (as in arXiv 1912.08777); 0 without words."""
    counts = [Counter(units(sentence, language)) for sentence in sentences]
    total = Counter(unit for own in counts for unit in own.elements())
    shared = [sum(min(number, total[unit] - number) for unit, number in own.items()) for own in counts]
    return [2 * number / max(total.total(), 1) for number in shared]
