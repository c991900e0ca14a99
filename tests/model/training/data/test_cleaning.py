"""What is dropped from training: repetitions, and what the model is validated on."""

from typing import Any

import pytest

from model.training.data.cleaning import BOILERPLATE, Cleaner, Dropped
from tests.model.training.conftest import Rows, sentence, translation

VALID = "the quick brown fox jumps over the lazy dog and runs far away"
VALID_ZH = "我昨天在公园里看见了一只很大的白色的狗在跑步"
LONG = "in the morning she walked down to the old harbour where three ships were lying and asked for her brother"


def text(content: str) -> dict[str, Any]:
    return {"task": "generate", "text": content}


def clean(valid: Rows, train: Rows) -> tuple[Rows, Dropped]:
    cleaner = Cleaner()
    cleaner.validation(valid)
    return cleaner.training(train)


@pytest.mark.parametrize(
    ("content", "is_kept"),
    [
        ("He said: The quick, BROWN fox jumps over the lazy cat.", False),  # eight words in a row
        ("He said: the quick brown fox jumps over the cat.", True),  # seven
        ("他说昨天在公园里看见了一只很大，真的", False),  # thirteen characters
        ("他说天在公园里看见了一只很大，真的", True),  # twelve
    ],
)
def test_a_run_of_a_validation_text_is_not_trained_on(content: str, is_kept: bool) -> None:
    kept, dropped = clean([text(VALID), text(VALID_ZH)], [text(content)])
    assert bool(kept) is is_kept
    assert dropped == Dropped(overlaps=0 if is_kept else 1)


def test_a_run_in_many_rows_is_boilerplate() -> None:
    rows = [text(f"{sentence(n)} {VALID[:40]} {sentence(n + 7)}") for n in range(0, 100 * (BOILERPLATE + 1), 100)]
    assert len(clean([text(VALID)], rows)[0]) == BOILERPLATE + 1
    assert len(clean([text(VALID)], rows[:-1])[0]) == 0


def test_both_sides_of_a_translation_and_every_message_count() -> None:
    valid = [translation(VALID, VALID_ZH)]
    rows = [translation(VALID + " again", "好"), translation("Good", VALID_ZH + "了"), translation("Good", "好")]
    assert clean(valid, rows)[0] == rows[2:]
    talk = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": VALID}]
    told = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": VALID + " again"}]
    chats = [{"task": "chat", "messages": messages} for messages in (talk, told)]
    assert clean(chats[:1], chats[1:])[0] == []


def test_labels_are_no_content() -> None:
    labels = VALID.split()
    rows = [{"task": "analyze", "text": word, "label": "fox", "label_set": labels} for word in ("one", "two")]
    assert clean(rows[:1], rows[1:])[0] == rows[1:]


def test_of_nearly_the_same_rows_the_first_is_kept() -> None:
    rows = [text(LONG), text(LONG.upper() + "!"), text(LONG + " then"), text(sentence(3, 12))]
    kept, dropped = clean([], rows)
    assert kept == [rows[0], rows[3]]
    assert dropped == Dropped(near_duplicates=2)


def test_rows_that_differ_in_their_middle_are_both_kept() -> None:
    rows = [text(LONG), text(LONG.replace("old harbour where three", "new market where nine"))]
    assert clean([], rows)[0] == rows


def test_short_rows_are_compared_as_a_whole() -> None:
    rows = [translation("I see.", "我明白了。"), translation("I see it.", "我看见了。"), translation("Hi", "嗨")]
    assert clean([], rows)[0] == rows
