"""Small tokenizers of the kinds that checkpoints have, trained on a few words."""

import json
from collections.abc import Callable

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

WORDS = [
    "once upon a time there was a little boat on the sea .",
    "user and assistant say hello world ! 你好 é",
    "im_end",
]
SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
NOT_SPECIAL = ("<|user|>", "<think>")  # added tokens that the file does not call special
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|user|>{% else %}<|im_start|>{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
)


def add_tokens(backend: tokenizers.Tokenizer, *, normalized: bool = False, rstrip: bool = False) -> None:
    flags = {"normalized": normalized, "rstrip": rstrip}
    backend.add_special_tokens([AddedToken(token, special=True, **flags) for token in SPECIAL])
    backend.add_tokens([AddedToken(token, special=False, **flags) for token in NOT_SPECIAL])


def byte_level(
    *, prefix_space: bool = False, rstrip: bool = False, ignore_merges: bool = False
) -> tokenizers.Tokenizer:
    """As GPT-2, Qwen and Llama 3 have it."""
    backend = tokenizers.Tokenizer(models.BPE(ignore_merges=ignore_merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        WORDS * 5, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    )
    add_tokens(backend, rstrip=rstrip)
    if prefix_space:
        backend.post_processor = processors.ByteLevel(trim_offsets=True)
    return backend


def byte_fallback(space: str) -> tokenizers.Tokenizer:
    """SentencePiece with BPE and byte fallback: Llama 2 ("normalizer"), newer Mistrals ("first"), Gemma ("never")."""
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.train_from_iterator(WORDS * 5, trainers.BpeTrainer(vocab_size=200, show_progress=False))
    content = json.loads(backend.to_str())
    learned = content["model"]["vocab"]
    vocab = {"<unk>": 0} | {f"<0x{byte:02X}>": 1 + byte for byte in range(256)}
    for token in sorted(learned, key=lambda token: learned[token]):
        vocab.setdefault(token, len(vocab))
    content["model"]["vocab"] = vocab
    backend = tokenizers.Tokenizer.from_str(json.dumps(content))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if space == "normalizer":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        backend.pre_tokenizer = None
    elif space == "never":
        backend.normalizer, backend.pre_tokenizer = normalizers.Replace(" ", "▁"), None
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=space, split=False)
    backend.decoder = decoders.Sequence(steps if space == "never" else [*steps, decoders.Strip(" ", 1, 0)])
    add_tokens(backend)
    if space != "never":
        begin = ("<s>", backend.token_to_id("<s>"))
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[begin])
    return backend


def unigram() -> tokenizers.Tokenizer:
    """As T5 has it: the vocabulary itself has the special tokens, and a text is ended by one."""
    pieces = [(token, 0.0) for token in ("<unk>", *SPECIAL, *NOT_SPECIAL)]
    characters = sorted({character for words in WORDS for character in words} | set("▁<>|/_"))
    pieces += [(character, -5.0) for character in characters] + [("▁the", -2.0), ("im", -2.0), ("▁hello", -2.0)]
    backend = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    add_tokens(backend)
    end = ("</s>", backend.token_to_id("</s>"))
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[end])
    return backend


def word_pieces(*, normalized: bool = False) -> tokenizers.Tokenizer:
    """As BERT has it, in lower case; `normalized`: added tokens are found in upper case too."""
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=["[UNK]"], show_progress=False)
    backend.train_from_iterator([*WORDS * 5, "< > | /"], trainer)
    backend.decoder = decoders.WordPiece()
    add_tokens(backend, normalized=normalized)
    around = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=around)
    return backend


KINDS: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "byte level": byte_level,
    "byte level, prefix space": lambda: byte_level(prefix_space=True),
    "byte level, tokens take the space after them": lambda: byte_level(rstrip=True),
    "byte level, whole words first": lambda: byte_level(ignore_merges=True),
    "byte fallback, space by the normalizer": lambda: byte_fallback("normalizer"),
    "byte fallback, space before the first word": lambda: byte_fallback("first"),
    "byte fallback, space before every part": lambda: byte_fallback("always"),
    "byte fallback, no space": lambda: byte_fallback("never"),
    "unigram": unigram,
    "word pieces": word_pieces,
    "word pieces, normalized tokens": lambda: word_pieces(normalized=True),
}
LOSSLESS = [kind for kind in KINDS if kind.startswith("byte") and "prefix" not in kind and "take" not in kind]
