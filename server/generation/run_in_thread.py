"""Process long texts in a thread, so that the event loop stays free for other requests."""

import asyncio
from collections.abc import Callable, Sized
from typing import TypeVar

LONG_TEXT = 16_384  # characters or tokens; a shorter text takes less time than starting a thread

Text = TypeVar("Text", bound=Sized)
Result = TypeVar("Result")


async def run_in_thread(function: Callable[[Text], Result], text: Text) -> Result:
    """Return `function(text)`, computed in a thread if the text is long."""
    return await asyncio.to_thread(function, text) if len(text) > LONG_TEXT else function(text)
