"""The vocabulary that grammars see, for the kinds of tokenizers that checkpoints have."""

import pytest
from llguidance import LLMatcher

from model.text.tokenizer import Tokenizer
from server.generation.grammar_tokenizer import open_grammar_tokenizer
from tests.model.text.kinds import KINDS, LOSSLESS

WORD = "once upon"


@pytest.fixture(params=LOSSLESS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer(KINDS[request.param]().to_str(), eos_tokens=("</s>",))


def test_forced_text_becomes_tokens_of_the_same_bytes(tokenizer: Tokenizer) -> None:
    vocabulary = open_grammar_tokenizer(tokenizer, tokenizer.vocab_size)
    for text in (f'"{WORD}": ', "été 你好 🙂\n", "hello world", " hello", "{}"):
        token_ids = vocabulary.tokenize_str(text)
        assert b"".join(map(tokenizer.token_bytes, token_ids)) == text.encode()


def test_a_matcher_takes_what_the_tokenizer_makes(tokenizer: Tokenizer) -> None:
    vocabulary = open_grammar_tokenizer(tokenizer, tokenizer.vocab_size)
    matcher = LLMatcher(vocabulary, f'start: "{WORD} a time" /[a-z ]*/', log_level=0)
    token_ids = matcher.compute_ff_tokens()
    assert matcher.consume_tokens(token_ids)
    assert b"".join(map(tokenizer.token_bytes, token_ids)).startswith(WORD.encode())
    assert not matcher.is_error()


def test_special_tokens_and_tags_are_named_and_match_no_text(tokenizer: Tokenizer) -> None:
    vocabulary = open_grammar_tokenizer(tokenizer, tokenizer.vocab_size)
    for name in ("<|im_end|>", "<think>"):
        token_id = tokenizer.added_tokens[name]
        assert LLMatcher(vocabulary, f'start: {name} "a"', log_level=0).compute_ff_tokens()[0] == token_id
        text = LLMatcher(vocabulary, f'start: "{name}"', log_level=0)
        assert token_id not in text.compute_ff_tokens()
        anything = LLMatcher(vocabulary, r"start: /(.|\n)*/", log_level=0)
        assert not anything.compute_bitmask()[token_id // 8] >> token_id % 8 & 1


def test_end_tokens_are_those_of_the_tokenizer(tokenizer: Tokenizer) -> None:
    assert open_grammar_tokenizer(tokenizer, tokenizer.vocab_size).eos_tokens == list(tokenizer.eos_token_ids)


def test_a_network_may_know_more_tokens_or_fewer() -> None:
    """Widths of networks are rounded up; added tokens beyond the width cannot be generated."""
    tokenizer = Tokenizer(KINDS["byte level"]().to_str(), eos_tokens=())
    for size in (tokenizer.vocab_size + 50, tokenizer.vocab_size - 1):
        vocabulary = open_grammar_tokenizer(tokenizer, size)
        matcher = LLMatcher(vocabulary, r"start: /(.|\n)*/", log_level=0)
        mask = int.from_bytes(matcher.compute_bitmask(), "little")
        assert mask
        assert mask >> tokenizer.vocab_size & ((1 << 50) - 1) in (0, 1 << 50), "padding is never allowed"


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(LOSSLESS)))
def test_tokenizers_that_change_text_can_be_opened(kind: str) -> None:
    tokenizer = Tokenizer(KINDS[kind]().to_str(), eos_tokens=("</s>",))
    vocabulary = open_grammar_tokenizer(tokenizer, tokenizer.vocab_size)
    matcher = LLMatcher(vocabulary, 'start: "hello"', log_level=0)
    matcher.compute_bitmask()
    matcher.compute_ff_tokens()
