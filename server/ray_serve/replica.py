"""One replica: the application that `routelm serve` serves, without a socket."""

import sys
from collections.abc import AsyncGenerator, Callable

from fastapi import FastAPI

from server.commands.common.logs import configure_logging
from server.commands.serve import garbage_collection_paused
from server.generation.service import GenerationService
from server.ray_serve.forwarding import ForwardedRequest, Messages, answer
from server.settings import Settings
from server.startup.app import create_app
from server.startup.backend import prepare_backend
from server.startup.uvicorn_server import SWITCH_SECONDS


def load_app() -> FastAPI:
    """The application of the environment's settings; loads the model. Raises ValueError for settings it cannot have."""
    settings = Settings()
    if settings.batch_dir is not None:
        raise ValueError("ROUTELM_BATCH_DIR: a batch is on one server, but clients reach any replica: leave it out")
    configure_logging(settings.log_level, as_json=settings.log_format == "json")
    sys.setswitchinterval(SWITCH_SECONDS)
    with garbage_collection_paused():
        return create_app(settings, prepare_backend(settings))


class EngineReplica:
    """Ray Serve calls the methods. To stop a replica, it waits for its requests and then ends the process."""

    async def __init__(self, load: Callable[[], FastAPI] = load_app) -> None:  # type: ignore[misc]
        self._app = load()
        self._lifespan = self._app.router.lifespan_context(self._app)
        await self._lifespan.__aenter__()

    async def __call__(self, request: ForwardedRequest) -> AsyncGenerator[Messages, None]:
        """The application's answer to a request; see `answer`."""
        async for messages in answer(self._app, request):
            yield messages

    async def check_health(self) -> None:
        """Raises RuntimeError when the replica has to be replaced, which is when /health/live is not 200."""
        service: GenerationService = self._app.state.service
        if not service.engine.stats().healthy:
            raise RuntimeError("the engine's steps keep failing, or do not end: see the log of this replica")
