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
