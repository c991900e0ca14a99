"""A vocabulary of 128 tokens for the tiny network: bytes of text, some longer tokens, and an end token."""

import re

from llguidance import LLTokenizer

from server.engine.grammar.compiler import GrammarCompiler
from tests.server.engine.tiny import VOCAB

EOS_ID, TAG_ID = 2, 3
CHARACTERS = [bytes([value]) for value in (10, *range(32, 127), *sorted(set("äü".encode())))]
LONGER = [b'{"', b'": ', b'", "', b"true", b"false", b"  ", b"abc", b"bc"]


class Vocabulary:
    """As llguidance asks for it; text is encoded as the longest tokens."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    special_token_ids = (0, 1, EOS_ID, TAG_ID)

    def __init__(self, longer: list[bytes] = LONGER, eos_token_id: int | None = EOS_ID) -> None:
        self.eos_token_id = eos_token_id
        tokens = [b"<pad>", b"<unk>", b"<eos>", b"<tag>", *CHARACTERS, *longer]
        self.tokens = tokens + [b""] * (VOCAB - len(tokens))
        self._ids = {token: token_id for token_id, token in enumerate(self.tokens) if token_id > TAG_ID and token}
        self._longest = re.compile(b"|".join(re.escape(token) for token in sorted(self._ids, key=len, reverse=True)))

    def __call__(self, text: str) -> list[int]:
        return [self._ids[token] for token in self._longest.findall(text.encode())]

    def text(self, token_ids: tuple[int, ...]) -> str:
        """The text of an answer, without its end token."""
        return b"".join(self.tokens[token_id] for token_id in token_ids if token_id > TAG_ID).decode()

    def compiler(self) -> GrammarCompiler:
        return GrammarCompiler(lambda: LLTokenizer(self))
