"""The page at /, used by Playwright in headless Chromium: each tab, a stream that is stopped, a token's path, a key."""

import ast
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from live_server import CONTEXT, ROOT, get, running_server
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
IMAGES = ROOT / "docs" / "images"
KEY = "sésame"
MILLISECONDS = 20_000
PHONE = {"width": 390, "height": 844}
SERIOUS = {"serious", "critical"}
expect.set_options(timeout=MILLISECONDS)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path")

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--no-proxy-server"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, url: str) -> Iterator[Open]:
    """Opens the page in a context of its own. At the end nothing was loaded from elsewhere and nothing had failed."""
    contexts: list[BrowserContext] = []
    problems: list[str] = []

    def open_page(
        address: str = url, *, routes: dict[str, Callable[[Route], None]] | None = None, **options: object
    ) -> Page:
        context = browser.new_context(**options)  # type: ignore[arg-type]
        context.set_default_timeout(MILLISECONDS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: _collect(problems, message.type, message.text))
        page.on("request", lambda request: _elsewhere(problems, request.url, address))
        for pattern, answer in (routes or {}).items():
            page.route(pattern, answer)
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems


def _collect(problems: list[str], kind: str, text: str) -> None:
    """Browsers report every answer above 399, some of which the tests ask for."""
    if kind in ("error", "warning") and "Failed to load resource" not in text:
        problems.append(text)


def _elsewhere(problems: list[str], requested: str, address: str) -> None:
    if not requested.startswith(address):
        problems.append(f"loaded {requested}")


def answer_of(page: Page, task: str) -> Locator:
    """The newest answer of a tab, when it is complete."""
    answers = page.locator(f"#{task} article")
    newest = answers.last if task == "chat" else answers.first
    newest.and_(page.locator(":not([aria-busy])")).wait_for()
    return newest


def ask(page: Page, text: str) -> Locator:
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Send").click()
    return answer_of(page, "chat")


def run_task(page: Page, task: str, button: str) -> Locator:
    page.get_by_role("tab", name=task).click()
    page.get_by_role("button", name=button, exact=True).click()
    return answer_of(page, task.lower())


def test_chat(open_page: Open) -> None:
    page = open_page()
    expect(page.locator("#model")).to_contain_text("routelm")
    first = ask(page, "How are you?")
    assert len(first.locator(".text").inner_text()) > 3
    assert re.search(r"\d+ tokens in", first.locator(".meta").inner_text())
    ask(page, "Hello!")
    expect(page.locator("#chat article")).to_have_count(2)
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator("#chat article")).to_have_count(0)


def test_the_conversation_goes_on(open_page: Open) -> None:
    page = open_page()
    first = ask(page, "How are you?").locator(".text").inner_text()
    with page.expect_request("**/v1/chat/completions") as request:
        ask(page, "Hello!")
    assert [message["content"] for message in request.value.post_data_json["messages"]] == [
        "How are you?",
        first,
        "Hello!",
    ]


def test_a_new_conversation_begins_without_the_question_that_was_stopped(open_page: Open) -> None:
    page = open_page(routes={"**/v1/chat/completions": lambda route: None})  # never answered
    message = page.get_by_label("Message")
    message.fill("How are you?")
    page.get_by_role("button", name="Send").click()
    page.get_by_role("button", name="New conversation").click()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(message).to_have_value("")


def test_enter_that_ends_a_composition_sends_nothing(open_page: Open) -> None:
    page = open_page()
    page.get_by_label("Message").fill("にほん")
    press = "key => document.activeElement.dispatchEvent(new KeyboardEvent('keydown', key))"
    page.evaluate(press, {"key": "Enter", "keyCode": 229, "bubbles": True})  # as Safari sends it
    expect(page.locator("#chat article")).to_have_count(0)
    page.evaluate(press, {"key": "Enter", "keyCode": 13, "bubbles": True})
    expect(page.locator("#chat article")).to_have_count(1)


def test_tasks(open_page: Open) -> None:
    page = open_page()
    assert "Bahnhof" in run_task(page, "Translate", "Translate").locator(".text").first.inner_text()
    assert "bridge" in run_task(page, "Summarize", "Summarize").locator(".text").first.inner_text()
    scores = run_task(page, "Analyze", "Analyze").locator(".scores")
    assert scores.locator("dt").all_inner_texts() == ["positive", "negative"]
    expect(run_task(page, "Generate", "Continue").locator(".meta")).to_contain_text("tokens in")


def without_end(route: Route) -> None:
    """The model would end some texts before they can be stopped."""
    route.continue_(post_data=json.dumps({**route.request.post_data_json, "ignore_eos": True}))


def test_a_stream_is_stopped_in_the_middle(open_page: Open, url: str) -> None:
    page = open_page(routes={"**/v1/generate": without_end})
    page.get_by_role("tab", name="Generate").click()
    page.get_by_label("at most").fill(str(CONTEXT - 100))
    page.get_by_role("button", name="Continue").click()
    answer = page.locator("#generate article")
    expect(answer.locator(".text")).to_contain_text(re.compile(r"\w+ \w+ \w+"))
    page.get_by_role("button", name="Stop").click()
    expect(answer.locator(".meta")).to_have_text("stopped")
    text = answer.locator(".text").first.inner_text()
    assert 0 < len(text.split()) < 500
    wait_until_idle(url)
    page.get_by_role("button", name="Continue").click()  # the form can be used again
    page.keyboard.press("Escape")  # the focus is in the form
    expect(page.locator("#generate article")).to_have_count(2)


def wait_until_idle(url: str) -> None:
    """The server has noticed that the browser does not want the rest."""
    deadline = time.monotonic() + MILLISECONDS / 1000
    while 'vllm:num_requests_running{model_name="routelm"} 0.0' not in get(f"{url}/metrics"):
        assert time.monotonic() < deadline, "it is still generating"
        time.sleep(0.1)


def test_a_token_shows_its_path_through_the_layers(open_page: Open) -> None:
    page = open_page()
    answer = ask(page, "How are you?")
    tokens = answer.get_by_role("toolbar").get_by_role("button")
    path = answer.locator("svg.path")
    tokens.nth(1).hover()
    second = path.get_attribute("aria-label") or ""
    assert re.search(r"Layer 0: expert \d+ \d+ %, expert \d+ \d+ %\. Layer 1: ", second)
    assert second.count("Layer") == 8
    tokens.nth(0).hover()
    assert path.get_attribute("aria-label") != second
    assert path.locator(".chosen circle").count() == 16
    expect(answer.locator(".strip rect")).to_have_count(tokens.count())
    expect(answer.locator(".strip + figcaption")).to_contain_text("bits")
    expect(answer.locator("figcaption").last).to_contain_text("Experts that chat/completions used")


def test_every_streamed_task_shows_its_tokens(open_page: Open) -> None:
    page = open_page()
    for task, button in (("Translate", "Translate"), ("Generate", "Continue")):
        answer = run_task(page, task, button)
        text = answer.locator(".text").first.inner_text()
        tokens = "".join(answer.get_by_role("toolbar").get_by_role("button").all_text_contents())
        assert "".join(text.split())[:15] in "".join(tokens.split())
        expect(answer.locator("svg.path")).to_have_count(1)


def test_sliders(open_page: Open) -> None:
    page = open_page()
    page.get_by_role("slider", name="Temperature").fill("0")
    expect(page.locator("#temperature-note")).to_contain_text("same answer every time")
    page.get_by_role("slider", name="Experts per token").fill("1")
    expect(page.locator("#experts-quality .marked").first).to_have_text("1")
    expect(page.locator("#experts-quality")).to_contain_text("translate BLEU")
    with page.expect_request("**/v1/chat/completions") as request:
        answer = ask(page, "How are you?")
    assert request.value.post_data_json["temperature"] == 0
    assert request.value.post_data_json["experts_per_token"] == 1
    expect(answer.locator(".meta")).to_contain_text("1 expert per token")
    expect(answer.locator("svg.path .chosen circle")).to_have_count(8)
    page.get_by_role("button", name="Reset experts per token").click()
    with page.expect_request("**/v1/chat/completions") as request:
        ask(page, "How are you?")
    assert "experts_per_token" not in request.value.post_data_json


def test_load(open_page: Open) -> None:
    page = open_page()
    ask(page, "How are you?")
    expect(page.locator("#load-curve polyline")).to_have_count(1)
    expect(page.locator("#share")).to_be_visible()
    expect(page.locator("#share-when")).to_have_text("of the last half minute")


def test_the_code_of_a_request_does_what_was_done(open_page: Open) -> None:
    page = open_page()
    page.get_by_role("slider", name="Temperature").fill("0")
    page.get_by_role("tab", name="Translate").click()
    page.locator("#translate-text").fill("It's cold \"today\".\n'$HOME' `ls` \\")
    page.get_by_role("button", name="Translate", exact=True).click()
    answer = answer_of(page, "translate")
    answer.get_by_text("curl and Python").click()
    curl, python = answer.locator("pre").all_inner_texts()
    said = [
        {**json.loads(run(["sh", "-c", curl])), "id": ""},
        {**ast.literal_eval(run([sys.executable, "-c", python])), "id": ""},
    ]
    assert said[0] == said[1]
    assert said[0]["translations"][0]["text"] == answer.locator(".text").first.inner_text()


def run(command: list[str]) -> str:
    """What a program of the page prints. Without a proxy, which cannot reach this machine."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def test_the_code_of_a_chat(open_page: Open) -> None:
    page = open_page()
    page.get_by_role("slider", name="Temperature").fill("0")
    answer = ask(page, "How are you?")
    answer.get_by_text("curl and Python").click()
    curl, python = answer.locator("pre").all_inner_texts()
    assert '"content"' in run(["sh", "-c", curl])
    assert run([sys.executable, "-c", python]) == answer.locator(".text").first.inner_text()


def test_the_key_is_asked_for(open_page: Open, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    (key_file := tmp_path / "key").write_text(KEY)
    python = request.config.getoption("--server-python")
    with running_server(python, tmp_path / "log", "--api-key-file", str(key_file)) as url:
        page = open_page(url)
        dialog = page.get_by_role("dialog", name="API key")
        dialog.get_by_label("Key").fill("wrong")
        dialog.get_by_role("button", name="Use it").click()
        expect(dialog.get_by_text("was not accepted")).to_be_visible()
        dialog.get_by_label("Key").fill(KEY)
        page.keyboard.press("Enter")
        answer = ask(page, "How are you?")
        answer.get_by_text("curl and Python").click()
        assert all(KEY not in code and "ROUTELM_API_KEY" in code for code in answer.locator("pre").all_inner_texts())
        assert page.evaluate("Object.keys(localStorage).length") == 0
        assert "key" not in page.url
        other = open_page(url)  # another tab has to be told
        other.get_by_role("button", name="Cancel").click()
        expect(other.locator("#problem")).to_contain_text("API key")
        other.get_by_label("Message").fill("How are you?")
        other.get_by_role("button", name="Send").click()
        other.get_by_label("Key", exact=True).fill(KEY)
        other.keyboard.press("Enter")
        assert answer_of(other, "chat").locator(".text").first.inner_text()
        expect(other.locator("#problem")).to_be_hidden()
        expect(other.locator("#model")).to_contain_text("routelm")
        page.reload()
        expect(page.locator("#model")).to_contain_text("routelm")
        assert not dialog.is_visible()


def test_with_the_keyboard_alone(open_page: Open) -> None:
    page = open_page()
    expect(page.locator("#model")).to_contain_text("routelm")
    press = page.keyboard.press
    tab_to(page, "tab", "Chat")
    press("ArrowLeft")
    expect(page.get_by_role("tab", name="Generate")).to_be_focused()
    expect(page.locator("#generate")).to_be_visible()
    press("Home")
    tab_to(page, "textarea", "chat-text")
    page.keyboard.type("How are you?")
    press("Enter")
    answer = answer_of(page, "chat")
    press("Shift+Tab")  # from the message back to the code, and on to the tokens
    expect(answer.locator(".code summary")).to_be_focused()
    press("Enter")
    expect(answer.locator("pre").first).to_be_visible()
    press("Enter")
    press("Shift+Tab")
    expect(answer.get_by_role("toolbar").get_by_role("button").first).to_be_focused()
    before = answer.locator("svg.path").get_attribute("aria-label")
    press("ArrowRight")
    expect(answer.get_by_role("toolbar").get_by_role("button").nth(1)).to_be_focused()
    assert answer.locator("svg.path").get_attribute("aria-label") != before
    tab_to(page, "range", "temperature")
    press("ArrowRight")
    expect(page.locator("#temperature-value")).to_have_text("0.85")


def tab_to(page: Page, kind: str, name: str) -> None:
    """Press Tab until the element has the focus: its role, type or tag, and its text or id."""
    for _ in range(40):
        found = page.evaluate(
            "[document.activeElement.getAttribute('role'), document.activeElement.type, document.activeElement.id,"
            " document.activeElement.textContent]"
        )
        if kind in found and name in found:
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab does not reach the {kind} {name}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [{"width": 1280, "height": 900}, PHONE], ids=["wide", "phone"])
def test_accessibility(open_page: Open, scheme: str, size: dict[str, int]) -> None:
    """axe-core is a script with strings of HTML in it, which the page's policy forbids: here it is put aside."""
    page = open_page(color_scheme=scheme, viewport=size, bypass_csp=True)
    assert not serious(page)
    ask(page, "How are you?").get_by_text("curl and Python").click()
    page.get_by_role("slider", name="Experts per token").fill("1")
    assert not serious(page)
    for task, button in (
        ("Translate", "Translate"),
        ("Summarize", "Summarize"),
        ("Analyze", "Analyze"),
        ("Generate", "Continue"),
    ):
        run_task(page, task, button)
        page.locator(f"#{task.lower()} .limits summary").or_(page.locator("header")).first.click()
        assert not serious(page), task
    page.evaluate("document.querySelector('#key-dialog').showModal()")
    assert not serious(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]


def serious(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [
        f"{violation['id']}: {node['html']}"
        for violation in found
        if violation["impact"] in SERIOUS
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("text", [" ", "\u00a0", "\u200b", "\r", "\x00"])
def test_a_token_of_which_nothing_can_be_seen_has_a_name(open_page: Open, text: str) -> None:
    page = open_page(
        routes={"**/v1/chat/completions": lambda route: stream(route, chat_event(text, routing(text)))}, bypass_csp=True
    )
    ask(page, "Say nothing.")
    assert not serious(page)
    page.get_by_role("button", name="space").hover()
    expect(page.locator("article .detail strong")).to_have_text("“space”")


def test_the_test_of_accessibility_can_fail(open_page: Open) -> None:
    page = open_page(bypass_csp=True)
    page.evaluate("document.querySelector('label[for=temperature]').remove()")
    assert any("label" in violation for violation in serious(page))


def test_what_a_model_writes_is_text(open_page: Open) -> None:
    evil = "<img src=x onerror='document.title=1'><script>document.title=2</script>"
    page = open_page(routes={"**/v1/chat/completions": lambda route: stream(route, chat_event(evil, routing(evil)))})
    answer = ask(page, evil)
    assert answer.locator(".text").inner_text() == evil
    assert page.locator("img:not(header img), article script").count() == 0
    assert "RouteLM" in page.title()


def test_a_model_without_experts_is_served_without_routing(open_page: Open) -> None:
    overview = {"object": "routing", "layers": [], "tasks": [], "experts_per_token": None}
    page = open_page(routes={"**/v1/routing*": lambda route: route.fulfill(json=overview)})
    with page.expect_request("**/v1/chat/completions") as request:
        answer = ask(page, "How are you?")
    assert "return_routing" not in request.value.post_data_json
    assert answer.get_by_role("toolbar").get_by_role("button").count() > 1  # their probabilities are known
    expect(answer.locator("svg.path")).to_have_count(0)
    expect(page.locator("#experts")).to_be_hidden()


def test_a_question_waits_until_the_server_is_described(open_page: Open) -> None:
    held: list[Route] = []
    asked: list[str] = []
    page = open_page(routes={"**/v1/models": lambda route: held.append(route)})
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_label("Message").fill("How are you?")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#chat").get_by_role("button", name="Stop")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#chat").get_by_role("button", name="Send")).to_be_visible()
    page.get_by_role("button", name="Send").click()  # the question is still there
    assert not any("chat/completions" in url for url in asked)
    with page.expect_request("**/v1/chat/completions") as request:
        held[0].continue_()
    assert request.value.post_data_json["model"] == "routelm"
    assert answer_of(page, "chat").locator(".text").first.inner_text()


def test_where_routing_is_refused_the_answer_comes_without_it(open_page: Open) -> None:
    refusal = {
        "error": {"message": "too long", "type": "invalid_request_error", "param": "return_routing", "code": None}
    }

    def refuse(route: Route) -> None:
        if "return_routing" in route.request.post_data_json:
            route.fulfill(status=400, json=refusal)
        else:
            route.continue_()

    page = open_page(routes={"**/v1/generate": refuse})
    expect(run_task(page, "Generate", "Continue").locator(".meta")).to_contain_text("tokens in")


@pytest.mark.parametrize("error", [{"error": {"message": "The queue is full."}}, "no JSON"])
def test_errors_are_shown(open_page: Open, error: object) -> None:
    def refuse(route: Route) -> None:
        route.fulfill(status=429, body=json.dumps(error), headers={"Retry-After": "7"})

    page = open_page(routes={"**/v1/chat/completions": refuse})
    answer = ask(page, "How are you?")
    expect(answer.get_by_role("alert")).to_contain_text("Try again in 7 s.")
    expect(page.get_by_label("Message")).to_have_value("How are you?")


def test_a_large_router_fits(open_page: Open) -> None:
    """48 layers of 128 experts, of which a token goes to 8."""
    layers = [{"layer": layer, "num_experts": 128, "share": [1 / 128] * 128} for layer in range(48)]
    overview = {"object": "routing", "layers": layers, "tasks": [], "experts_per_token": None, "minutes": 5}
    wide = {"layers": list(range(48)), "tokens": [entry("a", 48, 8)] * 200}
    routes: dict[str, Callable[[Route], None]] = {
        "**/v1/routing*": lambda route: route.fulfill(json=overview),
        "**/v1/chat/completions": lambda route: stream(route, chat_event("a" * 200, wide)),
    }
    page = open_page(routes=routes, viewport=PHONE)
    answer = ask(page, "How are you?")
    expect(answer.locator("svg.path .chosen circle")).to_have_count(48 * 8)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


def entry(text: str, layers: int, experts: int) -> dict[str, object]:
    """A token in the form of `return_routing`."""
    gates = [[1 / experts] * experts] * layers
    return {"id": 1, "token": text, "experts": [list(range(experts))] * layers, "gates": gates}


def routing(text: str) -> dict[str, object]:
    return {"layers": list(range(8)), "tokens": [entry(text, 8, 2)]}


def chat_event(text: str, routing: dict[str, object]) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": "stop", "routing": routing}]}


def stream(route: Route, *events: dict[str, object]) -> None:
    lines = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    route.fulfill(body=f"{lines}data: [DONE]\n\n", content_type="text/event-stream")


def test_screenshots(open_page: Open, request: pytest.FixtureRequest) -> None:
    """Those of the documentation: the page as it is, so they can be looked at and are made again by an option."""
    folder = IMAGES if request.config.getoption("--update-screenshots") else request.getfixturevalue("tmp_path")
    page = open_page(viewport={"width": 1200, "height": 1000})
    answer = ask(page, "What can you do?")
    answer.get_by_role("toolbar").get_by_role("button").nth(2).hover()
    page.screenshot(path=folder / "page-chat.png")
    page = open_page(viewport={"width": 1200, "height": 1000}, color_scheme="dark")
    answer = run_task(page, "Translate", "Translate")
    answer.get_by_role("toolbar").get_by_role("button").nth(2).hover()
    page.screenshot(path=folder / "page-translate-dark.png")
    page = open_page(viewport=PHONE, device_scale_factor=2)
    answer = ask(page, "How are you?")
    answer.get_by_role("toolbar").get_by_role("button").nth(1).hover()
    page.screenshot(path=folder / "page-phone.png")
    assert all(path.stat().st_size > 10_000 for path in folder.glob("page-*.png"))
