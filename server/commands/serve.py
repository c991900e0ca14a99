"""`routelm serve`: the HTTP server."""

from typing import Annotated, Any

import typer

from server.commands.backend import load_backend
from server.commands.failing import failing_in_one_line
from server.commands.options import read_settings


def _option(text: str, default: str) -> Any:
    """The default is told, not set: what is not given here may be in the environment."""
    return typer.Option(help=rf"{text} \[{default}]")


def serve(
    host: Annotated[str | None, _option("Address to listen on; 0.0.0.0 for all.", "127.0.0.1")] = None,
    port: Annotated[int | None, _option("Port; 0 takes a free one.", "8000")] = None,
    model: Annotated[str | None, _option("Checkpoint directory, hub id (org/name), or `bundled`.", "bundled")] = None,
    revision: Annotated[str | None, _option("Branch, tag or commit of a hub id.", "main")] = None,
    served_model_name: Annotated[str | None, _option("The model's name in the API.", "that of the model")] = None,
    max_model_len: Annotated[
        int | None, _option("Longest prompt plus answer, in tokens.", "what model and caches hold")
    ] = None,
    max_num_seqs: Annotated[int | None, _option("Most requests in one batch.", "64")] = None,
    max_num_batched_tokens: Annotated[int | None, _option("Most tokens in one step.", "1024")] = None,
    cache_bytes: Annotated[str | None, _option("Memory for caches, such as 1GiB.", "a share of what is free")] = None,
    max_queue: Annotated[int | None, _option("Most waiting requests; more are answered with 429.", "256")] = None,
    dtype: Annotated[str | None, _option("auto, bfloat16, float32 or float16.", "auto")] = None,
    experts_per_token: Annotated[
        int | None, _option("Experts each token goes to; the bundled model learnt 1 to 3.", "the model's")
    ] = None,
    quantize: Annotated[str | None, _option("auto (as the checkpoint is stored), none, int8 or int4.", "auto")] = None,
    check_weights: Annotated[
        bool | None, typer.Option("--check-weights", help="Look for NaN and infinite weights while loading.")
    ] = None,
    device: Annotated[str | None, _option("auto, cpu or cuda.", "auto")] = None,
    threads: Annotated[int | None, _option("Threads for the computation.", "one for a small model, else all")] = None,
    seed: Annotated[int | None, _option("Makes requests without a seed reproducible, in order.", "random")] = None,
    drain_grace: Annotated[float | None, _option("Seconds for running requests after SIGTERM.", "30")] = None,
    cors_origins: Annotated[str | None, _option("Origins of web pages that may call, comma-separated.", "none")] = None,
    max_body_bytes: Annotated[str | None, _option("Largest request body.", "2MiB")] = None,
    log_level: Annotated[str | None, _option("debug, info, warning or error.", "info")] = None,
    log_requests: Annotated[
        bool | None, typer.Option("--log-requests", help="Log a line per request, without its text.")
    ] = None,
) -> None:
    """Serve a model over HTTP: OpenAI's API, /v1/translate, /v1/summarize, /v1/generate, /v1/analyze, /metrics.

    Every option can also be set as an environment variable: ROUTELM_PORT, ROUTELM_MODEL and so on. The API key is
    one only: ROUTELM_API_KEY. Stop the server with Ctrl-C or SIGTERM: running requests finish first.
    """
    settings = read_settings(**locals())

    from server.middleware.request_log import configure_logging
    from server.startup.uvicorn_server import check_address, run

    configure_logging(settings.log_level)
    with failing_in_one_line():
        check_address(settings.host, settings.port)
    run(settings, load_backend(settings))
