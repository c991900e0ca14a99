"""The Ray Serve application: `serve run server.ray_serve.app:app`, or with a file such as deploy/ray/serve.yaml."""

from collections.abc import AsyncGenerator

from ray import serve
from ray.exceptions import RayError
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from server.errors import OverloadedError, UnavailableError
from server.middleware.body_limit import BodyLimit
from server.ray_serve.forwarding import ForwardedRequest, Messages
from server.ray_serve.gateway import Gateway
from server.ray_serve.replica import EngineReplica
from server.settings import Settings

ROUTER = "server.ray_serve.router.PrefixAffinityRouter"


class EngineHandle:
    """Sends requests to the replica that the request router chooses."""

    def __init__(self, engine: DeploymentHandle) -> None:
        self._replicas = engine.options(stream=True)

    async def __call__(self, request: ForwardedRequest) -> AsyncGenerator[Messages, None]:
        """Raises UnavailableError if the replica dies, OverloadedError if too many requests wait for one."""
        response = self._replicas.remote(request)
        try:
            async for messages in response:
                yield messages
        except BackPressureError:
            raise OverloadedError(
                "Too many requests wait for a replica: send it again later.", retry_after=10
            ) from None
        except RayError as error:
            raise UnavailableError(
                "The replica that had this request has stopped: send it again.", retry_after=1
            ) from error
        finally:
            response.cancel()  # without effect when it is complete


Engine = serve.deployment(
    EngineReplica,
    name="Engine",
    # More than a replica's batch and queue hold: it answers 429 with an honest Retry-After to what is too much, while
    # Serve would let requests wait.
    max_ongoing_requests=1024,
    max_queued_requests=1024,
    graceful_shutdown_timeout_s=120,  # a drain: Serve sends nothing more and waits for what runs
    request_router_config=RequestRouterConfig(request_router_class=ROUTER),
)


@serve.deployment(name="Gateway", max_ongoing_requests=2048, graceful_shutdown_timeout_s=120)
@serve.ingress()
class GatewayReplica:
    """Takes the HTTP requests of Serve's proxies."""

    def __init__(self, engine: DeploymentHandle) -> None:
        self._engine = engine

    def __serve_build_asgi_app__(self) -> Starlette:
        max_body_bytes = Settings().max_body_bytes
        return Starlette(
            routes=[Route("/{path:path}", Gateway(EngineHandle(self._engine), max_body_bytes))],
            middleware=[Middleware(BodyLimit, max_body_bytes)],
        )


app = GatewayReplica.bind(Engine.bind())  # type: ignore[attr-defined]  # mypy does not know class decorators
