"""What FastAPI gives to endpoints: the service, the request id, and the admission of a request."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request

from server.generation.admission import Admission
from server.generation.service import GenerationService


async def get_service(request: Request) -> GenerationService:
    service: GenerationService = request.app.state.service
    return service


async def get_request_id(request: Request) -> str:
    """The id in the X-Request-Id header of the answer."""
    request_id: str = request.scope["request_id"]
    return request_id


Service = Annotated[GenerationService, Depends(get_service)]
RequestId = Annotated[str, Depends(get_request_id)]


async def get_admission(service: Service, request_id: RequestId) -> AsyncIterator[Admission]:
    """Aborts what still runs when the answer was sent and when the client has left.

    Only a dependency can do so for a stream: its exit code runs at once when the client disconnects, but the `finally`
    of a generator that was returned does not.
    """
    with Admission(service, request_id) as admission:
        yield admission


RequestAdmission = Annotated[Admission, Depends(get_admission)]
