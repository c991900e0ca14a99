"""Gap sentences: the most telling sentence of a few, still in its document."""

from model.training.data.gap_sentences import SENTENCES, SUMMARY_SIZES, gap_sentences

STORY = "The old king lived alone. A young fox found the key of the old king. The key was made of gold."
CHINESE = "公园在城市的东边。公园里有一个很大的湖，湖边有很多树。树下有人唱歌。"


def test_the_sentence_with_the_largest_overlap_is_the_summary() -> None:
    (row,) = gap_sentences([STORY], "en")
    assert row["task"] == "summarize"
    assert STORY.startswith(row["document"])
    assert row["summary"] == "A young fox found the key of the old king."


def test_chinese_is_compared_by_characters() -> None:
    rows = list(gap_sentences([CHINESE], "zh"))
    assert rows
    assert all(row["summary"] in row["document"] and row["document"] in CHINESE for row in rows)


def test_texts_in_another_language_or_of_one_sentence_give_none() -> None:
    assert list(gap_sentences([STORY], "zh")) == list(gap_sentences([CHINESE], "en")) == []
    assert list(gap_sentences(["The old king lived alone in his castle."], "en")) == []


def test_documents_and_summaries_have_the_sizes_they_should() -> None:
    text = " ".join(f"The {word} king number {word} saw the gate of the castle." for word in "abcdefghijklmnop")
    rows = list(gap_sentences([f"{text} {n}" for n in range(40)], "en"))
    assert rows
    for row in rows:
        assert SENTENCES[0] <= row["document"].count(".") <= SENTENCES[1]
        assert SUMMARY_SIZES["en"][0] <= len(row["summary"].split()) <= SUMMARY_SIZES["en"][1]


def test_parts_of_quotations_are_no_summary() -> None:
    assert list(gap_sentences(['"The king is here. "The king is gone," said the king.'], "en")) == []


def test_marks_without_words_are_no_sentences() -> None:
    for n in range(20):
        assert list(gap_sentences([f"太好了！！！！！！{n}！！！"], "zh")) == []
