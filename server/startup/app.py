"""The application: routes, middleware and error answers around one backend. No globals."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from server.api import ROUTERS
from server.api.exception_handlers import add_exception_handlers
from server.api.openapi_errors import router_options
from server.api.path_aliases import PathAliases
from server.generation.service import GenerationService
from server.metrics import Metrics
from server.middleware.auth import HEALTH_PATHS, ApiKeyAuth
from server.middleware.body_limit import BodyLimit
from server.middleware.drain import Drain, DrainGate
from server.middleware.request_log import RequestLog
from server.settings import Settings
from server.version import package_version

DESCRIPTION = "Text generation with a router-based language model: OpenAI's API, and endpoints for common tasks."


@dataclass(frozen=True, slots=True)
class Backend:
    """What the endpoints talk to."""

    service: GenerationService
    metrics: Metrics


def create_app(settings: Settings, open_backend: Callable[[], Backend]) -> FastAPI:
    """Build the application. `open_backend` is called on the event loop at startup, where an engine can start.

    The lifespan ends by draining: running requests get `settings.drain_grace` seconds. `app.state.drain` is what a
    signal handler begins; /health/ready answers 503 from that moment.
    """
    drain = Drain(settings.drain_grace)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        backend = open_backend()
        app.state.service, app.state.metrics = backend.service, backend.metrics
        drain.close_engine = backend.service.engine.close
        yield
        await drain.finish()

    app = FastAPI(
        title="RouteLM",
        version=package_version("routelm"),
        description=DESCRIPTION,
        lifespan=lifespan,
        middleware=_middleware(settings, drain),
        docs_url=None,  # FastAPI's page loads its scripts from the network; api/docs.py needs none
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"logs": False},  # they would carry bodies; traces and metrics stay as the environment configures
    )
    app.state.drain = drain
    app.state.strict = settings.strict
    for router in ROUTERS:
        app.include_router(router, **router_options(router))
    add_exception_handlers(app)
    return app


def _middleware(settings: Settings, drain: Drain) -> list[Middleware]:
    """Outermost first. CORS stands before the key: a browser asks for permission without one."""
    layers = [Middleware(RequestLog, settings.log_requests)]
    if settings.cors_origins:
        layers.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type"],
                expose_headers=["Retry-After", "X-Request-Id"],
            )
        )
    if settings.api_key is not None:
        public = HEALTH_PATHS | ({"/metrics"} if settings.metrics_public else set())
        layers.append(Middleware(ApiKeyAuth, settings.api_key.get_secret_value(), public))
    layers.append(Middleware(DrainGate, drain))
    layers.append(Middleware(BodyLimit, settings.max_body_bytes))
    layers.append(Middleware(PathAliases, ROUTERS))
    return layers
