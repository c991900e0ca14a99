"""A tokenizer of bytes that has the markers of every format as special tokens, or none of them."""

from collections.abc import Sequence

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from model.text.tokenizer import Tokenizer

END = "<|end_of_answer|>"


def byte_tokenizer(special: Sequence[str] = ()) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({character: number for number, character in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (END, *special)])
    return Tokenizer(backend.to_str(), eos_tokens=(END,))
