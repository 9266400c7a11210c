"""A headless Chromium, driven through the DevTools protocol over a pair of pipes."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS = 120

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
]  # fmt: skip

Event = dict[str, Any]


def chromium() -> str | None:
    """Where Chromium is, if there is one."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start Chromium with an empty profile, and end it."""
    executable = chromium()
    assert executable is not None
    its_in, our_out = os.pipe()
    our_in, its_out = os.pipe()
    # Chromium reads from descriptor 3 and writes to 4; these must not be in the way of that.
    its_in, its_out = _moved(its_in), _moved(its_out)
    command = [executable, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    redirect = f'exec "$0" "$@" 3<&{its_in} 4>&{its_out}'
    process = subprocess.Popen(
        ["bash", "-c", redirect, *command],
        pass_fds=(its_in, its_out), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(its_in)
    os.close(its_out)
    driver = Browser(our_in, our_out)
    try:
        yield driver
    finally:
        try:
            driver.send("Browser.close")
            process.wait(timeout=SECONDS)
        finally:
            process.kill()
            process.wait()
            driver.close()


def _moved(descriptor: int) -> int:
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10)
    os.close(descriptor)
    return moved


class PageLeftError(AssertionError):
    """The page that was asked is being left for another."""


class Browser:
    """Sends commands, and hands events on to the page they belong to."""

    def __init__(self, read: int, write: int) -> None:
        self._write = write
        self._read = os.fdopen(read, "rb")
        self._numbers = itertools.count(1)
        self._answers: dict[int, queue.Queue[Event]] = {}
        self._pages: dict[str, Page] = {}
        self._reader = threading.Thread(target=self._receive, name="devtools")
        self._reader.start()

    def send(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for what it answers."""
        number = next(self._numbers)
        answers = self._answers[number] = queue.Queue()
        message = {"id": number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answer = answers.get(timeout=SECONDS)
        if "error" in answer and "navigated" in answer["error"]["message"]:
            raise PageLeftError(f"{method}: {answer['error']}")
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def open_page(self, *, width: int = 1280, height: int = 900) -> Page:
        """A page of its own, with storage of its own, that has not been anywhere yet."""
        context = self.send("Target.createBrowserContext")["browserContextId"]
        target = self.send("Target.createTarget", url="about:blank", browserContextId=context)
        session = self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = Page(self, session["sessionId"], context)
        self._pages[page.session] = page
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.send(f"{domain}.enable")
        page.resize(width, height)
        return page

    def close(self) -> None:
        """Let go of the pipes once Chromium has ended."""
        self._reader.join()
        self._read.close()
        os.close(self._write)

    def _receive(self) -> None:
        rest = b""
        while data := os.read(self._read.fileno(), 1 << 16):
            *messages, rest = (rest + data).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self._answers.pop(message["id"]).put(message)
                elif page := self._pages.get(message.get("sessionId", "")):
                    page.note(message["method"], message["params"])


@dataclass
class Page:
    """One tab, and everything it complained of or asked for."""

    browser: Browser
    session: str
    context: str
    complaints: list[str] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.send(method, self.session, **params)

    def note(self, method: str, params: Event) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.complaints.append(json.dumps(params["args"]))

    def goto(self, url: str) -> None:
        self.send("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def evaluate(self, script: str) -> Any:
        """The value of an expression, awaited."""
        answer = self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, condition: str, seconds: float = SECONDS) -> Any:
        """Wait until an expression is true; returns its value. Pages may come and go meanwhile."""

        def holds() -> Any:
            try:
                return self.evaluate(condition)
            except PageLeftError:
                return None

        return wait_for(holds, condition, seconds)

    def text(self, selector: str) -> str:
        return self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")

    def type(self, selector: str, text: str) -> None:
        """Put the focus on a field and type."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        self.send("Input.insertText", text=text)

    def press(self, key: str, code: int) -> None:
        event = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        text = {"text": "\r"} if key == "Enter" else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", **event, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **event)

    def click(self, selector: str) -> None:
        self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")

    def resize(self, width: int, height: int) -> None:
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=width < 500)  # fmt: skip

    def prefer(self, **features: str) -> None:
        """Media features such as ``prefers_color_scheme="dark"``."""
        wanted = [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]
        self.send("Emulation.setEmulatedMedia", features=wanted)

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        data = self.send("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        self.browser.send("Target.disposeBrowserContext", browserContextId=self.context)


def wait_for(condition: Callable[[], Any], name: str, seconds: float = SECONDS) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"it did not happen in {seconds:g} s: {name}"
        time.sleep(0.05)
    return value
