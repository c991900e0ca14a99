"""The HTTP interface: one file per endpoint. A new endpoint is a file and a line in ROUTERS."""

from fastapi import APIRouter

from server.api import (
    analyze,
    batches,
    chat,
    completions,
    decisions,
    docs,
    embeddings,
    files,
    generate,
    health,
    index,
    metrics,
    models,
    page,
    requests,
    routing,
    server_info,
    summarize,
    tokenize,
    translate,
    what_if,
)
from server.api.anthropic import messages as anthropic_messages
from server.api.ollama import chat as ollama_chat
from server.api.ollama import embed as ollama_embed
from server.api.ollama import generate as ollama_generate
from server.api.ollama import models as ollama_models
from server.api.openapi_errors import router_options
from server.api.responses import create as responses

ROUTERS: tuple[APIRouter, ...] = (
    chat.router,
    completions.router,
    embeddings.router,
    decisions.router,
    translate.router,
    summarize.router,
    generate.router,
    analyze.router,
    models.router,
    files.router,
    batches.router,
    routing.router,
    what_if.router,
    responses.router,
    anthropic_messages.router,
    ollama_chat.router,
    ollama_generate.router,
    ollama_embed.router,
    ollama_models.router,
    tokenize.router,
    server_info.router,
    health.router,
    metrics.router,
    requests.router,
    docs.router,
    index.router,
    page.router,
)

# All endpoints, for every application of the process: FastAPI takes 0.1 s to analyse them, at their first requests.
api_router = APIRouter()
for _router in ROUTERS:
    api_router.include_router(_router, **router_options(_router))
