"""Documents that are longer than the model can read at once."""

from dataclasses import replace
from functools import partial

from server.engine.types import SamplingParams
from server.errors import InvalidRequestError
from server.generation.run_in_thread import off_loop
from server.generation.service import GenerationService
from server.tasks.chunking import pieces_of
from server.tasks.sub_generations import EarlierWork

MAX_PIECES = 64
MAX_ROUNDS = 4
PIECE_LENGTH, PIECE_TOKENS = "medium", 80  # of the summaries of pieces


async def pieces_to_read(service: GenerationService, text: str) -> list[str]:
    """A document in pieces that the model can read, perhaps one. Raises InvalidRequestError for far too long ones."""
    longest = service.prompts.longest_document
    if longest is None:
        return [text]
    pieces = await off_loop(partial(pieces_of, longest=longest, tokenizer=service.tokenizer), text)
    if len(pieces) > MAX_PIECES:
        raise InvalidRequestError(
            f"The text is too long to summarize: it makes {len(pieces)} pieces of {longest} tokens, "
            f"at most {MAX_PIECES} are taken.",
            param="text",
        )
    return pieces


class Shortening:
    """Puts summaries of its pieces in place of a document until it is as short as those the model learnt from."""

    def __init__(self, earlier: EarlierWork, language: str, sampling: SamplingParams) -> None:
        self._earlier, self._language = earlier, language
        self._sampling = replace(sampling, max_tokens=PIECE_TOKENS)

    async def of(self, text: str) -> str:
        """The text itself where it is short enough. Raises InvalidRequestError where it is far too long."""
        for _ in range(MAX_ROUNDS):
            pieces = await pieces_to_read(self._earlier.service, text)
            if len(pieces) == 1:
                break
            text = await self._summaries(pieces)
        return text

    async def _summaries(self, pieces: list[str]) -> str:
        service = self._earlier.service
        messages = [service.prompts.summarize(piece, self._language, PIECE_LENGTH) for piece in pieces]
        prompts = [await service.chat_prompt(each) for each in messages]
        results = await self._earlier.results(prompts, self._sampling)
        return "\n".join(result.text for result in results)
