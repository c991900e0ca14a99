"""Label sets in training: mostly the given one, the right label always among them."""

from collections import Counter

import pytest

from model.training.data.label_sets import LOWER_CASE, MOST_TIMES, PARTS, SHUFFLED, for_training, varied

LABELS = ["travel", "home", "work", "banking", "meta"]


def kind(labels: list[str]) -> str:
    return "given" if labels == LABELS else "shuffled" if sorted(labels) == sorted(LABELS) else "part"


def test_shares_of_given_shuffled_and_partial_sets() -> None:
    kinds: Counter[str] = Counter()
    for number in range(3000):
        row = {"task": "analyze", "text": f"text {number}", "label": LABELS[number % 5], "label_set": LABELS}
        offered = varied(row)
        assert offered == varied(row)
        assert offered["label"] == row["label"]
        assert offered["label"] in offered["label_set"]
        assert set(offered["label_set"]) <= set(LABELS)
        assert len(offered["label_set"]) == len(set(offered["label_set"])) >= 2
        kinds[kind(offered["label_set"])] += 1
    assert kinds["given"] / 3000 == pytest.approx(1 - SHUFFLED - PARTS, abs=0.05)
    assert min(kinds["shuffled"], kinds["part"]) / 3000 > 0.1


def test_rows_of_other_tasks_stay_as_they_are() -> None:
    rows = [{"task": "generate", "text": "a"}]
    assert list(for_training(rows)) == rows


@pytest.mark.parametrize(("frequent", "rare", "times"), [(10, 10, 1), (39, 10, 1), (40, 10, 2), (900, 1, MOST_TIMES)])
def test_rows_of_a_rare_label_come_several_times(frequent: int, rare: int, times: int) -> None:
    labels = ["travel"] * frequent + ["home"] * rare
    rows = [
        {"task": "analyze", "text": f"text {number}", "label": label, "label_set": LABELS}
        for number, label in enumerate(labels)
    ]
    assert Counter(row["label"] for row in for_training(rows)) == {"travel": frequent, "home": rare * times}


def test_repetitions_of_a_row_vary() -> None:
    row = {"task": "analyze", "text": "text", "label": "home", "label_set": LABELS}
    kinds = {kind(varied(row, repetition)["label_set"]) for repetition in range(30)}
    assert kinds == {"given", "shuffled", "part"}


def test_some_texts_are_in_lower_case_and_the_others_stay() -> None:
    texts = [f"Text {number} Of IBM" for number in range(2000)]
    rows = [{"task": "analyze", "text": text, "label": "home", "label_set": LABELS} for text in texts]
    offered = [row["text"] for row in for_training(rows)]
    lowered = [before.lower() == after for before, after in zip(texts, offered, strict=True)]
    assert sum(lowered) / 2000 == pytest.approx(LOWER_CASE, abs=0.03)
    assert all(low or before == after for before, after, low in zip(texts, offered, lowered, strict=True))


def test_a_set_of_one_label_stays_as_it_is() -> None:
    rows = [{"task": "analyze", "text": f"text {n}", "label": "home", "label_set": ["home"]} for n in range(100)]
    assert all(row["label_set"] == ["home"] for row in for_training(rows))
