"""The label sets of analysis examples: shuffled, subsampled, and rare labels repeated.

The data has a dozen fixed label sets, which the model would memorize instead of reading them. Shuffled sets and subsets
force it to read the labels it is offered. Rows with rare labels are repeated, as the model would otherwise learn never
to choose them. Some texts are lower-cased, because capitals reveal which source a text comes from.
"""

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence

from model.training.data.rows import Row

SHUFFLED = 0.15  # of the examples: all labels in another order
PARTS = 0.15  # the correct label and a random subset of the others, in random order
LOWER_CASE = 0.15  # of the examples: no capitals in the text
MOST_TIMES = 8  # at most, for a row with a rare label


def for_training(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield the rows of one source with varied label sets; rows of other tasks are unchanged.

    A row is repeated sqrt(n / m) times, but at most MOST_TIMES: m rows have its label, n rows the most frequent label.
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
    """The analysis row with its label set varied. Deterministic for a row and repetition."""
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
