"""Documents that are longer than the model can read at once: cut into chunks, summarized by map-reduce."""

from dataclasses import replace
from functools import partial

from model.text.sentence_split import split_sentences
from model.text.tokenizer import Tokenizer
from server.engine.types import SamplingParams
from server.errors import InvalidRequestError
from server.generation.admission import Admission
from server.generation.run_in_thread import run_in_thread
from server.generation.service import GenerationService
from server.tasks.sub_generations import run_sub_generations

MAX_CHUNKS = 64
MAX_ROUNDS = 4
CHUNK_SUMMARY_LENGTH, CHUNK_SUMMARY_TOKENS = "medium", 80
SLACK = 1.2  # how much longer than the average a chunk may be, so that no tiny chunk is left at the end


async def split_document(service: GenerationService, text: str) -> list[str]:
    """Cut a document into chunks that the model can read, perhaps only one.

    Raises InvalidRequestError for a document of more than MAX_CHUNKS chunks.
    """
    max_tokens = service.prompts.longest_document
    if max_tokens is None:
        return [text]
    chunks = await run_in_thread(partial(split_into_chunks, max_tokens=max_tokens, tokenizer=service.tokenizer), text)
    if len(chunks) > MAX_CHUNKS:
        raise InvalidRequestError(
            f"The text is too long to summarize: it makes {len(chunks)} pieces of {max_tokens} tokens, "
            f"at most {MAX_CHUNKS} are taken.",
            param="text",
        )
    return chunks


def split_into_chunks(text: str, max_tokens: int, tokenizer: Tokenizer) -> list[str]:
    """Cut a text between sentences into chunks of about the same length.

    A chunk has at most `max_tokens` tokens, unless a single sentence has more. Only spaces between chunks are lost.
    """
    total = len(tokenizer.encode(text))
    if total <= max_tokens:
        return [text]
    split = split_sentences(text)
    average = total / -(-total // max_tokens)
    limit = min(max_tokens, SLACK * average)
    chunks: list[str] = []
    size = 0
    for sentence in split.sentences:
        num_tokens = len(tokenizer.encode(sentence.before + sentence.text))
        if chunks and size + num_tokens <= limit:
            chunks[-1] += sentence.before + sentence.text
            size += num_tokens
        else:
            chunks.append(sentence.text)
            size = num_tokens
    return chunks


async def map_reduce(admission: Admission, text: str, language: str, sampling: SamplingParams) -> str:
    """Replace a document by the summaries of its chunks until the model can read it at once.

    Returns a text that is short enough unchanged. Raises InvalidRequestError for a document that is far too long.
    """
    for _ in range(MAX_ROUNDS):
        chunks = await split_document(admission.service, text)
        if len(chunks) == 1:
            break
        text = await _summarize_chunks(admission, chunks, language, sampling)
    return text


async def _summarize_chunks(admission: Admission, chunks: list[str], language: str, sampling: SamplingParams) -> str:
    service = admission.service
    messages = [service.prompts.summarize(chunk, language, CHUNK_SUMMARY_LENGTH) for chunk in chunks]
    prompts = [await service.task_prompt(each) for each in messages]
    results = await run_sub_generations(admission, prompts, replace(sampling, max_tokens=CHUNK_SUMMARY_TOKENS))
    return "\n".join(result.text for result in results)
