"""Process long texts in a thread, so that the event loop stays free for other requests."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

LONG_TEXT = 16_384  # characters; a shorter text takes less time than starting a thread

Result = TypeVar("Result")


async def run_in_thread(function: Callable[[str], Result], text: str) -> Result:
    """Return `function(text)`, computed in a thread if the text is long."""
    return await asyncio.to_thread(function, text) if len(text) > LONG_TEXT else function(text)
