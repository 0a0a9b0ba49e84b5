"""The web page in headless Chromium: what it shows, loads and switches."""

import concurrent.futures
import os
import sys
import threading

import pytest

sys.path[:0] = [os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))]
from browser import open_browser  # noqa: E402
from running import serve  # noqa: E402


def wait_until(page, expression):
    """The page's own rule against eval() forbids Playwright's wait_for_function."""
    for _ in range(600):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never true: {expression}")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("serve"), "--precision", "exact") as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    with open_browser() as running:
        yield running


@pytest.fixture
def page(browser, server):
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.problems = []
    page.requested = []
    page.on("console", lambda m: page.problems.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("request", lambda request: page.requested.append(request.url))
    page.set_default_timeout(60_000)
    page.goto(server.url)
    wait_until(page, "document.getElementById('state').textContent === 'serving'")
    yield page
    page.close()


def test_shows_load_and_asks_nobody_else(page, server, tmp_path):
    # Figures are of the last seconds and "–" where nothing happened in them: clients ask for as
    # long as the page is looked at.
    looked_at = threading.Event()

    def ask(i):
        statuses = set()
        while not looked_at.is_set():
            body = {"prompt": f"{i}", "max_tokens": 100, "ignore_eos": True}
            statuses.add(server.request("POST", "/v1/completions", body)[0])
        return statuses

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(ask, i) for i in range(4)]
        try:
            wait_until(
                page, "parseInt(document.querySelector('#requests .figure').textContent) >= 1")
            for chart in ["throughput", "ttft", "tpot", "steps", "cache", "requests", "history"]:
                root = f"document.querySelector('#{chart}')"
                wait_until(page, f"{root}.querySelector('svg path:not(.area)')"
                                 f".getAttribute('d').length > 5 && "
                                 f"!{root}.querySelector('.figure').textContent.startsWith('–')")
        finally:
            looked_at.set()
        assert [future.result() for future in futures] == [{200}] * 4
    assert "reference" in page.locator("#model").text_content()
    assert page.locator("#layers i.exact").count() == 8
    assert "100 % exact" in page.locator("#precision-note").text_content()
    assert page.problems == []
    assert {url for url in page.requested if not url.startswith((server.url, "data:"))} == set()
    assert page.screenshot(path=str(tmp_path / "page.png"), full_page=True)[:4] == b"\x89PNG"


def test_switches_precision(page, server):
    try:
        page.click("button[data-mode=fp8]")
        page.wait_for_selector("button[data-mode=fp8][aria-pressed=true]")
        assert server.request("GET", "/v1/precision")[1]["mode"] == "fp8"
        server.request("POST", "/v1/completions", {"prompt": "a", "max_tokens": 3})
        wait_until(page, "document.querySelectorAll('#layers i.fp8').length === 8")
        # And what is set elsewhere is shown here.
        server.request("PUT", "/v1/precision", {"mode": "auto"})
        page.wait_for_selector("button[data-mode=auto][aria-pressed=true]")
    finally:
        server.request("PUT", "/v1/precision", {"mode": "fp16"})
    assert page.problems == []


@pytest.mark.parametrize("kind", ["chat", "text"])
def test_chat(page, kind):
    page.select_option("#kind", kind)
    page.select_option("#pin", "fp8")
    page.fill("#max-tokens", "12")
    page.fill("#input", "What is <b>bold</b>?")
    page.keyboard.press("Enter")
    page.wait_for_selector(".message.assistant .meta")
    assert page.locator(".message.user div").text_content() == "What is <b>bold</b>?"
    assert " FP8" in page.locator(".meta").text_content()
    assert page.locator(".message.assistant div").first.text_content() != ""
    assert page.problems == []


def test_chat_can_be_stopped(page, server):
    page.select_option("#kind", "text")
    page.fill("#max-tokens", "1000")
    page.fill("#input", "Once upon a time")
    page.click("#send")
    wait_until(page, "document.querySelector('.message.assistant div').textContent !== ''")
    if page.locator("#send").text_content() == "Stop":
        page.click("#send")
    wait_until(page, "document.getElementById('send').textContent === 'Send'")
    server.wait_until_idle()


def test_shows_errors(page):
    page.fill("#max-tokens", "5000")
    page.fill("#input", "hi")
    page.click("#send")
    page.wait_for_selector(".failed")
    assert "context length" in page.locator(".failed").text_content()


def test_asks_for_the_key(browser, tmp_path):
    with serve(tmp_path, "--api-key", "secret") as server:
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.goto(server.url)
        page.wait_for_selector("#key.asked")
        page.fill("#key-value", "secret")
        page.keyboard.press("Tab")
        page.wait_for_selector("button[aria-pressed=true]")
        assert "reference" in page.locator("#model").text_content()
        assert not page.locator("#key.asked").is_visible()
        page.close()
