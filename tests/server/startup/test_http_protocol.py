"""One HTTP/1.1 connection, spoken to byte by byte: upgrades, HTTP/1.0, long headers, slow clients."""

import json
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlsplit

import h11
import pytest

from server.startup import http_protocol
from server.startup.connection_limit import OTHER_FILES, PROBE_CONNECTIONS, ConnectionLimit
from server.startup.http_protocol import MAX_HEAD_BYTES, BoundedH11Protocol, ServerConnection
from tests.server.applications import Server, listening, make_server

BODY = json.dumps({"prompt": "hi", "max_tokens": 5}).encode()
STREAM = json.dumps({"prompt": "hi", "max_tokens": 5, "stream": True}).encode()


def post(body: bytes, *headers: str, version: str = "1.1", length: int | None = None) -> bytes:
    lines = [f"POST /v1/generate HTTP/{version}", "Host: here", "Content-Type: application/json", *headers]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@contextmanager
def connection(url: str) -> Iterator[socket.socket]:
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as opened:
        yield opened


def read_to_end(opened: socket.socket) -> bytes:
    """Everything until the server closes; what came before a reset counts too."""
    found = b""
    try:
        while piece := opened.recv(2**16):
            found += piece
    except ConnectionResetError:
        pass
    return found


def answer(url: str, request: bytes) -> bytes:
    with connection(url) as opened:
        opened.sendall(request)
        return read_to_end(opened)


def test_a_body_is_read_whatever_upgrade_is_offered(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Java's HTTP client offers HTTP/2 with every first request."""
    offer = ("Connection: Upgrade, HTTP2-Settings, close", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk")
    with caplog.at_level(logging.WARNING):
        found = answer(url, post(BODY, *offer))
    assert found.startswith(b"HTTP/1.1 200 ")
    assert b'"prompt_tokens":3' in found
    assert caplog.messages == []


@pytest.mark.parametrize(("version", "chunked"), [("1.0", False), ("1.1", True)])
def test_a_stream_to_http_1_0_has_no_chunks(url: str, version: str, chunked: bool) -> None:
    found = answer(url, post(STREAM, "Connection: close", version=version))
    head, _, body = found.partition(b"\r\n\r\n")
    assert (b"transfer-encoding: chunked" in head.lower()) == chunked
    assert body.startswith(b"data: ") != chunked
    assert b"data: [DONE]" in body


def test_long_headers_are_read(url: str) -> None:
    """Negative control of the two below."""
    found = answer(url, post(BODY, "Connection: close", "X-Long: " + "a" * (MAX_HEAD_BYTES // 2)))
    assert found.startswith(b"HTTP/1.1 200 ")


def test_headers_beyond_the_limit_are_refused_before_they_end(url: str) -> None:
    found = answer(url, b"GET /v1/models HTTP/1.1\r\nX-Long: " + b"a" * (MAX_HEAD_BYTES + 2**14))
    head, _, body = found.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert b"connection: close" in head.lower()
    assert json.loads(body)["error"]["code"] == "headers_too_large"


def flood(opened: socket.socket, data: bytes, times: int) -> None:
    """Send without reading."""
    for _ in range(times):
        opened.sendall(data)


def test_headers_without_an_end_are_cut_off(url: str) -> None:
    with connection(url) as opened:
        opened.sendall(b"GET /v1/models HTTP/1.1\r\nHost: here\r\n")
        with pytest.raises(ConnectionError):
            flood(opened, b"x-header: y\r\n" * 2**14, times=64)


def test_what_is_no_http_gets_the_usual_error(url: str) -> None:
    found = answer(url, b"what is this\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert json.loads(found.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_http"


def drip(opened: socket.socket, data: bytes, seconds: float) -> bool:
    """Send a byte now and then; whether the connection lived that long."""
    deadline = time.monotonic() + seconds
    opened.settimeout(0.02)
    for position in range(len(data)):
        if time.monotonic() > deadline:
            break
        try:
            opened.sendall(data[position : position + 1])
            if opened.recv(1) == b"":
                return False
        except TimeoutError:
            continue
        except OSError:
            return False
    return True


def test_headers_have_a_deadline(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.2)
    with connection(url) as silent, connection(url) as slow:
        assert not drip(slow, b"GET /health/live HTTP/1.1\r\nX-Slow: " + b"a" * 1000, seconds=5)
        assert read_to_end(silent) == b""


def test_a_body_may_be_slow_but_not_stop(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "BODY_SECONDS", 0.4)
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.4)
    head, _, _ = post(b"", length=1000).partition(b"\r\n\r\n")
    with connection(url) as opened:
        opened.sendall(head + b"\r\n\r\n")
        assert drip(opened, b" " * 1000, seconds=1)
        opened.settimeout(30)
        assert read_to_end(opened) == b""


def test_the_body_of_a_request_that_came_early_has_a_deadline(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "BODY_SECONDS", 0.2)
    with connection(url) as opened:
        opened.sendall(post(BODY) + post(b"", length=1000))
        opened.settimeout(5)
        assert read_to_end(opened).count(b"HTTP/1.1 200 ") == 1


def test_a_request_being_answered_has_no_deadline(server: Server, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.1)
    monkeypatch.setattr(http_protocol, "BODY_SECONDS", 0.1)
    server.engine.step_seconds = 0.2
    server.answer_with("abcd")
    assert answer(url, post(BODY, "Connection: close")).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_does_not_read_is_dropped(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "WRITE_SECONDS", 0.3)
    with connection(url) as opened, pytest.raises(ConnectionError):
        flood(opened, b"GET /openapi.json HTTP/1.1\r\nHost: here\r\n\r\n" * 8, times=10_000)


def test_a_client_that_reads_slowly_is_not(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long its response takes. Small buffers in the kernel, because they are delivered after an abort, too."""
    made = BoundedH11Protocol.connection_made

    def with_small_buffer(protocol: BoundedH11Protocol, transport: Any) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**14)
        made(protocol, transport)

    monkeypatch.setattr(BoundedH11Protocol, "connection_made", with_small_buffer)
    monkeypatch.setattr(http_protocol, "WRITE_SECONDS", 0.3)
    address = urlsplit(url)
    with socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
        opened.settimeout(30)
        opened.connect((address.hostname, address.port))
        opened.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: here\r\n\r\n" * 8)
        for _ in range(60):
            assert opened.recv(2**12)
            time.sleep(0.02)


def test_a_connection_takes_several_requests(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.3)
    with connection(url) as opened:
        for _ in range(4):
            opened.sendall(post(BODY))
            response = HTTPResponse(opened)
            response.begin()
            assert (response.status, bool(response.read())) == (200, True)
            time.sleep(0.15)


# The number of connections

PROBE = b"GET /health/live HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"


@contextmanager
def full_server(server: Server | None = None) -> Iterator[str]:
    """The URL of a server with as many idle connections as it may have."""
    server = server or make_server(max_connections=2)
    with listening(server) as url, connection(url) as first, connection(url) as second:
        for opened in (first, second):
            opened.sendall(PROBE.replace(b"close", b"keep-alive"))
            assert opened.recv(2**16).startswith(b"HTTP/1.1 200 ")
        yield url


def test_beyond_the_limit_of_connections_requests_get_503_and_probes_an_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = make_server(max_connections=2)
    with full_server(server) as url, caplog.at_level(logging.WARNING):
        head, _, body = answer(url, post(BODY)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in head.lower()
        assert json.loads(body)["error"]["code"] == "too_many_connections"
        assert answer(url, PROBE).startswith(b"HTTP/1.1 200 ")
    assert [line for line in caplog.messages if "2 connections are open" in line] == [caplog.messages[-1]]
    counted = server.metrics.registry.get_sample_value
    assert counted("routelm:http_requests_total", {"code": "503"}) == 1
    assert counted("routelm:requests_rejected_total", {"reason": "too_many_connections"}) == 1


def test_a_flood_of_idle_connections_does_not_keep_probes_out() -> None:
    """The oldest connections beyond the limit are closed for the newest."""
    with full_server() as url, ExitStack() as stack:
        idle = [stack.enter_context(connection(url)) for _ in range(PROBE_CONNECTIONS + 5)]
        assert read_to_end(idle[0]).startswith(b"HTTP/1.1 503 ")
        assert answer(url, PROBE).startswith(b"HTTP/1.1 200 ")


def test_a_connection_that_closes_makes_room() -> None:
    with listening(make_server(max_connections=1)) as url:
        for _ in range(3):
            assert answer(url, post(BODY, "Connection: close")).startswith(b"HTTP/1.1 200 ")


def test_the_limit_of_open_files_lowers_that_of_connections(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda kind: (256, 256))
    room = 256 - OTHER_FILES - PROBE_CONNECTIONS
    for asked, most in ((10, 10), (800, room)):
        assert caplog.messages == []
        limit = ConnectionLimit(asked)
        limit.warn_if_lowered()
        assert limit.most == most
    assert f"at most {room} connections, not 800" in caplog.text


def test_a_server_in_the_background_of_a_command_does_not_speak_of_connections(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda kind: (256, 256))
    with caplog.at_level(logging.WARNING), listening(make_server()) as url:
        assert answer(url, PROBE).startswith(b"HTTP/1.1 200 ")
    assert caplog.messages == []


PIECES = [h11.Data(data=b"data: a"), h11.Data(data=b""), h11.Data(data=b"b" * 300), h11.EndOfMessage()]


def sent(
    connection: h11.Connection, request: list[h11.Event], head: list[tuple[str, str]], events: list[h11.Event]
) -> list[tuple[bytes | str | None, Any, Any]]:
    """What h11 gives for each event of a response, and the states after it; the text of its error where it has one."""
    client, found = h11.Connection(h11.CLIENT), []
    connection.receive_data(b"".join(client.send(event) or b"" for event in request))
    while connection.next_event() not in (h11.PAUSED, h11.NEED_DATA):
        pass
    for event in (h11.Response(status_code=200, headers=head), *events):
        try:
            data: bytes | str | None = connection.send(event)
        except h11.LocalProtocolError as error:
            data = str(error)
        found.append((data, connection.our_state, connection.their_state))
    return found


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
@pytest.mark.parametrize("head", [[], [("Content-Length", "307")], [("Connection", "close")]])
@pytest.mark.parametrize("events", [PIECES, PIECES[:1], PIECES[::-1], [PIECES[2]] * 3, [*PIECES, PIECES[0]]])
def test_pieces_of_a_body_are_sent_as_h11_sends_them(
    method: str, head: list[tuple[str, str]], events: list[h11.Event]
) -> None:
    """Also those that are too long or come too late."""
    request = [h11.Request(method=method, target="/", headers=[("Host", "here")]), h11.EndOfMessage()]
    expected = sent(h11.Connection(h11.SERVER), request, head, events)
    assert sent(ServerConnection(), request, head, events) == expected
