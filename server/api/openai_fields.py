"""Fields of OpenAI's bodies beyond sampling: what is ignored because it changes nothing, what is refused."""

from typing import Annotated, Any

from pydantic import BaseModel

from server.api.request_model import Ignored, Refused, RequestModel, only


class StreamOptions(RequestModel):
    include_usage: bool | None = None
    include_obfuscation: Ignored = None


class OpenAIFields(BaseModel):
    """Common to both endpoints. Who sends them need not remove them."""

    user: Ignored = None
    metadata: Ignored = None
    store: Annotated[Any, only(False)] = None
    service_tier: Ignored = None
    safety_identifier: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_retention: Ignored = None


class ChatOnlyFields(BaseModel):
    """Of the chat endpoint: tools, formats and modalities that are not served are refused by name."""

    parallel_tool_calls: Ignored = None
    prediction: Ignored = None
    response_format: Annotated[Any, only({"type": "text"})] = None
    tools: Annotated[Any, only([])] = None
    tool_choice: Annotated[Any, only("none", "auto")] = None
    functions: Annotated[Any, only([])] = None
    function_call: Annotated[Any, only("none", "auto")] = None
    modalities: Annotated[Any, only(["text"])] = None
    reasoning_effort: Annotated[Any, only("none")] = None
    verbosity: Annotated[Any, only("medium")] = None
    audio: Refused = None
    web_search_options: Refused = None


class CompletionOnlyFields(BaseModel):
    suffix: Annotated[Any, only("")] = None
    best_of: Annotated[Any, only(1)] = None
