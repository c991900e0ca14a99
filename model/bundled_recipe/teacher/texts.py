"""What the teacher is tuned on and asked, in plain words, and which of its texts become training rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from model.training.data.rows import Row

STORIES, FILM_SENTENCES = "generate/tinystories-en", "analyze/subjectivity-en"
STORY_PROMPT = "A little story for children:\n"
STORY_CHARACTERS = (150, 2500)
CERTAIN = 0.7  # the probability of the label, at least, where the teacher was asked to write a text of that label
CERTAIN_OF_PEOPLE = 0.8  # where people wrote the text


@dataclass(frozen=True, slots=True)
class LabelledKind:
    """A source of labelled texts, and how the teacher is told of it."""

    source: str
    new_source: str  # of the texts that the teacher writes
    request: str  # "{}" is the label
    name: str  # before a text whose label is asked for
    question: str
    per_label: int  # texts to write

    def request_for(self, label: str) -> str:
        return self.request.format(label)

    def label_request(self, text: str) -> str:
        return f"{self.name}: {text}\n{self.question}:"


REVIEWS = LabelledKind(
    "analyze/sentence-polarity-en",
    "analyze/taught-polarity-en",
    "A {} sentence from a film review:",
    "Film review sentence",
    "Sentiment",
    30_000,
)
KINDS = (
    REVIEWS,
    LabelledKind(
        "analyze/uci-news-topic-en",
        "analyze/taught-news-en",
        "A news headline about {}:",
        "News headline",
        "Topic",
        8_000,
    ),
    LabelledKind(
        "analyze/uci-sentiment-en",
        "analyze/taught-sentiment-en",
        "A {} sentence from a customer's review:",
        "Customer review sentence",
        "Sentiment",
        12_000,
    ),
    LabelledKind(
        "analyze/clinc-domain-en",
        "analyze/taught-clinc-en",
        "A request to an assistant about {}:",
        "Request to an assistant",
        "Topic",
        4_000,
    ),
)


def examples(rows: Mapping[str, Sequence[Row]]) -> Iterator[tuple[str, str]]:
    """Yield (prompt, answer) for every story, and for every labelled text twice: to write it and to label it."""
    for row in rows[STORIES]:
        yield STORY_PROMPT, row["text"]
    for kind in KINDS:
        for row in rows[kind.source]:
            yield kind.request_for(row["label"]), f" {row['text']}"
            yield kind.label_request(row["text"]), f" {row['label']}"


def is_story(text: str) -> bool:
    """Whether a text is long enough and ends as one."""
    shortest, longest = STORY_CHARACTERS
    return shortest <= len(text) <= longest and text[-1] in '.!?"' and "  " not in text


def labelled(text: str, labels: Sequence[str], shares: Sequence[float], certain: float, asked: str = "") -> Row | None:
    """The row of a text whose likeliest label has at least `certain` of the probability, and is the one `asked` for."""
    share, label = max(zip(shares, labels, strict=True))
    if share < certain or asked not in ("", label) or "\n" in text or len(text.split()) < 2:
        return None
    return {"task": "analyze", "text": text, "label": label, "label_set": list(labels)}
