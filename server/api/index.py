"""GET / for clients that are not browsers: what this is and how to ask. Browsers get api/page.py."""

from html import escape

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

from server.api.dependencies import Service

router = APIRouter(include_in_schema=False)

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>RouteLM</title><style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: 0.8rem; border: 1px solid #8884; border-radius: 4px; }
:root { color-scheme: light dark; }
</style><h1>RouteLM</h1>
<p>This server runs the language model <b>%(model)s</b> and answers HTTP requests, most of them as OpenAI's API does.
A context holds %(max_model_len)d tokens, prompt and answer together.</p>
<pre>curl %(url)s/v1/chat/completions -H 'Content-Type: application/json' \\
  -d '{"messages": [{"role": "user", "content": "Hello!"}]}'</pre>
<p>Programs that know OpenAI's API take <code>%(url)s/v1</code> as their base URL.</p>
<p><a href="docs">All endpoints and their fields</a> · <a href="openapi.json">openapi.json</a> ·
<a href="v1/models">models</a> · <a href="health/ready">health</a> · <a href="metrics">metrics</a></p></html>
"""


@router.head("/")
@router.get("/")
async def index(request: Request, service: Service) -> HTMLResponse:
    url = f"{request.url.scheme}://{request.url.netloc}"
    return HTMLResponse(
        _PAGE % {"model": escape(service.model_id), "max_model_len": service.max_model_len, "url": escape(url)},
        headers={"Vary": "Accept"},
    )
