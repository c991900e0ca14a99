"""The mixture: which share of the training tokens comes from which source."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True)
class MixturePart:
    """A share of all tokens, for the sources whose name matches one of the patterns (such as "translate/*")."""

    name: str
    share: float
    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mixture:
    """Parts share the tokens; inside a part, a source weighs the square root of its tokens times its factor.

    `factors` are (pattern, factor) pairs; the first pattern that matches counts, and 1 where none does.
    """

    parts: tuple[MixturePart, ...]
    factors: tuple[tuple[str, float], ...] = ()

    def source_shares(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """Return each source's share of the tokens, given its size in tokens; the shares sum to 1.

        A part without a source leaves its share to the others. ValueError where no part has one.
        """
        weights = {part: self._weights(part, sizes) for part in self.parts}
        total = sum(part.share for part, of_part in weights.items() if of_part)
        if total == 0:
            raise ValueError(f"no source fits the mixture: have {sorted(sizes)}, parts are {self.parts}")
        return {
            name: part.share / total * weight / sum(of_part.values())
            for part, of_part in weights.items()
            for name, weight in of_part.items()
        }

    def _weights(self, part: MixturePart, sizes: Mapping[str, int]) -> dict[str, float]:
        names = sorted(name for name in sizes if any(fnmatchcase(name, pattern) for pattern in part.patterns))
        return {name: math.sqrt(sizes[name]) * self._factor(name) for name in names}

    def _factor(self, name: str) -> float:
        return value_of(name, self.factors, default=1.0)


def value_of(source: str, values: Sequence[tuple[str, float]], *, default: float) -> float:
    """The value of the first pattern that the source's name matches."""
    return next((value for pattern, value in values if fnmatchcase(source, pattern)), default)


# Everyday sentences are what the model is for: a word list, news, medicine and manuals help a little. Chinese has the
# fewest of them and is the hardest pair. Elsewhere the factors decide how often a small source comes: over 100 million
# tokens every source that is measured comes 4 to 12 times, and none comes more than 12 times.
_FACTORS = (
    ("translate/tatoeba-en-zh", 2.0),
    ("translate/tatoeba-*", 1.0),
    ("translate/cedict-*", 0.15),
    ("translate/ntrex-*", 0.3),
    ("translate/tico19-*", 0.3),
    ("translate/python-docs-*", 0.4),
    ("generate/tinystories-en", 2.0),
    ("summarize/gap-sentences-en", 0.5),
    ("summarize/gap-sentences-zh", 0.3),
    ("summarize/wikinews-*", 0.6),
    ("summarize/scitldr-en", 1.2),
    ("analyze/clinc-domain-en", 3.5),
    ("analyze/sentence-polarity-en", 2.5),
    ("analyze/uci-news-topic-en", 2.0),
    ("analyze/uci-sentiment-en", 1.2),
    ("analyze/kdconv-topic-zh", 1.2),
    ("analyze/crosswoz-domain-zh", 0.6),
    ("analyze/food-reviews-sentiment-en", 0.6),
    ("analyze/goemotions-*", 0.6),
    ("analyze/pros-cons-en", 0.7),
)
# After 47 million tokens the labelled sources had come once or twice, where a bag of words reads them until it knows
# them. The second run makes up for it; little stories cannot come much more often (docs/training.md).
_FURTHER_FACTORS = (
    ("analyze/sentence-polarity-en", 5.0),
    ("analyze/uci-news-topic-en", 4.0),
    ("analyze/borrowed-topics-en", 4.0),
    ("analyze/uci-sentiment-en", 2.0),
    ("analyze/huffpost-topic-en", 2.0),
    ("analyze/clinc-domain-en", 2.5),
    ("analyze/food-reviews-sentiment-en", 1.2),
    ("analyze/kdconv-topic-zh", 0.6),
    ("generate/tinystories-en", 1.4),
    *_FACTORS,
)
_PLAIN_TEXT = ("generate/classic-fiction-en", "generate/chinese-poetry-zh", "generate/kdconv-knowledge-zh")
_STORIES = ("generate/tinystories-en", "generate/gutenberg-children-en")


def stable_mixture() -> Mixture:
    """The mixture of the long first phase: a quarter plain text, from which the model learns the languages."""
    return _mixture(translate=0.38, plain_text=0.15, stories=0.10, summarize=0.13, chat=0.08, analyze=0.16)


def decay_mixture() -> Mixture:
    """The mixture while the learning rate falls: more tasks."""
    return _mixture(translate=0.42, plain_text=0.06, stories=0.10, summarize=0.15, chat=0.09, analyze=0.18)


def further_mixture() -> Mixture:
    """The mixture of the second run: a third of labels, news above all."""
    shares = {"translate": 0.26, "plain_text": 0.06, "stories": 0.14, "summarize": 0.13, "chat": 0.07, "analyze": 0.34}
    return _mixture(**shares, factors=_FURTHER_FACTORS)


# Facts, tasks and small talk with one persona, made by construction: dialogues of two people are noisy beside them.
# Shares of the chat tokens. New sources of doubtful labels or of hard prose count little.
_WORLD_CHAT = {
    "facts-en": (0.30, ("chat/facts-en",)),
    "facts-zh": (0.12, ("chat/facts-zh",)),
    "tasks": (0.15, ("chat/tasks-en", "chat/instructions-en")),
    "smalltalk-en": (0.10, ("chat/smalltalk-en", "chat/personality-chitchat-en")),
    "smalltalk-zh": (0.06, ("chat/smalltalk-zh",)),
    "smalltalk-de-fr": (0.02, ("chat/smalltalk-de", "chat/smalltalk-fr", "chat/chatterbot")),
    "persona": (0.07, ("chat/routelm-persona",)),
    "definitions-en": (0.06, ("chat/definitions-en",)),
    "dialogues-en": (0.04, ("chat/self-dialogue-en", "chat/topical-chat-en", "chat/synthetic-persona-en")),
    "services": (0.05, ("chat/schema-guided-en", "chat/taskmaster4-en", "chat/crosswoz-zh")),
    "knowledge-zh": (0.03, ("chat/kdconv-zh",)),
}
_WORLD_FACTORS = (
    ("translate/pud-*", 0.3),
    ("translate/xquad-*", 0.3),
    ("translate/tatoeba2-*", 2.0),
    ("analyze/language", 0.3),
    ("analyze/sentence-kind-*", 0.3),
    ("analyze/subjectivity-en", 0.5),
    ("analyze/product-reviews-en", 0.7),
    ("analyze/tatoeba-sentiment-*", 0.4),
    *_FURTHER_FACTORS,
)


def world_mixture(chat: float) -> Mixture:
    """The mixture that teaches everyday chat: `chat` of all tokens, and enough of the other tasks to keep them."""
    rest = {"translate": 0.44, "plain_text": 0.04, "stories": 0.14, "summarize": 0.12, "chat": 0.0, "analyze": 0.26}
    others = _mixture(**{name: (1 - chat) * share for name, share in rest.items()}, factors=_WORLD_FACTORS)
    of_chat = (MixturePart(f"chat/{name}", chat * share, patterns) for name, (share, patterns) in _WORLD_CHAT.items())
    return Mixture((*(part for part in others.parts if part.name != "chat"), *of_chat), others.factors)


def _mixture(
    *,
    translate: float,
    plain_text: float,
    stories: float,
    summarize: float,
    chat: float,
    analyze: float,
    factors: tuple[tuple[str, float], ...] = _FACTORS,
) -> Mixture:
    parts = (
        MixturePart("translate", translate, ("translate/*",)),
        MixturePart("plain_text", plain_text, _PLAIN_TEXT),
        MixturePart("stories", stories, _STORIES),
        MixturePart("summarize", summarize, ("summarize/*",)),
        MixturePart("chat", chat, ("chat/*",)),
        MixturePart("analyze", analyze, ("analyze/*",)),
    )
    return Mixture(parts, factors)
