"""GET /metrics: Prometheus."""

import asyncio

from fastapi import APIRouter, Request, Response

from server.metrics import Metrics

router = APIRouter(tags=["Health"])


@router.head("/metrics", include_in_schema=False)
@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Series with vLLM's names, and `routelm:` ones for routing, recurrent state and overload."""
    series: Metrics = request.app.state.metrics
    # In a thread: the series of two thousand experts take 40 ms.
    content, content_type = await asyncio.to_thread(series.exposition, request.headers.get("accept", ""))
    return Response(content, headers={"Content-Type": content_type})
