"""News topics under the names that another source gives them: a label with few rows here may have many there.

A source of headlines knows "health" from a handful of rows, another calls it "wellness", and medical sentences come
with translations. Rows of those, under the first one's labels, teach the model what a label means rather than which
list it stands in. They also come written as the first source writes its headlines: else their form would tell the
topic, and a headline about health would never be taken for one.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from model.training.rows import Row

LABELS = ["business", "technology", "entertainment", "health"]
RENAMED = {
    "business": "business",
    "science and technology": "technology",
    "entertainment": "entertainment",
    "wellness": "health",
}
NEWS, MEDICINE = "analyze/huffpost-topic-en", "translate/tico19-en-zh"
LENDERS = frozenset({NEWS, MEDICINE})
LONGEST = 78  # characters of a headline; the first source cuts its own there
_AFTER_SENTENCE = re.compile(r"(?<=[^\s.]{3}[.?!])\s")  # and not after "Samuel L." or "the U.S."


def borrowed_topics(lent: Mapping[str, Sequence[Row]]) -> Iterator[Row]:
    """Yield analyze rows from the rows of the LENDERS, by their names; those that are missing give none."""
    for row in lent.get(NEWS, ()):
        if row["label"] in RENAMED:
            for text in dict.fromkeys((row["text"], as_headline(row["text"]))):
                yield _labelled(text, RENAMED[row["label"]])
    for row in lent.get(MEDICINE, ()):
        yield _labelled(as_headline(row["source"]), "health")


def as_headline(text: str) -> str:
    """The first sentence without its full stop, or its first words and " ..." where it is longer than LONGEST.

    >>> as_headline("A Vote. It took all night.")
    'A Vote'
    """
    sentence = _AFTER_SENTENCE.split(text, maxsplit=1)[0].removesuffix(".")
    if len(sentence) <= LONGEST:
        return sentence
    return sentence[: LONGEST - 3].rpartition(" ")[0] + " ..."


def _labelled(text: str, label: str) -> Row:
    return {"task": "analyze", "text": text, "label": label, "label_set": LABELS}
