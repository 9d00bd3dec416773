"""A real Chromium, driven over its DevTools protocol: no more of it than the tests need."""

from __future__ import annotations

import base64
import itertools
import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests import programs

NAMES = ("chromium", "chromium-browser", "google-chrome")
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowDown": 40}
SHIFT = 8
START_TIMEOUT_S = 60
ANSWER_TIMEOUT_S = 30


def found() -> str:
    """Where Chromium is; without one the test is skipped, or fails where all must run."""
    return programs.find("chromium", *NAMES)


@contextmanager
def browsing(folder: Path) -> Iterator[str]:
    """Run a browser; yield where its DevTools listen."""
    line = [
        found(),
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--no-first-run", "--no-default-browser-check", "--disable-extensions"),
        *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
        *("--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"),
    ]
    with (folder / "chromium.log").open("wb") as log:
        life = subprocess.Popen(line, stdout=log, stderr=log)
    try:
        port = folder / "DevToolsActivePort"
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (port.exists() and port.read_text().strip()):
            assert life.poll() is None, (folder / "chromium.log").read_text()[-2_000:]
            assert time.monotonic() < deadline, "Chromium does not start"
            time.sleep(0.05)
        yield f"127.0.0.1:{port.read_text().split()[0]}"
    finally:
        life.terminate()
        life.wait(20)


@contextmanager
def page(devtools: str, width: int = 1280, height: int = 800, **media: str) -> Iterator[Page]:
    """Open a fresh tab of this size; `media` are features, like prefers_color_scheme="dark"."""
    asked = urllib.request.Request(f"http://{devtools}/json/new?about:blank", method="PUT")
    with urllib.request.urlopen(asked, timeout=ANSWER_TIMEOUT_S) as answer:
        target = json.load(answer)
    with _attached(target["webSocketDebuggerUrl"]) as connection:
        opened = Page(connection)
        for domain in ("Page", "Runtime", "Log", "Network"):
            opened.call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        opened.call("Emulation.setDeviceMetricsOverride", **size)
        features = [{"name": name.replace("_", "-"), "value": media[name]} for name in media]
        opened.call("Emulation.setEmulatedMedia", features=features)
        yield opened
        opened.call("Page.close")


def _attached(url: str) -> ClientConnection:
    # Events pile up unread between two calls: they must neither stop the reading nor look like a
    # peer that is gone.
    return connect(url, max_size=None, max_queue=None, ping_interval=None)


class Page:
    """One tab."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._ids = itertools.count(1)
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol; events that come meanwhile are kept."""
        number = next(self._ids)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            told = json.loads(self._connection.recv(timeout=ANSWER_TIMEOUT_S))
            if told.get("id") == number:
                assert "error" not in told, (method, told["error"])
                return told["result"]
            self.events.append(told)

    def open(self, url: str) -> None:
        """Go to a page, and wait until it is loaded."""
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def ask(self, script: str) -> Any:
        """Evaluate an expression in the page."""
        told = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in told, (script, told["exceptionDetails"])
        return told["result"].get("value")

    def text(self, selector: str) -> str:
        """The text of an element, as it is shown."""
        return str(self.ask(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def until(self, script: str, within_s: float = 30) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + within_s
        while not self.ask(f"Boolean({script})"):
            assert time.monotonic() < deadline, (script, self.ask("document.body.innerText"))
            time.sleep(0.05)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press and release a key."""
        text = {"Enter": "\r", " ": " "}.get(key)
        stroke = {
            "key": key,
            "code": "Space" if key == " " else key,
            "windowsVirtualKeyCode": KEYS[key],
            "modifiers": SHIFT if shift else 0,
        }
        down = (
            {**stroke, "type": "keyDown", "text": text}
            if text
            else {**stroke, "type": "rawKeyDown"}
        )
        self.call("Input.dispatchKeyEvent", **down)
        self.call("Input.dispatchKeyEvent", **stroke, type="keyUp")

    def write(self, text: str) -> None:
        """Type a text where the focus is."""
        self.call("Input.insertText", text=text)

    def tab_to(self, what: str, strokes_max: int = 60) -> None:
        """Press Tab until the element with this id has the focus."""
        for _ in range(strokes_max):
            if self.ask("document.activeElement?.id") == what:
                return
            self.press("Tab")
        raise AssertionError(f"#{what} is not reached by Tab")

    def photograph(self, path: Path, *, whole: bool = False) -> None:
        """Keep what is seen as a PNG; `whole`: the page to its end."""
        taken = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(taken["data"]))

    def complaints(self) -> list[str]:
        """What the browser complained of: errors, and what the policy refused."""
        self.ask("0")  # take in what was said until now
        said = []
        for event in self.events:
            about = event.get("params", {})
            if event["method"] == "Runtime.exceptionThrown":
                said.append(str(about["exceptionDetails"]))
            elif event["method"] == "Log.entryAdded" and about["entry"]["level"] == "error":
                said.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")
            elif event["method"] == "Runtime.consoleAPICalled" and about["type"] == "error":
                said.append(str(about["args"]))
        return said

    def requests(self) -> list[str]:
        """Every address that was asked."""
        self.ask("0")
        asked = [one for one in self.events if one["method"] == "Network.requestWillBeSent"]
        return [one["params"]["request"]["url"] for one in asked]
