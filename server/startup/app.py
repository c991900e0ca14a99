"""The FastAPI application: routes, middleware and exception handlers around one backend."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from server.api import ROUTERS, api_router, page
from server.api.dependencies import WARNINGS_HEADER
from server.api.exception_handlers import add_exception_handlers
from server.api.in_process_executor import InProcessExecutor
from server.batches.directory import BatchDirectory
from server.batches.metrics import BatchCollector
from server.batches.runner import BatchRunner
from server.chat.service import ChatService
from server.generation.service import GenerationService
from server.metrics import Metrics
from server.middleware.api_keys import ApiKeys
from server.middleware.auth import HEALTH_PATHS, ApiKeyAuth
from server.middleware.body_limit import BodyLimit
from server.middleware.browser_page import BrowserPage
from server.middleware.drain import Drain, DrainGate
from server.middleware.path_aliases import PathAliases
from server.middleware.request_log import RequestLog
from server.settings import Settings
from server.version import package_version

DESCRIPTION = (
    "Text generation with a router-based language model: the APIs of OpenAI, Anthropic and Ollama, and common tasks."
)

LOCALHOST = "localhost"  # in `cors_origins`: the pages that a web server on the user's machine serves
LOCALHOST_ORIGINS = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"

UPLOADS = "/v1/files"
FORM_BYTES = 2**16  # of an upload, beside the file


@dataclass(frozen=True, slots=True)
class Backend:
    """What the endpoints use."""

    service: GenerationService
    metrics: Metrics


def create_app(
    settings: Settings, open_backend: Callable[[], Backend], batch_directory: BatchDirectory | None = None
) -> FastAPI:
    """Build the application. `open_backend` is called on the event loop at startup, where an engine can start.
    Without a `batch_directory` there are no files and no batches.

    When the lifespan ends, running requests get `settings.drain_grace` seconds to finish. A signal handler may begin
    that drain earlier, through `app.state.drain`; /health/ready answers 503 from then on. Raises ValueError for a keys
    file that cannot be used.
    """
    drain, api_keys = Drain(settings.drain_grace), ApiKeys.from_settings(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        backend = open_backend()
        app.state.service, app.state.metrics = backend.service, backend.metrics
        app.state.chat = ChatService(backend.service)
        drain.close_engine = backend.service.engine.close
        if batch_directory is not None:
            batches = BatchRunner(batch_directory, InProcessExecutor(app), settings.batch_max_num_seqs)
            app.state.batches, drain.stop_background = batches, batches.close
            backend.metrics.registry.register(BatchCollector(batches))
            batches.start()
        watching = asyncio.create_task(api_keys.watch())
        yield
        await drain.finish()
        watching.cancel()

    app = FastAPI(
        title="RouteLM",
        version=package_version("routelm"),
        description=DESCRIPTION,
        lifespan=lifespan,
        middleware=_middleware(settings, drain, api_keys),
        openapi_url=None,  # api/docs.py makes it in a thread
        docs_url=None,  # FastAPI's page loads scripts from the network; that of api/docs.py does not
        redoc_url=None,
        redirect_slashes=False,
        telemetry=_telemetry(),
    )
    app.state.drain = drain
    app.state.api_keys = api_keys
    app.state.running_requests = {}  # the Admission of each, by request id
    app.state.settings = settings
    app.state.batches = None
    app.router.routes.extend(api_router.routes)  # not include_router, which makes its own: see api_router
    add_exception_handlers(app)
    return app


def _telemetry() -> TelemetryConfig:
    """Traces are sent to where OTEL_EXPORTER_OTLP_ENDPOINT says, which needs the extra `otel`.

    Not log records, which would contain bodies, and not metrics, which /metrics has. Probes and scrapes have no traces.
    """
    return {
        "logs": False,
        "metrics": False,
        "operation_spans": False,
        "auto_configure": True,
        "exclude": lambda scope: scope["type"] == "http" and scope["path"] in HEALTH_PATHS | {"/metrics"},
    }


def _middleware(settings: Settings, drain: Drain, api_keys: ApiKeys) -> list[Middleware]:
    """Outermost first. CORS comes before the key, because a browser's preflight request carries none."""
    layers = [
        Middleware(RequestLog, settings.log_requests, settings.log_slow_requests),
        _cors(settings.cors_origins),
        Middleware(BrowserPage),
    ]
    if api_keys.requires_key:
        public = HEALTH_PATHS | page.PATHS | ({"/metrics"} if settings.metrics_public else set())
        layers.append(Middleware(ApiKeyAuth, api_keys, public))
    layers.append(Middleware(DrainGate, drain))
    layers.append(Middleware(PathAliases, ROUTERS))
    of_uploads = settings.batch_file_bytes + FORM_BYTES if settings.batch_dir else settings.max_body_bytes
    layers.append(Middleware(BodyLimit, settings.max_body_bytes, {UPLOADS: of_uploads}))
    return layers


def _cors(origins: Sequence[str]) -> Middleware:
    """Web pages of these origins may send any header: OpenAI's JavaScript client adds a dozen of its own."""
    return Middleware(
        CORSMiddleware,
        allow_origins=[origin for origin in origins if origin not in (LOCALHOST, "none")],
        allow_origin_regex=LOCALHOST_ORIGINS if LOCALHOST in origins else None,
        allow_methods=["GET", "HEAD", "POST", "DELETE"],
        allow_headers=["*"],
        expose_headers=["Retry-After", "X-Request-Id", WARNINGS_HEADER],
    )
