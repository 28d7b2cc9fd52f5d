"""Chromium without a window, driven over the DevTools protocol by its pipe: no library, no port.

`check` looks at a page as a person would who cannot see well, uses no mouse, or holds a telephone. Any address will do,
also that of a file.
"""

from __future__ import annotations

import base64
import json
import os
import selectors
import shutil
import subprocess
import sys
import time
from collections import deque
from contextlib import contextmanager, suppress
from pathlib import Path

DEADLINE_SECONDS = 60.0
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
)  # fmt: skip
# The protocol's pipe: the browser reads from descriptor 3 and writes to 4.
_START = "import os, sys; a = sys.argv; os.dup2(int(a[1]), 3); os.dup2(int(a[2]), 4); os.execv(a[3], a[3:])"
CHECKS = (Path(__file__).parent / "checks.js").read_text()


def chromium() -> str | None:
    """Where Chromium is; None: nowhere."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """The process and its pipe."""

    def __init__(self, process: subprocess.Popen[bytes], to: int, fro: int) -> None:
        self._process, self._to, self._fro = process, to, fro
        self._left, self._count = b"", 0
        self._events: deque[dict] = deque()
        self._wait = selectors.DefaultSelector()
        self._wait.register(fro, selectors.EVENT_READ)

    def ask(self, method: str, session: str = "", **params: object) -> dict:
        """Call a method of the protocol; its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            found = self._read()
            if found.get("id") == self._count:
                assert "error" not in found, f"{method}: {found['error']}"
                return found["result"]
            self._events.append(found)

    def event(self, session: str, *methods: str) -> dict:
        """The next event of one of these kinds; others are kept."""
        while True:
            for found in list(self._events):
                if found.get("sessionId") == session and found.get("method") in methods:
                    self._events.remove(found)
                    return found
            self._events.append(self._read())

    def events(self, session: str, *methods: str) -> list[dict]:
        """The events of these kinds that have come, in order; they are taken."""
        found = [e for e in self._events if e.get("sessionId") == session and e.get("method") in methods]
        self._events = deque(e for e in self._events if e not in found)
        return found

    def _read(self) -> dict:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while b"\0" not in self._left:
            assert self._wait.select(deadline - time.monotonic()), "Chromium does not answer"
            chunk = os.read(self._fro, 1 << 20)
            assert chunk, "Chromium has ended"
            self._left += chunk
        message, _, self._left = self._left.partition(b"\0")
        return json.loads(message)

    @contextmanager
    def page(self, url: str, *, width: int, height: int = 900, dark: bool = False, script: bool = True):
        """A page of that size and colour scheme, loaded."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        found = Page(self, session, width)
        for domain in ("Page", "Runtime", "Log"):
            found.ask(f"{domain}.enable")
        found.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        found.ask("Emulation.setEmulatedMedia", features=features)
        found.ask("Emulation.setScriptExecutionDisabled", value=not script)
        found.ask("Page.navigate", url=url)
        self.event(session, "Page.loadEventFired")
        try:
            yield found
        finally:
            self.ask("Target.closeTarget", targetId=target)


class Page:
    """One page."""

    def __init__(self, browser: Browser, session: str, width: int) -> None:
        self._browser, self._session, self.width = browser, session, width

    def ask(self, method: str, **params: object) -> dict:
        return self._browser.ask(method, self._session, **params)

    def run(self, code: str) -> object:
        """What an expression comes to; a promise is waited for."""
        found = self.ask("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, code: str, what: str) -> object:
        """Wait in the page, frame by frame, until the expression is true; what it came to."""
        wait = f"""new Promise((done, fail) => {{
            const end = performance.now() + {DEADLINE_SECONDS * 1000};
            const look = () => {{ const found = ({code}); if (found) done(found);
                else if (performance.now() > end) fail({json.dumps(what + " did not come about")});
                else setTimeout(look, 30); }};
            look(); }})"""
        return self.run(wait)

    def press(self, key: str) -> None:
        """Press a key and let go."""
        codes = {"Tab": 9, "Enter": 13}
        for kind in ("rawKeyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key])

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": self.width, "height": min(size["height"], 8000), "scale": 1}
        data = self.ask("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        path.write_bytes(base64.b64decode(data))

    def errors(self) -> list[str]:
        """What the console was told of errors and warnings, and exceptions that nobody caught."""
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        self.run("0")  # what was told before has arrived when this answers
        found = []
        for event in self._browser.events(self._session, *kinds):
            p = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(str(p["exceptionDetails"].get("exception", p["exceptionDetails"]).get("description", p)))
            elif event["method"] == "Log.entryAdded" and p["entry"]["level"] in ("error", "warning"):
                found.append(f"{p['entry']['level']}: {p['entry']['text']} {p['entry'].get('url', '')}")
            elif event["method"] == "Runtime.consoleAPICalled" and p["type"] in ("error", "warning", "assert"):
                found.append(str(p["args"]))
        return found


@contextmanager
def open_browser(folder: Path):
    """A browser with a new profile in `folder`, ended however this ends."""
    place = chromium()
    assert place is not None
    there, to = os.pipe()
    fro, back = os.pipe()
    command = [sys.executable, "-c", _START, str(there), str(back), place, *FLAGS, f"--user-data-dir={folder}"]
    with (folder.parent / f"{folder.name}.log").open("wb") as log:
        process = subprocess.Popen(command, pass_fds=(there, back), stdout=log, stderr=log)
    os.close(there)
    os.close(back)
    browser = Browser(process, to, fro)
    try:
        yield browser
        with suppress(AssertionError, OSError):
            browser.ask("Browser.close")
        process.wait(20)
    finally:
        process.kill()
        process.wait()
        os.close(to)
        os.close(fro)


def check(page: Page) -> list[str]:
    """Every fault of a page as it stands: layout, contrast, structure, references, console, keyboard."""
    found = list(page.run(f"({CHECKS})({page.width})"))
    found += [f"console: {text}" for text in page.errors()]
    return found + keyboard(page)


def keyboard(page: Page) -> list[str]:
    """Does Tab reach everything that can be used or scrolled, in order, and is it seen where it is?"""
    wanted = page.run("window.fleetFocusable().map(e => e.dataset.fleet = window.fleetName(e))")
    page.run("document.activeElement?.blur?.(); window.scrollTo(0, 0)")
    reached, faults = [], []
    for _ in range(len(wanted) + 1):
        page.press("Tab")
        name, seen = page.run("window.fleetFocused()")
        if not name or name in reached:
            break
        reached.append(name)
        if not seen:
            faults.append(f"keyboard: {name} has the focus and nothing shows it")
    faults += [f"keyboard: Tab does not reach {name}" for name in wanted if name not in reached]
    return faults if reached == wanted or faults else [f"keyboard: the order is {reached}, not {wanted}"]
