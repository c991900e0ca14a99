"""The files of a checkpoint that describe its tokenizer, read as transformers reads them.

tokenizer.json has most of it. Older exporters put some added tokens, or the names of the special ones, only into
tokenizer_config.json, special_tokens_map.json or added_tokens.json.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tokenizers
from tokenizers import AddedToken

from model.files import Directory, read_object_if_any
from model.text.conversion import MERGES, SENTENCEPIECE, TEKKEN, VOCABULARY, converted_tokenizer

logger = logging.getLogger(__name__)

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_LISTS = ("additional_special_tokens", "extra_special_tokens")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What the files say. `named` has the text of special tokens by their name, such as "bos_token"."""

    tokenizer_json: str
    named: Mapping[str, str]
    other_special: frozenset[str]  # special tokens without a name
    added: Mapping[int, AddedToken]  # of the files beside tokenizer.json, by id
    has_flags: bool  # whether the flags of `added` are those of a file, and count more than those of tokenizer.json
    ends: tuple[str | int, ...]  # tokens that end a generation, by text or by id
    adds_bos: bool | None  # whether a text begins with the bos token; None: as the post-processor has it
    adds_eos: bool  # whether a text ends with the eos token, also if the post-processor does not add it
    vocab_size: int | None  # of the network

    @classmethod
    def load(cls, directory: Directory) -> "TokenizerFiles":
        """Read all files. ValueError where there is no tokenizer, or where a file is broken."""
        settings, model = _settings(directory), read_object_if_any(directory / "config.json")
        named = _named(settings)
        others = frozenset(_listed_special(settings))
        adds_bos = settings.get("add_bos_token")
        return cls(
            _tokenizer_json(directory),
            named,
            others,
            _added_tokens(directory, settings, others.union(named.values())),
            isinstance(settings.get("added_tokens_decoder"), dict),
            tuple(_ends(directory, model, named)),
            adds_bos if isinstance(adds_bos, bool) else None,
            settings.get("add_eos_token") is True,
            _text_config(model).get("vocab_size") or model.get("vocab_size"),
        )

    def complete_json(self) -> str:
        """tokenizer.json with the added tokens of the other files. ValueError where it is broken and lacks some."""
        # Building a tokenizer to ask it for its tokens takes four times as long as reading the JSON.
        content = _parsed(self.tokenizer_json)
        known = {token["content"]: token for token in content["added_tokens"]}
        complete = self.tokenizer_json
        if flags := dict(self._other_flags(known)):
            content["added_tokens"] = [token | flags.get(token["content"], {}) for token in content["added_tokens"]]
            complete = json.dumps(content, ensure_ascii=False)
        missing = {token_id: token for token_id, token in self.added.items() if token.content not in known}
        unmarked = [text for text in (*self.named.values(), *sorted(self.other_special)) if text not in known]
        if not missing and not unmarked:
            return complete
        backend = load_backend(complete)
        for token_id, token in sorted(missing.items()):
            _add(backend, token_id, token)
        in_vocabulary = [text for text in unmarked if backend.token_to_id(text) is not None]
        backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in in_vocabulary])
        return backend.to_str() if missing or in_vocabulary else complete

    def _other_flags(self, known: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, bool]]]:
        """The added tokens of tokenizer.json that the other files give other flags. A token with a name is special."""
        described = {token.content: token for token in self.added.values()} if self.has_flags else {}
        for text, token in known.items():
            flags = {flag: getattr(described[text], flag) for flag in _FLAGS} if text in described else {}
            if text in self.named.values():
                flags["special"] = True
            if any(token.get(flag) != value for flag, value in flags.items()):
                yield text, flags


def _tokenizer_json(directory: Directory) -> str:
    """The content of tokenizer.json, which is made of older files where there is none."""
    path = directory / "tokenizer.json"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    converted = converted_tokenizer(directory)
    if converted is None:
        raise ValueError(
            f"{directory} has no tokenizer.json, nor one of {SENTENCEPIECE}, {VOCABULARY} with {MERGES}, and {TEKKEN}"
        )
    return json.dumps(converted, ensure_ascii=False)


def _parsed(tokenizer_json: str) -> dict[str, Any]:
    """Without added tokens where it is broken: whoever builds the tokenizer is told how."""
    try:
        content: dict[str, Any] = json.loads(tokenizer_json)
        if all(isinstance(token["content"], str) for token in content["added_tokens"]):
            return content
    except (ValueError, LookupError, TypeError):
        pass
    return {"added_tokens": []}


def named_tokens(directory: Directory) -> dict[str, str]:
    """The special tokens that have a name, such as "bos_token"."""
    return _named(_settings(directory))


def _named(settings: Mapping[str, Any]) -> dict[str, str]:
    return {name: text for name in NAMES if (text := token_text(settings.get(name))) is not None}


def load_backend(tokenizer_json: str) -> tokenizers.Tokenizer:
    """A tokenizer without truncation and padding. ValueError where the text is not a tokenizer."""
    try:
        backend = tokenizers.Tokenizer.from_str(tokenizer_json)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises bare Exception, and panics at a damaged "Precompiled"
        raise ValueError(f"tokenizer.json cannot be read: {error}") from error
    backend.no_truncation()
    backend.no_padding()
    return backend


def token_text(token: Any) -> str | None:
    """The text of a token as the files have it: a string, or an object with `content`."""
    text: str | None = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _settings(directory: Directory) -> dict[str, Any]:
    """tokenizer_config.json; special_tokens_map.json overrides it unless it lists the added tokens itself."""
    settings = read_object_if_any(directory / "tokenizer_config.json")
    if "added_tokens_decoder" in settings:
        return settings
    return settings | read_object_if_any(directory / "special_tokens_map.json")


def _listed_special(settings: Mapping[str, Any]) -> Iterator[str]:
    for key in _LISTS:
        listed = settings.get(key) or ()
        for token in listed.values() if isinstance(listed, dict) else listed:
            text = token_text(token)
            if text is not None:
                yield text


def _added_tokens(directory: Directory, settings: Mapping[str, Any], special: frozenset[str]) -> dict[int, AddedToken]:
    described = settings.get("added_tokens_decoder")
    if isinstance(described, dict):
        return {int(token_id): _added_token(token) for token_id, token in described.items()}
    return {
        token_id: AddedToken(text, special=text in special, normalized=text not in special)
        for text, token_id in read_object_if_any(directory / "added_tokens.json").items()
    }


def _added_token(described: Mapping[str, Any]) -> AddedToken:
    return AddedToken(described["content"], **{flag: described[flag] for flag in _FLAGS if flag in described})


def _add(backend: tokenizers.Tokenizer, token_id: int, token: AddedToken) -> None:
    """Add a token that tokenizer.json does not have. It gets the next free id, which has to be the expected one."""
    added = backend.get_added_tokens_decoder()
    next_id = max(max(added, default=-1) + 1, backend.get_vocab_size(with_added_tokens=False))
    found = backend.token_to_id(token.content)
    if (next_id if found is None else found) != token_id:
        logger.warning(
            "the added token %r is left out: its id is to be %d, but tokenizer.json leaves %d for it",
            token.content,
            token_id,
            next_id if found is None else found,
        )
        return
    (backend.add_special_tokens if token.special else backend.add_tokens)([token])


def _ends(directory: Directory, model: Mapping[str, Any], named: Mapping[str, str]) -> Iterator[str | int]:
    """Every token that one of the files says ends a generation: files rarely name all of them."""
    for tokens in (
        read_object_if_any(directory / "generation_config.json").get("eos_token_id"),
        model.get("eos_token_id"),
        _text_config(model).get("eos_token_id"),
        named.get("eos_token"),
    ):
        yield from _listed(tokens)


def _listed(tokens: Any) -> Iterable[str | int]:
    return tokens if isinstance(tokens, list) else [] if tokens is None else [tokens]


def _text_config(model: Mapping[str, Any]) -> Mapping[str, Any]:
    return model.get("text_config") or {}
