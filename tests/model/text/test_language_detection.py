"""The language detector on everyday sentences and odd input."""

import pytest

from model.text.language_detection import MAX_CHARACTERS, detect_language


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The weather is nice today.", "en"),
        ("Where is the station?", "en"),
        ("I don't know what you mean.", "en"),
        ("Das Wetter ist heute schön.", "de"),
        ("Wo ist der Bahnhof?", "de"),
        ("Ich habe keine Ahnung.", "de"),
        ("Il fait beau aujourd'hui.", "fr"),
        ("Où est la gare ?", "fr"),
        ("Qu'est-ce que c'est ?", "fr"),
        ("今天天气很好。", "zh"),
        ("我用 Python 写代码", "zh"),
        ("The word 你好 means hello in the Chinese language", "en"),
        ("", "en"),
        ("12345 !?", "en"),
        ("👍", "en"),
        ("OK", "en"),
    ],
)
def test_language_of_a_sentence(text: str, language: str) -> None:
    assert detect_language(text) == language


def test_the_beginning_of_a_long_text_decides() -> None:
    german = "Das ist nicht gut und ich bin nicht da. " * (MAX_CHARACTERS // 30)
    assert detect_language(german + "The end of this is in English and of no matter. " * 10 * MAX_CHARACTERS) == "de"
