"""News topics under the names that another source gives them: a label with few rows here may have many there.

A source of headlines knows "health" from a handful of rows, another calls it "wellness", and medical sentences come
with translations. Rows of those, under the first one's labels, teach the model what a label means rather than which
list it stands in.
"""

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
LONGEST = 120  # characters of a medical sentence, about those of a headline


def borrowed_topics(lent: Mapping[str, Sequence[Row]]) -> Iterator[Row]:
    """Yield analyze rows from the rows of the LENDERS, by their names; those that are missing give none."""
    for row in lent.get(NEWS, ()):
        if row["label"] in RENAMED:
            yield _labelled(row["text"], RENAMED[row["label"]])
    for row in lent.get(MEDICINE, ()):
        if len(row["source"]) <= LONGEST:
            yield _labelled(row["source"], "health")


def _labelled(text: str, label: str) -> Row:
    return {"task": "analyze", "text": text, "label": label, "label_set": LABELS}
