"""Process long texts in a thread, so that the event loop stays free for other requests."""

import asyncio
from collections.abc import Callable, Sized
from typing import TypeVar

LONG_TEXT = 2_048  # characters or tokens; a shorter text takes a millisecond or two

Text = TypeVar("Text", bound=Sized)
Result = TypeVar("Result")


async def run_in_thread(function: Callable[[Text], Result], text: Text, size: int | None = None) -> Result:
    """Return `function(text)`, computed in a thread if the text is long. `size` is its length unless it is given."""
    length = len(text) if size is None else size
    return await asyncio.to_thread(function, text) if length > LONG_TEXT else function(text)
