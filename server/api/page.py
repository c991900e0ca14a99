"""GET /page: the static files of the page that browsers get at /. They need no API key: the page asks for it."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).parents[1] / "page"
_INDEX = "index.html"
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

FILES = frozenset(file.name for file in _FOLDER.iterdir() if file.suffix in _MEDIA_TYPES)
PATHS = frozenset({"/page", *(f"/page/{name}" for name in FILES)})

# Scripts, styles and requests of this origin only, nothing inline, and no HTML made from strings.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # browsers keep the files and ask whether they have changed
}


@dataclass(frozen=True, slots=True)
class StaticFile:
    content: bytes
    media_type: str

    def response(self, request: Request) -> Response:
        """The file, or 304 if the browser has it."""
        etag = f'"{sha256(self.content).hexdigest()[:32]}"'
        headers = {**_HEADERS, "ETag": etag, "Vary": "Accept"}
        if _matches(request.headers.get("if-none-match", ""), etag):
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers=headers, media_type=self.media_type)


# Functions that are not async run in a thread: they read from the disk.


@router.head("/page")
@router.get("/page")
def page(request: Request) -> Response:
    return _read(_INDEX).response(request)


@router.head("/page/{name}")
@router.get("/page/{name}")
def page_file(name: str, request: Request) -> Response:
    if name not in FILES:
        raise HTTPException(404)
    return _read(name).response(request)


def _read(name: str) -> StaticFile:
    path = _FOLDER / name
    return StaticFile(path.read_bytes(), _MEDIA_TYPES[path.suffix])


def _matches(if_none_match: str, etag: str) -> bool:
    """Whether the header names the entity tag. A proxy that compresses makes it a weak one."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or "*" in tags
