"""OpenAI's JavaScript client, in Node and in Chromium."""

import functools
import http.server
import json
import os
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "javascript"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SECONDS = 120


@pytest.fixture(scope="module", autouse=True)
def _packages() -> None:
    if not (HERE / "node_modules" / "openai").exists():
        pytest.skip("the npm package openai is not installed: npm install in tests/clients/javascript")


class Pages(http.server.SimpleHTTPRequestHandler):
    """Serves the folder, and takes what a page posts."""

    def __init__(self, posted: queue.Queue[str], *arguments: object, **options: object) -> None:
        self.posted = posted
        super().__init__(*arguments, directory=str(HERE), **options)  # type: ignore[arg-type]

    def do_POST(self) -> None:
        self.posted.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(204)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def pages() -> Iterator[tuple[str, queue.Queue[str]]]:
    """Another origin than the API's, as an application under development has it, and what was posted to it."""
    posted: queue.Queue[str] = queue.Queue()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Pages, posted)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}", posted
        server.shutdown()


def check(text: str) -> None:
    found = json.loads(text)
    assert found["whole"]
    assert found["streamed"] == found["whole"]
    assert found["helper"] == found["whole"]
    assert found["refused"] == "404 NotFoundError"


@pytest.mark.skipif(shutil.which("node") is None, reason="no node on the path")
def test_node(base_url: str) -> None:
    command = ["node", "node.mjs", base_url]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    check(done.stdout)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path")
def test_chromium(base_url: str, pages: tuple[str, queue.Queue[str]], tmp_path: Path) -> None:
    """The package's own modules in a browser: a preflight with all of its headers, then streams by `fetch`."""
    assert CHROMIUM
    origin, posted = pages
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-proxy-server", f"--user-data-dir={tmp_path}"]
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(
            [CHROMIUM, *options, f"{origin}/page.html?{base_url}"],
            stdout=log,
            stderr=log,
            env={**os.environ, "HOME": str(tmp_path)},
        ) as browser,
    ):
        try:
            check(posted.get(timeout=SECONDS))
        finally:
            browser.terminate()
