"""Long documents in pieces."""

from server.tasks.chunking import pieces_of
from tests.server.applications import byte_tokenizer

TOKENIZER = byte_tokenizer()


def test_a_short_text_is_one_piece() -> None:
    assert pieces_of("Short. Text.", 12, TOKENIZER) == ["Short. Text."]


def test_pieces_are_even_and_end_with_sentences() -> None:
    text = "One is here. Two is here.\nThree is here. Four is here."
    pieces = pieces_of(text, 35, TOKENIZER)
    assert pieces == ["One is here. Two is here.", "Three is here. Four is here."]


def test_a_sentence_is_never_cut() -> None:
    long = "X" * 50 + "."
    assert pieces_of(f"Hi. {long} Ho.", 20, TOKENIZER) == ["Hi.", long, "Ho."]
