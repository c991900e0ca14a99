"""HTTP as clients speak it that are not Python: Java's HTTP client, old proxies, browsers."""

import http.client
import json
import socket
from urllib.parse import urlsplit

import pytest

CHAT = json.dumps({"messages": [{"role": "user", "content": "How are you?"}], "max_tokens": 8, "temperature": 0})
STREAM = json.dumps({**json.loads(CHAT), "stream": True})
HEADERS = (
    "authorization,content-type,x-stainless-arch,x-stainless-lang,x-stainless-os,x-stainless-package-version,"
    "x-stainless-retry-count,x-stainless-runtime,x-stainless-runtime-version,x-stainless-timeout"
)


def exchange(url: str, start: str, headers: dict[str, str], body: str = "") -> tuple[str, bytes]:
    """The head and the body of the answer, with the bytes of the body as the server sent them."""
    address = urlsplit(url)
    fields = {"Host": address.netloc, "Content-Length": str(len(body.encode())), **headers}
    head = "\r\n".join([start, *(f"{name}: {value}" for name, value in fields.items())])
    with socket.create_connection((address.hostname, address.port), timeout=60) as opened:
        opened.sendall(f"{head}\r\n\r\n{body}".encode())
        found = b""
        while piece := opened.recv(2**16):
            found += piece
    head_bytes, _, rest = found.partition(b"\r\n\r\n")
    return head_bytes.decode().lower(), rest


def test_h2c_is_offered_with_the_body(url: str) -> None:
    """Java's HttpClient as it comes, in Spring AI and LangChain4j."""
    offer = {
        "Connection": "Upgrade, HTTP2-Settings, close",
        "Upgrade": "h2c",
        "HTTP2-Settings": "AAEAAEAAAAIAAAABAAMAAABk",
    }
    head, body = exchange(
        url, "POST /v1/chat/completions HTTP/1.1", {**offer, "Content-Type": "application/json"}, CHAT
    )
    assert head.startswith("http/1.1 200")
    assert b'"chat.completion"' in body


def test_http_1_0_streams_without_chunks(url: str) -> None:
    head, body = exchange(url, "POST /v1/chat/completions HTTP/1.0", {"Content-Type": "application/json"}, STREAM)
    assert " 200 " in head.splitlines()[0]
    assert "transfer-encoding" not in head
    assert body.endswith(b"data: [DONE]\n\n")
    lines = [line for line in body.decode().splitlines() if line and not line.startswith(":")]
    assert all(line.startswith("data: ") for line in lines)


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1:5173"])
def test_preflight_of_a_page_of_this_machine(url: str, origin: str) -> None:
    asks = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": HEADERS}
    head, _ = exchange(url, "OPTIONS /v1/chat/completions HTTP/1.1", {**asks, "Connection": "close"})
    assert head.startswith("http/1.1 200")
    assert f"access-control-allow-origin: {origin}" in head
    [allowed] = [line for line in head.splitlines() if line.startswith("access-control-allow-headers")]
    assert set(HEADERS.split(",")) <= set(allowed.partition(": ")[2].replace(" ", "").split(","))


def test_preflight_of_a_foreign_page_is_refused(url: str) -> None:
    asks = {"Origin": "https://example.com", "Access-Control-Request-Method": "POST", "Connection": "close"}
    head, _ = exchange(url, "OPTIONS /v1/chat/completions HTTP/1.1", asks)
    assert "access-control-allow-origin" not in head


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/", "/models"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_base_urls_of_every_form(url: str, method: str, path: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request(method, path)
    assert connection.getresponse().status == 200
    connection.close()
