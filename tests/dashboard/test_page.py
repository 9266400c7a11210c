"""The page in a real browser, before a real server with the demo model that needs a key."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.dashboard.browser import Page, wait_for
from tests.server.server_process import ServerProcess, serving

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples/demo"
KEY = "the-right-key-für-alle"
QUESTION = "Hey Zoe, can you bring the map to the market on Friday? Thanks!"


@pytest.fixture(scope="module")
def server(chrome: object) -> Iterator[ServerProcess]:
    words = [
        str(DEMO / "loramux-demo"), "--served-model-name", "demo", "--enable-lora",
        "--max-loras", "2", "--api-key", KEY, "--shutdown-seconds", "600",
    ]  # fmt: skip
    environment = {
        "LORAMUX_PLUGINS": "lora_filesystem_resolver",
        "LORAMUX_LORA_RESOLVER_CACHE_DIR": str(DEMO / "adapters"),
    }
    with serving(*words, **environment) as process:
        yield process


def open_with_key(page: Page, server: ServerProcess) -> None:
    page.goto(server.url)
    page.until("!document.getElementById('key-view').hidden")
    page.type("#key", KEY)
    page.press("Enter", 13)
    page.until("!document.getElementById('dashboard').hidden")


def add_model(page: Page, name: str) -> None:
    page.type("#model-name", name)
    page.press("Enter", 13)


def shown_adapters(page: Page) -> list[str]:
    return page.evaluate(
        "[...document.querySelectorAll('#adapter-rows tr th')].map((cell) => cell.textContent)"
    )


def test_data_needs_the_key_and_the_page_does_not(server: ServerProcess) -> None:
    with server.http() as http:
        assert http.get("/").status_code == 200
        assert http.get("/dashboard/main.js").status_code == 200
        assert http.get("/dashboard/state").status_code == 401
        assert http.get("/dashboard/events").status_code == 401
        right = {"authorization": f"Bearer {KEY}".encode()}
        assert http.get("/dashboard/state", headers=right).status_code == 200


def test_a_wrong_key_then_the_right_one_then_none(page: Page, server: ServerProcess) -> None:
    page.goto(server.url)
    page.until("document.activeElement.id === 'key'")
    page.type("#key", "a-wrong-key")
    page.press("Enter", 13)
    page.until("document.getElementById('key-problem').textContent !== ''")
    assert page.text("#key-problem") == "The server does not take this key."
    page.type("#key", KEY)
    page.press("Enter", 13)
    page.until("!document.getElementById('dashboard').hidden")
    assert not any(KEY in request["url"] for request in page.requests)
    assert page.evaluate("document.cookie + JSON.stringify(localStorage)") == "{}"
    page.click("#forget-key")
    page.until("document.getElementById('key-view')?.hidden === false")
    assert page.evaluate("sessionStorage.length") == 0


def test_an_adapter_never_seen_appears_without_a_reload(page: Page, server: ServerProcess) -> None:
    open_with_key(page, server)
    assert "french" not in shown_adapters(page)
    page.evaluate("window.isTheSamePage = true")
    add_model(page, "french")
    add_model(page, "nobody-has-this")
    page.type("#prompt", QUESTION)
    page.click("#send")
    page.until("document.querySelectorAll('.answer[data-state=done]').length === 2")
    page.until("document.querySelectorAll('.answer[data-state=failed]').length === 1")
    answers = page.text("#answers")
    assert "Salut Zoe" in answers
    assert "The model `nobody-has-this` does not exist." in answers
    wait_for(lambda: "french" in shown_adapters(page), "the adapter is in the table")
    page.until("document.getElementById('loads').innerText.includes('french')")
    assert page.evaluate("window.isTheSamePage")
    measures = page.evaluate(
        "[...document.querySelectorAll('.answer[data-state=done] dd')].map((d) => d.textContent)"
    )
    assert len(measures) == 6
    assert all(measure[0].isdigit() for measure in measures)


def test_what_was_loaded_is_told_to_screen_readers(page: Page, server: ServerProcess) -> None:
    open_with_key(page, server)
    headers = {"authorization": f"Bearer {KEY}".encode()}
    page.until("document.getElementById('connection').dataset.state === 'live'")
    body = {"model": "pirate", "prompt": "Hey", "max_tokens": 3}
    assert httpx.post(
        f"{server.url}/v1/completions", json=body, headers=headers, timeout=60
    ).is_success
    page.until("document.getElementById('announcements').textContent.includes('pirate loaded')")
    page.until("document.getElementById('chart').getAttribute('aria-label').length > 0")


def test_stop_ends_every_answer(page: Page, server: ServerProcess) -> None:
    open_with_key(page, server)
    page.evaluate("document.getElementById('endpoint').value = 'completion'")
    page.evaluate("document.getElementById('max-tokens').value = 1000")
    page.evaluate("document.getElementById('temperature').value = 2")
    page.type("#prompt", "Once")
    page.click("#send")
    page.until("document.querySelector('.answer .text')?.textContent.length > 5")
    page.click("#stop")
    page.until("document.querySelector('.answer').dataset.state === 'stopped'")
    page.until("document.querySelector('#figures').innerText.includes('Running\\n0')")
    assert page.evaluate("!document.getElementById('send').disabled")


def test_nothing_leaves_the_origin_and_nothing_complains(page: Page, server: ServerProcess) -> None:
    open_with_key(page, server)
    add_model(page, "sql")
    page.type("#prompt", "List the name of every customer older than 34.")
    page.click("#send")
    page.until("document.querySelectorAll('.answer[data-state=done]').length === 2")
    assert all(request["url"].startswith(server.url) for request in page.requests)
    # The browser itself notes the answer 401 that made the page ask for the key.
    assert [text for text in page.complaints if "status of 401" not in text] == []


def test_a_server_that_hangs_is_not_live(page: Page, server: ServerProcess) -> None:
    open_with_key(page, server)
    assert page.evaluate("document.activeElement.id") == "content"  # the form is gone
    page.until("document.getElementById('connection').dataset.state === 'live'")
    server.process.send_signal(signal.SIGSTOP)
    try:
        page.evaluate("performance.now = () => 1e9")  # much later
        page.until("document.getElementById('connection').dataset.state === 'lost'")
    finally:
        server.process.send_signal(signal.SIGCONT)
    page.until("document.getElementById('connection').dataset.state === 'live'")


def test_a_page_that_is_open_holds_no_server_up(page: Page, server: ServerProcess) -> None:
    """The last test: the server is gone afterwards."""
    open_with_key(page, server)
    page.until("document.getElementById('connection').dataset.state === 'live'")
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=60) == 0
    page.until("document.getElementById('connection').dataset.state === 'lost'")
