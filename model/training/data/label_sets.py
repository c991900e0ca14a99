"""Which labels, in which order, an analysis example offers, and how often it comes: what makes a model read them.

Nearly all requests in training would otherwise hold one of a dozen fixed lists, and the model would learn the lists
instead of reading them. With shuffled lists and parts of lists it has to find the answer among what is offered. And it
would learn that a label which is rare in its source is never the answer, though the next person's texts may be full of
it: rows of rare labels come several times. Nor should capitals tell the answer, which show where a text comes from:
some rows are in lower case, as people type.
"""

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence

from model.training.data.rows import Row

SHUFFLED = 0.15  # of the examples: all labels in another order
PARTS = 0.15  # the right label and some of the others, in any order
LOWER_CASE = 0.15  # of the examples: no capitals in the text
MOST_TIMES = 8  # that a row comes, where its label is rare


def for_training(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield the rows of one source as training offers them; rows of other tasks as they are.

    A row comes sqrt(n / m) times, m rows having its label and n the most frequent one, but at most MOST_TIMES.
    """
    counts = Counter(row["label"] for row in rows if row["task"] == "analyze")
    for row in rows:
        if row["task"] != "analyze":
            yield row
            continue
        times = math.sqrt(max(counts.values()) / counts[row["label"]])
        for repetition in range(min(int(times), MOST_TIMES)):
            yield varied(row, repetition)


def varied(row: Row, repetition: int = 0) -> Row:
    """The analysis row as training offers it. The same row and repetition give the same."""
    draw = random.Random("\0".join((row["text"], *row["label_set"], *["again"] * repetition)))
    labels = _labels(row, draw)
    text = row["text"].lower() if draw.random() < LOWER_CASE else row["text"]
    return row | {"text": text, "label_set": labels}


def _labels(row: Row, draw: random.Random) -> list[str]:
    kind = draw.random()
    others = [label for label in row["label_set"] if label != row["label"]]
    if kind >= SHUFFLED + PARTS or not others:
        return list(row["label_set"])
    if kind >= SHUFFLED:
        others = draw.sample(others, draw.randint(1, len(others)))
    labels = [row["label"], *others]
    draw.shuffle(labels)
    return labels
