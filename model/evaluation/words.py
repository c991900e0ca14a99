"""The words of a text, lower-cased; a Chinese character is a word of its own."""

import re

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(f"[{_HAN}]|(?:(?![{_HAN}])[^\\W_])+")


def split_words(text: str) -> list[str]:
    """Return runs of letters and digits, and single Chinese characters; punctuation is left out."""
    return _WORD.findall(text.lower())
