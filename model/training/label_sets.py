"""Which labels, in which order, an analysis example offers: mostly its source's own, sometimes others.

Nearly all requests in training would otherwise hold one of a dozen fixed lists, and the model would learn the lists
instead of reading them. With shuffled lists and parts of lists it has to find the answer among what is offered.
"""

import random

from model.training.rows import Row

SHUFFLED = 0.15  # of the examples: all labels in another order
PARTS = 0.15  # the right label and some of the others, in any order


def with_varied_labels(row: Row) -> Row:
    """The row with the labels to offer in training; rows of other tasks as they are. The same row gives the same."""
    if row["task"] != "analyze":
        return row
    draw = random.Random("\0".join((row["text"], *row["label_set"])))
    kind = draw.random()
    if kind >= SHUFFLED + PARTS:
        return row
    others = [label for label in row["label_set"] if label != row["label"]]
    if kind >= SHUFFLED:
        others = draw.sample(others, draw.randint(1, len(others)))
    labels = [row["label"], *others]
    draw.shuffle(labels)
    return row | {"label_set": labels}
