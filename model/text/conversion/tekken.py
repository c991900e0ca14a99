"""tekken.json, Mistral's form of tiktoken's tokenizers (github.com/mistralai/mistral-common, tekken.py).

Special tokens have the first ids. The others are bytes in base64, in the order in which they are made of shorter ones.
"""

from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from model.text.conversion import bpe

# of versions of the file that do not list them
_SPECIAL = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]",
    "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
)  # fmt: skip


def from_file(content: Mapping[str, Any]) -> bpe.Json:
    """tokenizer.json. ValueError where something is missing."""
    try:
        config = content["config"]
        reserved, size = int(config["default_num_special_tokens"]), int(config["default_vocab_size"])
        listed = [str(token["token_str"]) for token in content.get("special_tokens") or ()] or list(_SPECIAL)
        alphabet = bpe.byte_characters()
        ranks = {
            "".join(alphabet[byte] for byte in b64decode(token["token_bytes"])): int(token["rank"])
            for token in content["vocab"]
        }
        pattern = str(config["pattern"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"tekken.json cannot be read: {error!r}") from error
    if not len(listed) <= reserved < size <= reserved + len(ranks):
        raise ValueError(f"tekken.json has {len(ranks)} tokens for a vocabulary of {size} with {reserved} special ones")
    special = [*listed, *(f"<SPECIAL_{number}>" for number in range(len(listed), reserved))]
    kept = {token: rank for token, rank in ranks.items() if rank < size - reserved}
    vocabulary = {token: rank + reserved for token, rank in kept.items()}
    added = [bpe.added_token(token_id, token, special=True) for token_id, token in enumerate(special)]
    vocabulary |= {token: token_id for token_id, token in enumerate(special)}
    return bpe.byte_level(vocabulary, bpe.merges_of(kept), [pattern], added, ignore_merges=True)
