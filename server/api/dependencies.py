"""What FastAPI gives to endpoints: the service, and the context of one request."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request, Response

from server.api.compatibility import MAX_NAMED_FIELDS
from server.api.disconnect import cancelled_on_disconnect
from server.api.request_model import RequestBody
from server.api.routing_fields import ExpertsFields
from server.api.scheduling import key_scheduling, request_scheduling
from server.api.sse import OPENAI, Events, EventStream, StreamFormat
from server.api.validation_errors import FieldError, in_one_answer
from server.chat.service import ChatService
from server.engine.types import RoutingParams
from server.errors import ClientGoneError
from server.generation.admission import Admission
from server.generation.service import GenerationService
from server.middleware.api_keys import ApiKey, KeyScope

Result = TypeVar("Result")

BATCH_PRIORITY = 10_000  # is added to that of the key: any other request is more urgent than those of batches
WARNINGS_HEADER = "X-RouteLM-Warnings"  # names the ignored fields; `warnings` in the body explains them


async def get_service(request: Request) -> GenerationService:
    service: GenerationService = request.app.state.service
    return service


Service = Annotated[GenerationService, Depends(get_service)]


@dataclass(frozen=True, slots=True)
class RequestContext:
    """One HTTP request at an endpoint, and the generations it starts."""

    request: Request
    response: Response
    admission: Admission
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)  # cancelled when the request ends

    @property
    def service(self) -> GenerationService:
        return self.admission.service

    @property
    def chat(self) -> ChatService:
        """What chats are started with."""
        chat: ChatService = self.request.app.state.chat
        return chat

    def accept(self, body: RequestBody) -> GenerationService:
        """Return the service, if it has the model that the body asks for. Headers name ignored fields, and
        tell how many requests wait before this one and for how many seconds.

        Raises ModelNotFoundError, what `request_scheduling` and `ExpertsFields.routing_params` raise, and
        InvalidRequestError for unknown fields if the server is strict about them.
        """
        if body.unknown_fields and self.request.app.state.settings.strict:
            raise in_one_answer(
                [FieldError(name, "this field is not known here", "unknown_parameter") for name in body.unknown_fields]
            )
        self.admission.adapter = self.service.adapter_of(getattr(body, "model", None))
        self.admission.scheduling = request_scheduling(self.request, body, self.admission.scheduling)
        if isinstance(body, ExpertsFields):
            self.admission.routing = body.routing_params(
                self.service.facts,
                self.admission.routing.task,
                masks_allowed=self.request.app.state.settings.allow_expert_masks and is_admin(self.request),
            )
        engine = self.service.engine
        self.response.headers["X-Queue-Position"] = str(engine.num_waiting)
        self.response.headers["X-Queue-Wait"] = f"{engine.expected_wait(self.admission.scheduling):.1f}"
        name_ignored_fields(body, self.response)
        return self.service

    async def until_disconnect(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Await `work`; cancel it and raise ClientGoneError when the client closes the connection."""
        with cancelled_on_disconnect(self.request.receive):
            return await work
        raise ClientGoneError

    async def until_begun(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Run `work` in a task; return when its first generation was accepted, or when it is done.

        A stream can start then, while the sub-generations of a task still run: the client gets its headers and comments
        that keep the connection open. Raises what `work` raises before that, which has a status of its own.
        """
        task = asyncio.create_task(work)
        begun = asyncio.create_task(self.admission.has_begun.wait())
        self.tasks.extend((task, begun))
        await self.until_disconnect(_first_completed(task, begun))
        if task.done():
            task.result()
        return task

    def stream(self, events: Events, stream_format: StreamFormat = OPENAI) -> EventStream:
        """An answer that sends `events`, with the headers that were set so far."""
        return EventStream(events, headers=dict(self.response.headers), stream_format=stream_format)


async def get_context(request: Request, response: Response) -> AsyncIterator[RequestContext]:
    """Aborts what still runs when the answer was sent and when the client has left.

    The service comes from the request and not as a dependency of its own, which FastAPI would take longer to resolve.
    Only a dependency can do so for a stream: its exit code runs at once when the client disconnects, but the `finally`
    of a generator that was returned does not.
    """
    running: dict[str, Admission] = request.app.state.running_requests
    with _admission(request, request.app.state.service) as admission:
        context = RequestContext(request, response, admission)
        running[admission.request_id] = admission
        try:
            yield context
        finally:
            del running[admission.request_id]
            for task in context.tasks:
                task.cancel()


def _admission(request: Request, service: GenerationService) -> Admission:
    """The generations of a request, which count for its API key."""
    request_id, state = request.scope["request_id"], request.app.state
    routing = RoutingParams(task=_task(request))
    key: ApiKey | None = request.scope.get("api_key")
    scheduling = key_scheduling(key, BATCH_PRIORITY if request.scope.get("is_batch") else 0)
    if key is None:
        return Admission(service, request_id, scheduling, routing)

    def record_usage(prompt_tokens: int, completion_tokens: int) -> None:
        state.api_keys.usage_of(key).add_tokens(prompt_tokens + completion_tokens, key)
        state.metrics.keys.add_tokens(key.name, prompt_tokens, completion_tokens)

    salt = key.name if state.settings.cache_salt_per_key else ""
    return Admission(service, request_id, scheduling, routing, cache_salt=salt, record_usage=record_usage)


Context = Annotated[RequestContext, Depends(get_context)]


def is_admin(request: Request) -> bool:
    """Whether a request may do what takes the scope admin: without API keys every one may."""
    key: ApiKey | None = request.scope.get("api_key")
    return key is None or KeyScope.ADMIN in key.scopes


def _task(request: Request) -> str:
    """The name of an endpoint: its path, such as "chat/completions"."""
    path: str = request.scope["route"].path
    return path.removeprefix("/v1").strip("/")


def name_ignored_fields(body: RequestBody, response: Response) -> None:
    """Set the header that tells which fields of the body were ignored, if any were."""
    if body.ignored_fields:
        response.headers[WARNINGS_HEADER] = _header_value(body.ignored_fields[:MAX_NAMED_FIELDS])


def _header_value(names: tuple[str, ...]) -> str:
    """The names in ASCII, without what would end or split a header."""
    return ", ".join(
        "".join(c if (c.isalnum() and c.isascii()) or c in "_-." else "?" for c in name[:64]) for name in names
    )


async def _first_completed(*tasks: asyncio.Task[Any]) -> None:
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
