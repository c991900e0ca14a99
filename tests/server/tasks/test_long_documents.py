"""Long documents are cut into chunks."""

from server.tasks.long_documents import split_into_chunks
from tests.server.applications import byte_tokenizer

TOKENIZER = byte_tokenizer()


def test_a_short_text_is_one_chunk() -> None:
    assert split_into_chunks("Short. Text.", 12, TOKENIZER) == ["Short. Text."]


def test_chunks_have_about_the_same_length_and_end_with_sentences() -> None:
    text = "One is here. Two is here.\nThree is here. Four is here."
    chunks = split_into_chunks(text, 35, TOKENIZER)
    assert chunks == ["One is here. Two is here.", "Three is here. Four is here."]


def test_a_sentence_is_never_cut() -> None:
    long = "X" * 50 + "."
    assert split_into_chunks(f"Hi. {long} Ho.", 20, TOKENIZER) == ["Hi.", long, "Ho."]
