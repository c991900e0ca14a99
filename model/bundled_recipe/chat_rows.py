"""What all made chat rows share."""

from collections.abc import Sequence

from model.training.data.rows import Row

ROLES = ("user", "assistant")


def chat_row(texts: Sequence[str]) -> Row:
    """The texts as a chat row, the user's first."""
    messages = [{"role": ROLES[number % 2], "content": text} for number, text in enumerate(texts)]
    return {"task": "chat", "messages": messages}


def capitalized(text: str) -> str:
    """The text with its first letter as a capital, the others as they are.

    >>> capitalized("ice from Rome")
    'Ice from Rome'
    """
    return text[:1].upper() + text[1:]
