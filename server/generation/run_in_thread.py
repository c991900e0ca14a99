"""Work on long texts in a thread, so that other streams go on."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

LONG_TEXT = 16_384  # characters; what is shorter takes less time than a thread is worth

Result = TypeVar("Result")


async def off_loop(work: Callable[[str], Result], text: str) -> Result:
    """`work(text)`, in a thread where the text is long."""
    return await asyncio.to_thread(work, text) if len(text) > LONG_TEXT else work(text)
