"""GET (or HEAD) /health/live and /health/ready: is the process alive, and should it get requests?"""

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from server.api.dependencies import Service
from server.middleware.drain import Drain

router = APIRouter(prefix="/health", tags=["Health"])


class Health(BaseModel):
    """`alive` or `ready`; `draining` (SIGTERM came), `unhealthy` (engine steps keep failing, or do not end)."""

    status: str


UNHEALTHY: dict[int | str, dict[str, Any]] = {503: {"model": Health, "description": "Unhealthy or draining."}}


@router.head("/live", include_in_schema=False)
@router.get("/live", summary="Liveness", responses=UNHEALTHY)
async def live(response: Response, service: Service) -> Health:
    """200 as long as the process answers and its engine works; otherwise it has to be restarted.

    An engine whose steps keep failing is not ready, so it gets no requests and cannot recover without a restart.
    """
    healthy = service.engine.stats().healthy
    response.status_code = 200 if healthy else 503
    return Health(status="alive" if healthy else "unhealthy")


@router.head("/ready", include_in_schema=False)
@router.get("/ready", summary="Readiness", responses=UNHEALTHY)
@router.head("", include_in_schema=False)
@router.get("", include_in_schema=False)
async def ready(request: Request, response: Response, service: Service) -> Health:
    """200 when the server takes requests; 503 while it drains or when the engine keeps failing."""
    drain: Drain = request.app.state.drain
    status = "draining" if drain.begun else "ready" if service.engine.stats().healthy else "unhealthy"
    if status != "ready":
        response.status_code = 503
    return Health(status=status)
