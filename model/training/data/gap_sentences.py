"""Summaries made by gap-sentence selection: the sentence that shares most words with the others (arXiv 1912.08777).

Unlike in the paper the sentence stays in its document: a small model learns to find it and to copy it.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence

from model.text.centrality import centrality, units
from model.text.language_detection import detect_language
from model.training.data.rows import Row

SENTENCES = (2, 8)  # of a document
SHOWN = 200  # characters used to detect the language
MAX_SIZE = 160  # of a document, in words (characters of Chinese)
SUMMARY_SIZES = {"en": (5, 26), "zh": (8, 40)}
LEAST_OVERLAP = 0.12  # ROUGE-1 of the sentence and the rest
PIECES_OF_A_TEXT = {"en": 1, "zh": 2}  # at most per text; Chinese prose is scarce
_END = {
    "en": re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"'”’]))\s+(?=[\"'“‘]?[A-Z])"),
    "zh": re.compile(r"(?<=[。！？])(?=[^”’」])"),
}


def gap_sentences(texts: Iterable[str], language: str) -> Iterator[Row]:
    """Yield summarize rows from plain texts in `language` ("en" or "zh"); texts in other languages give none."""
    for text in texts:
        if detect_language(text[:SHOWN]) == language:
            for sentences in _pieces(text, language):
                summary = _central(sentences, language)
                if summary is not None:
                    document = ("" if language == "zh" else " ").join(sentences)
                    yield {"task": "summarize", "document": document, "summary": summary}


def _pieces(text: str, language: str) -> list[list[str]]:
    """Groups of adjacent sentences from the beginning of the text; their sizes come from a hash of the text."""
    parts = _END[language].split(" ".join(text[:2000].split()))
    sentences = [part.strip() for part in parts if units(part, language)]
    draw = hashlib.blake2b(text.encode(), digest_size=PIECES_OF_A_TEXT[language]).digest()
    pieces, start, (least, most) = [], 0, SENTENCES
    for byte in draw:
        piece = sentences[start : start + least + byte % (most - least + 1)]
        start += len(piece)
        while sum(len(units(sentence, language)) for sentence in piece) > MAX_SIZE:
            piece = piece[:-1]
        if len(piece) >= least:
            pieces.append(piece)
    return pieces


def _central(sentences: Sequence[str], language: str) -> str | None:
    """The sentence with the highest ROUGE-1 against the others; None if none is suitable as a summary."""
    least, most = SUMMARY_SIZES[language]
    best, found = LEAST_OVERLAP, None
    for sentence, overlap in zip(sentences, centrality(sentences, language), strict=True):
        if overlap >= best and least <= len(units(sentence, language)) <= most and _is_whole(sentence):
            best, found = overlap, sentence
    return found


def _is_whole(sentence: str) -> bool:
    """Whether the sentence ends with an end mark and contains no part of a quotation."""
    return sentence[-1] in ".!?。！？" and not re.search(r"[\"“”‘「」]|^'|[\[\]_*]", sentence)
