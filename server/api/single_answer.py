"""Starting the answer of a chat in APIs that know no choices: those of Anthropic, of Ollama and OpenAI's responses."""

from collections.abc import Mapping

from server.api.dependencies import RequestContext
from server.api.request_model import RequestBody
from server.api.sampling import SamplingFields, answer_sampling
from server.chat.generation import ChatGeneration
from server.chat.request import ChatRequest


async def start_answer(
    context: RequestContext,
    body: RequestBody,
    request: ChatRequest,
    options: SamplingFields,
    *,
    names: Mapping[str, str],
    logprobs: int | None = None,
) -> ChatGeneration:
    """Accept a body and start its answer, sampled as `options` say, which are the body itself or a part of it.

    `names`: what the API calls `reasoning_effort` and `enable_thinking`, for a warning where the chat template does not
    know them. `logprobs` is the number of alternatives. Raises what RequestContext.accept and ChatService.start raise.
    """
    for name in context.chat.unknown_variables(request):
        body.ignore(names.get(name, name))
    service = context.accept(body)
    prompt = await context.chat.prompt(request)
    sampling = answer_sampling(service, options, prompt, logprobs=logprobs)
    (answer,) = await context.chat.start(context.admission, request, prompt, sampling, options.text_options)
    return answer
