"""Control tokens in a rendered conversation: the template may write them, the messages may not.

Special tokens are control tokens; so are added tokens that are not marked special but that the chat template writes
itself, such as `<｜User｜>` of DeepSeek's distilled models. What a message has in their place stays ordinary text.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice

from model.text.tokenizer import TokenizedText, Tokenizer

_FIRST_MARK, _LAST_MARK = 0xE000, 0xF8FF  # Unicode's private use area


class _Patterns:
    """Finds a set of tokens, and their beginnings and ends, in a text."""

    def __init__(self, ids: Mapping[str, int], unknown_id: int | None) -> None:
        self.ids = frozenset(ids.values()) - {unknown_id}  # the unknown token also represents ordinary text
        longest_first = sorted(ids, key=len, reverse=True)
        self.first_characters = re.compile("|".join(map(_first_character, longest_first)) or r"(?!)")
        self.prefixes = {token[:size] for token in longest_first for size in range(1, len(token))}
        self.suffixes = {token[size:] for token in longest_first for size in range(1, len(token))}
        self.max_length = max(map(len, longest_first), default=0)


class ControlTokens:
    """The control tokens of a tokenizer under one template. Building it takes milliseconds, so build it once."""

    def __init__(self, tokenizer: Tokenizer, template: str, written: Collection[str]) -> None:
        """`template` is the source of the template, `written` are the tokens that it writes."""
        self.tokenizer = tokenizer
        not_special = {text: tokenizer.added_tokens[text] for text in written if text not in tokenizer.special_tokens}
        self.special = _Patterns(tokenizer.special_tokens, tokenizer.unknown_id)
        self.all = _Patterns({**tokenizer.special_tokens, **not_special}, tokenizer.unknown_id)
        self.ids = self.all.ids
        self.normalizes = tokenizer.normalizes_added_tokens
        self.plain_text = tokenizer.plain_text_encoder(not_special)
        self.characters = frozenset(template).union(*tokenizer.special_tokens, *not_special)


class Guard:
    """Keeps the control tokens out of the messages of one conversation.

    `hide` replaces a character of each control token in a text, and of each beginning or end of one that the template
    could complete, by a private-use character that occurs nowhere else. After rendering, the control tokens that are
    left were written by the template. `tokenize` encodes the texts between them with the characters put back. This is
    right for every template that copies, trims, splits or rearranges texts; only a template that deletes characters
    inside a text could still join the halves of a token.
    """

    def __init__(self, control: ControlTokens, texts: Iterable[str]) -> None:
        """`texts` are all texts that go into the conversation."""
        self._control, self._texts = control, texts
        self._marks: dict[str, str] = {}  # character -> the private-use character that replaces it
        self._free_marks = self._unused_marks()

    def hide(self, text: str, *, special_only: bool = False) -> str:
        """Hide the control tokens in a text, or only those that are marked special."""
        patterns = self._control.special if special_only else self._control.all
        # One pass is enough, even for overlapping tokens: no token contains a mark, so marking cannot make a new one.
        text = patterns.first_characters.sub(lambda found: self._mark_of(found[0]), text)
        start, end = len(text) - len(text.lstrip()), len(text.rstrip())
        for size in range(1, min(patterns.max_length, end - start + 1)):
            if text[end - size : end] in patterns.prefixes:
                text = self._mark(text, end - size)
            if text[start : start + size] in patterns.suffixes:
                text = self._mark(text, start)
        return self._hide_other_spellings(text, patterns.ids) if self._control.normalizes else text

    def tokenize(self, text: str) -> TokenizedText:
        """Encode a rendered text. It has the same tokens as without the guard where no message has a control token."""
        tokens = self._control.tokenizer.encode_with_offsets(text, allow_special=True)
        if not self._marks:
            return tokens
        result, first = TokenizedText([], [], []), 0
        for last in [*(i for i, token_id in enumerate(tokens.ids) if self.is_control(token_id)), len(tokens.ids)]:
            start, end = self._text_between(tokens, text, first, last)
            if self._is_guarded(text[start:end]):
                _extend(result, _moved(self._encode_restored(text[start:end], is_first=first == 0), start))
                first = last
            _extend(result, _part(tokens, first, last + 1))
            first = last + 1
        return result

    def is_control(self, token_id: int) -> bool:
        return token_id in self._control.ids

    def free_mark(self) -> str:
        """A private-use character that occurs nowhere in the conversation and was not given before."""
        mark = next(self._free_marks, None)
        if mark is None:
            raise ValueError("every private-use character of Unicode is in the messages: one is needed here")
        return mark

    def _text_between(self, tokens: TokenizedText, text: str, first: int, last: int) -> tuple[int, int]:
        """Where the text of the tokens `first` to `last` is, without spaces that the control tokens around it take."""
        flags = self._control.tokenizer.added_token_flags
        start = tokens.ends[first - 1] if first > 0 else 0
        end = tokens.starts[last] if last < len(tokens.ids) else len(text)
        if first > 0 and flags[tokens.ids[first - 1]].rstrip:
            start = end - len(text[start:end].lstrip())
        if last < len(tokens.ids) and flags[tokens.ids[last]].lstrip:
            end = start + len(text[start:end].rstrip())
        return start, end

    def _encode_restored(self, text: str, *, is_first: bool) -> TokenizedText:
        encoder = self._control.plain_text
        encode = encoder.encode if is_first else encoder.encode_continuation
        tokens = encode(self._restore(text))
        if self._control.ids.isdisjoint(tokens.ids):
            return tokens
        return self._encode_apart(text, is_first=is_first)

    def _encode_apart(self, text: str, *, is_first: bool) -> TokenizedText:
        """Encode a text of which the vocabulary itself, not only its added tokens, has a control token.

        It is cut after every mark, so that no piece has a whole control token.
        """
        encoder, position, result = self._control.plain_text, 0, TokenizedText([], [], [])
        marks = "".join(self._marks.values())
        for piece in re.findall(f"[^{marks}]*[{marks}]|[^{marks}]+", text):
            encode = encoder.encode if is_first and position == 0 else encoder.encode_continuation
            _extend(result, _moved(encode(self._restore(piece)), position))
            position += len(piece)
        return result

    def _hide_other_spellings(self, text: str, ids: frozenset[int]) -> str:
        """Hide what the tokenizer reads as a control token after normalizing it, such as one in upper case."""
        while places := list(self._control_places(text, ids)):
            characters = list(text)
            for place in places:
                characters[place] = self._mark_of(characters[place])
            text = "".join(characters)
        return text

    def _control_places(self, text: str, ids: frozenset[int]) -> Iterator[int]:
        """A character of every control token in the text that is not hidden yet."""
        tokens, marks = self._control.tokenizer.encode_with_offsets(text, allow_special=True), self._marks.values()
        for token_id, start, end in zip(tokens.ids, tokens.starts, tokens.ends, strict=True):
            if token_id in ids:
                visible = (i for i in range(start, end) if text[i] not in marks and not text[i].isspace())
                yield from islice(visible, 1)

    def _is_guarded(self, text: str) -> bool:
        return not set(self._marks.values()).isdisjoint(text)

    def _restore(self, text: str) -> str:
        return text.translate({ord(mark): character for character, mark in self._marks.items()})

    def _mark(self, text: str, position: int) -> str:
        return text[:position] + self._mark_of(text[position]) + text[position + 1 :]

    def _mark_of(self, character: str) -> str:
        if character not in self._marks:
            self._marks[character] = self.free_mark()
        return self._marks[character]

    def _unused_marks(self) -> Iterator[str]:
        taken = self._control.characters.union(*self._texts)
        yield from (chr(code) for code in range(_FIRST_MARK, _LAST_MARK + 1) if chr(code) not in taken)


def _first_character(token: str) -> str:
    """The pattern of the first character of a `token`; the rest has to follow, but is not part of the match."""
    return f"{re.escape(token[0])}(?={re.escape(token[1:])})"


def _part(tokens: TokenizedText, first: int, end: int) -> TokenizedText:
    return TokenizedText(tokens.ids[first:end], tokens.starts[first:end], tokens.ends[first:end])


def _moved(tokens: TokenizedText, offset: int) -> TokenizedText:
    starts, ends = ([place + offset for place in places] for places in (tokens.starts, tokens.ends))
    return TokenizedText(tokens.ids, starts, ends)


def _extend(result: TokenizedText, tokens: TokenizedText) -> None:
    result.ids.extend(tokens.ids)
    result.starts.extend(tokens.starts)
    result.ends.extend(tokens.ends)
