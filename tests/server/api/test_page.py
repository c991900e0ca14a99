"""The page that browsers get at /: its files, their headers, and that it loads and runs nothing else."""

import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from server.api.page import CONTENT_SECURITY_POLICY, FILES
from tests.server.applications import MODEL, client_of, make_server

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
FOLDER = Path(__file__).parents[3] / "server" / "page"
MOST_BYTES = 64 * 2**10  # all files together, as they are sent
MODULES = sorted(name for name in FILES if name.endswith(".js"))
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def text_of(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def test_browsers_get_the_page_and_others_a_short_text(client: TestClient) -> None:
    page, text = client.get("/", headers=BROWSER), client.get("/")
    assert page.text == text_of("index.html")
    assert "curl" in text.text
    assert MODEL in text.text
    assert {response.headers["vary"] for response in (page, text)} == {"Accept, Origin"}


@pytest.mark.parametrize("accept", ["*/*", "application/json", "", "text/plain"])
def test_who_does_not_accept_html_by_name_is_no_browser(client: TestClient, accept: str) -> None:
    assert "curl" in client.get("/", headers={"Accept": accept}).text


def test_only_the_root_depends_on_who_asks(client: TestClient) -> None:
    assert client.get("/v1/models", headers=BROWSER).json()["data"][0]["id"] == MODEL
    assert client.post("/", headers=BROWSER).status_code == 405


@pytest.mark.parametrize("name", sorted(FILES))
def test_files(client: TestClient, name: str) -> None:
    response = client.get(f"/page/{name}")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith(TYPES[Path(name).suffix])
    assert response.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.content == (FOLDER / name).read_bytes()
    assert client.head(f"/page/{name}").headers["content-length"] == str(len(response.content))


def test_a_browser_keeps_files_that_have_not_changed(client: TestClient) -> None:
    first = client.get("/", headers=BROWSER)
    assert first.headers["cache-control"] == "no-cache"
    etag = first.headers["etag"]
    for tags in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = client.get("/", headers={**BROWSER, "If-None-Match": tags})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert client.get("/", headers={**BROWSER, "If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    "name", ["nothing.js", "..%2fsettings.py", "%2e%2e%2fsettings.py", "__init__.py", "index.html/"]
)
def test_there_are_no_other_files(client: TestClient, name: str) -> None:
    response = client.get(f"/page/{name}")
    assert response.status_code == 404 or response.text == text_of("index.html")


def test_the_files_need_no_key_and_tell_nothing_of_the_model() -> None:
    server = make_server(api_key="secret")
    with client_of(server) as client:
        assert client.get("/", headers=BROWSER).status_code == 200
        assert client.get("/").status_code == 401
        for name in FILES:
            assert client.get(f"/page/{name}").status_code == 200
            assert MODEL not in client.get(f"/page/{name}").text
        assert client.get("/page/nothing.js").status_code == 401


def test_the_policy_allows_nothing_inline_and_nothing_from_elsewhere() -> None:
    rules = dict(rule.split(" ", 1) for rule in CONTENT_SECURITY_POLICY.split("; "))
    assert rules.pop("default-src") == "'none'"
    assert rules.pop("require-trusted-types-for") == "'script'"
    assert set(rules.values()) == {"'self'", "'none'"}


def test_the_page_has_nothing_inline() -> None:
    page = text_of("index.html")
    assert re.findall(r"<script[^>]*>", page) == ['<script type="module" src="page/app.js">']
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page)


@pytest.mark.parametrize("name", sorted(FILES))
def test_nothing_is_loaded_from_elsewhere(name: str) -> None:
    text = text_of(name).replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//\w+\.\w+/|@import|\burl\(", text)


@pytest.mark.parametrize("name", MODULES)
def test_text_never_becomes_html(name: str) -> None:
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|new Function", text_of(name)
    )


def test_what_modules_import_is_served() -> None:
    imported = {name for module in MODULES for name in re.findall(r'from "\./([\w.]+)"', text_of(module))}
    assert imported | {"app.js"} == set(MODULES)


def test_the_page_is_small() -> None:
    assert sum(len((FOLDER / name).read_bytes()) for name in FILES) < MOST_BYTES
