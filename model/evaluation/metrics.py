"""What is counted in a text or between two: BLEU, chrF, ROUGE, and how much a text repeats itself."""

import re
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from model.evaluation.scores import CorpusScore, as_statistics
from model.text.language_detection import HAN

ROUGE = {"ROUGE-1": "rouge1", "ROUGE-2": "rouge2", "ROUGE-L": "rougeL"}
REPEATED = 4  # words of an n-gram that counts as repetition
LOOPED = 4  # times that the same n-gram makes a text a loop
_WORD = re.compile(f"[{HAN}]|(?:(?![{HAN}])[^\\W_])+")


def split_words(text: str) -> list[str]:
    """The words of a text, lower-cased; a Chinese character is a word of its own, punctuation is left out."""
    return _WORD.findall(text.lower())


def bleu(language: str) -> Any:
    """sacrebleu's BLEU, with its tokenizer for Chinese where the target is Chinese."""
    return import_extra("sacrebleu").BLEU(tokenize="zh" if language == "zh" else "13a")


def chrf() -> Any:
    """sacrebleu's chrF2."""
    return import_extra("sacrebleu").CHRF()


def corpus_score(metric: Any, hypotheses: Sequence[str], references: Sequence[str]) -> CorpusScore:
    """A sacrebleu metric as a function of its own sentence statistics, the ones that it resamples too."""
    statistics = metric._extract_corpus_statistics(list(hypotheses), [list(references)])
    return CorpusScore(as_statistics(statistics), lambda sums_S: float(metric._compute_score_from_stats(sums_S).score))


class RougeScorer:
    """F-measures in percent: English words by their stem, Chinese by the character, other languages by the word."""

    def __init__(self, language: str) -> None:
        tokenizer = None if language == "en" else _Words()
        scorer = import_extra("rouge_score.rouge_scorer")
        self._scorer = scorer.RougeScorer(list(ROUGE.values()), use_stemmer=True, tokenizer=tokenizer)
        self.signature = f"rouge_score|f-measure|tok:{'stemmed words' if tokenizer is None else 'words, zh characters'}"

    def __call__(self, reference: str, summary: str) -> dict[str, float]:
        """ROUGE by metric name."""
        found: dict[str, Any] = self._scorer.score(reference, summary)
        return {name: 100 * found[rouge].fmeasure for name, rouge in ROUGE.items()}


class _Words:
    """What rouge_score takes for a tokenizer; its own one knows only the letters of English."""

    def tokenize(self, text: str) -> list[str]:
        return split_words(text)


def distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    """Different n-grams among all n-grams of all texts, in percent."""
    ngrams = [ngram for words in texts for ngram in _ngrams(words, n)]
    return 100 * len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def repetition(words: Sequence[str], n: int = REPEATED) -> float:
    """N-grams that the same text had before, in percent of its n-grams."""
    ngrams = _ngrams(words, n)
    return 100 * (1 - len(set(ngrams)) / len(ngrams)) if ngrams else 0.0


def is_looped(words: Sequence[str], n: int = REPEATED, times: int = LOOPED) -> bool:
    """Whether one n-gram stands in the text `times` times or more."""
    return max(Counter(_ngrams(words, n)).values(), default=0) >= times


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]


def import_extra(name: str) -> Any:
    """Import a module of the optional extra `evaluate`. ImportError says how to install it."""
    try:
        return import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise ImportError(f"this score needs {package}: install it with pip install 'routelm[evaluate]'") from error
