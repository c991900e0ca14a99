"""What the task endpoints share: their common fields, and the events of their streams."""

from collections.abc import Callable, Sequence
from contextlib import aclosing

from server.api.dependencies import RequestContext
from server.api.request_model import ModelName
from server.api.response_model import usage_of
from server.api.routing_fields import piece_routing
from server.api.sampling import SamplingFields
from server.api.scheduling import SchedulingFields
from server.api.sse import Event, Events
from server.engine.types import FinishReason
from server.generation.defaults import GenerationDefaults
from server.generation.stream import RunningGeneration, interleave

GREEDY = GenerationDefaults(temperature=0.0)  # a task has one best answer, unless the client asks for variety


class TaskFields(SamplingFields, SchedulingFields):
    model: ModelName | None = None
    stream: bool | None = None


def overall_reason(reasons: Sequence[FinishReason]) -> FinishReason:
    """Why any text was cut off, else `stop`."""
    cut_off = (FinishReason.TIMEOUT, FinishReason.ABORT, FinishReason.LENGTH)
    return next((reason for reason in cut_off if reason in reasons), FinishReason.STOP)


async def task_events(
    name: str,
    answer_id: str,
    context: RequestContext,
    generations: Sequence[RunningGeneration],
    details: Callable[[Sequence[FinishReason]], Event],
) -> Events:
    """`<name>.chunk` events with an index and a delta, then one `<name>.done` with details and the usage."""
    reasons = [FinishReason.STOP] * len(generations)
    async with aclosing(interleave(generations)) as deltas:
        async for index, delta in deltas:
            routing = piece_routing(delta, context.admission.routing)
            if delta.text or routing:
                yield {"object": f"{name}.chunk", "id": answer_id, "index": index, "delta": delta.text, **routing}
            if delta.finish_reason is not None:
                reasons[index] = delta.finish_reason
    yield {
        "object": f"{name}.done",
        "id": answer_id,
        "model": context.admission.model_name,
        **details(reasons),
        "finish_reason": overall_reason(reasons),
        "usage": usage_of(context.admission.generations).model_dump(),
    }
