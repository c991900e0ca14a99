"""What is submitted to the engine for one answer: token ids, and where reuse is worth while."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids and the positions worth remembering for reuse. `first_text_token` skips a begin-of-text token."""

    token_ids: tuple[int, ...]
    boundaries: tuple[int, ...] = ()
    first_text_token: int = 0
