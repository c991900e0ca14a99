"""How much of a text each of its sentences says: the words it shares with the others."""

import re
from collections import Counter
from collections.abc import Sequence

_WORD = re.compile(r"\w+")


def units(text: str, language: str) -> list[str]:
    """What is counted: words in lower case, in Chinese characters; marks are none."""
    return [c for c in text if c.isalnum()] if language == "zh" else _WORD.findall(text.lower())


def centrality(sentences: Sequence[str], language: str) -> list[float]:
    """ROUGE-1 of each sentence against all others, from 0 to 1 (the measure of arXiv 1912.08777); 0 without words."""
    counts = [Counter(units(sentence, language)) for sentence in sentences]
    total = Counter(unit for own in counts for unit in own.elements())
    shared = [sum(min(number, total[unit] - number) for unit, number in own.items()) for own in counts]
    return [2 * number / max(total.total(), 1) for number in shared]
