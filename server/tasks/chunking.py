"""A document in pieces that a model can read, cut between sentences."""

from model.text.sentence_split import split_sentences
from model.text.tokenizer import Tokenizer

SLACK = 1.2  # how much longer than even a piece may be, so that the last is not a scrap


def pieces_of(text: str, longest: int, tokenizer: Tokenizer) -> list[str]:
    """Pieces of about even length, at most `longest` tokens each where no single sentence has more.

    One piece, the text itself, where it fits; nothing but spaces between sentences is lost.
    """
    total = len(tokenizer.encode(text))
    if total <= longest:
        return [text]
    split = split_sentences(text)
    even = total / -(-total // longest)
    limit = min(longest, SLACK * even)
    pieces: list[str] = []
    size = 0
    for sentence in split.sentences:
        tokens = len(tokenizer.encode(sentence.before + sentence.text))
        if pieces and size + tokens <= limit:
            pieces[-1] += sentence.before + sentence.text
            size += tokens
        else:
            pieces.append(sentence.text)
            size = tokens
    return pieces
