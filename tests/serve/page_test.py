"""The web page in headless Chromium: what it shows, loads and switches."""

import concurrent.futures
import os
import sys
import threading

import pytest

sys.path[:0] = [os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))]
from browser import open_browser  # noqa: E402
from running import MODEL, free_port, serve  # noqa: E402


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


def say(page, text):
    answers = page.locator(".message.assistant .meta").count()
    page.fill("#input", text)
    page.click("#send")
    wait_until(page, f"document.querySelectorAll('.message.assistant .meta').length > {answers} && "
                     "document.getElementById('send').textContent === 'Send'")


def notes(page):
    return [note.text_content() for note in page.locator(".message .note").all()]


def test_shows_errors(page):
    page.evaluate("document.getElementById('pin').add(new Option('fp32'))")
    page.select_option("#pin", "fp32")
    page.fill("#input", "hi")
    page.click("#send")
    page.wait_for_selector(".failed")
    assert "precision" in page.locator(".failed").text_content()


def test_keeps_within_the_context(page):
    page.fill("#max-tokens", "5000")
    page.fill("#input", "Once upon a time")
    page.click("#send")
    wait_until(page, "document.querySelector('.message.assistant div').textContent !== ''")
    page.click("#send")
    page.wait_for_selector(".message.assistant .meta")
    assert "the answer may have" in notes(page)[0]

    # The first messages go when all no longer fit; what is shown stays.
    page.fill("#max-tokens", "200")
    for text in ["one two three " * 60, "four five six " * 60, "seven eight nine " * 60]:
        say(page, text)
    assert any("left out: the context has 1,024 tokens" in note for note in notes(page))
    assert page.locator(".message.user").count() == 4
    # One that is too long alone is shortened.
    say(page, "word " * 3000)
    assert "the beginning of" in notes(page)[-1]
    assert page.locator(".failed").count() == 0
    assert page.problems == []


def test_empty_fields_mean_their_defaults(page):
    for field in ["#max-tokens", "#temperature"]:
        page.fill(field, "")
    page.select_option("#kind", "text")
    say(page, "The")
    assert page.locator(".failed").count() == 0
    assert page.locator(".message.assistant div").first.text_content() != ""


def test_one_is_singular(page):
    page.fill("#max-tokens", "1")
    say(page, "The")
    assert page.locator(".meta").text_content().startswith("1 token,")


def test_survives_a_reload(page):
    page.fill("#max-tokens", "7")
    say(page, "What is a <b>dictionary</b>?")
    shown = page.locator("#log").text_content()
    page.reload()
    wait_until(page, "document.getElementById('state').textContent === 'serving'")
    assert page.locator("#log").text_content() == shown
    assert page.input_value("#max-tokens") == "7"
    say(page, "And another?")
    assert page.locator(".message.user").count() == 2
    page.click("#clear")
    page.reload()
    assert page.locator(".message").count() == 0
    assert page.problems == []


def test_survives_a_server_of_another_name(browser, tmp_path):
    port = free_port()
    page = browser.new_page()
    page.set_default_timeout(60_000)
    for name in ["first", "second"]:
        with serve(tmp_path, command=["serve", MODEL, "--served-model-name", name], port=port):
            if name == "first":
                page.goto(f"http://127.0.0.1:{port}")
            wait_until(page, f"document.getElementById('model').textContent.startsWith('{name}')")
            page.fill("#max-tokens", "3")
            say(page, "The")
            assert page.locator(".failed").count() == 0
    page.close()


def test_on_a_phone_the_chat_comes_first(browser, server, tmp_path):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(server.url)
    wait_until(page, "document.getElementById('state').textContent === 'serving'")
    chat = page.locator(".chat").bounding_box()
    assert chat["y"] < 200
    for other in [".precision", "#history", "#throughput"]:
        assert page.locator(other).bounding_box()["y"] > chat["y"] + chat["height"] - 1
    # Nothing sticks out sideways, and the message can be written without scrolling.
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    send = page.locator("#send").bounding_box()
    assert send["y"] + send["height"] <= 844
    page.screenshot(path=str(tmp_path / "phone.png"))
    page.close()


def test_asks_for_the_key(browser, tmp_path):
    with serve(tmp_path, "--api-key", "secret") as server:
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.goto(server.url)
        page.wait_for_selector("#key.asked")
        page.fill("#key-value", "secret")
        page.click("#key button")
        page.wait_for_selector("button[aria-pressed=true]")
        assert "reference" in page.locator("#model").text_content()
        assert not page.locator("#key.asked").is_visible()
        page.close()
