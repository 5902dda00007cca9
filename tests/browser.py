"""Headless Chromium for tests, through its DevTools pipe: JSON messages that end in NUL.

Every error that the page reports and every request that it makes is kept, so that a test can insist
on none.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
TIMEOUT_S = 180  # a machine that others use too may be slow to start a browser
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-extensions", "--remote-debugging-pipe",
)  # fmt: skip


class Page:
    """One tab.

    Attributes:
      errors: what the console got as an error, uncaught exceptions and refused requests included.
      requests: URLs other than the page's own and data: ones.
    """

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._to, self._from = to_browser, from_browser
        self._buffer, self._last_id, self._session = b"", 0, ""
        self._url, self._loaded = "", False
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, path: Path, *, width: int = 1280, dark: bool = False) -> None:
        """Loads a local file in a window of that width and waits for its load event."""
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1,
            mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._url, self._loaded = path.resolve().as_uri(), False
        self._call("Page.navigate", url=self._url)
        end = time.monotonic() + TIMEOUT_S
        while not self._loaded:
            self._event(self._read(end))

    def evaluate(self, script: str) -> Any:
        """The JSON value of an expression, awaited."""
        got = self._call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in got, got["exceptionDetails"]
        return got["result"].get("value")

    def press(self, key: str, text: str = "") -> None:
        """A key, down and up."""
        code = {"Enter": 13, "Tab": 9}[key]
        for kind in ("keyDown", "keyUp"):
            self._call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key,
                windowsVirtualKeyCode=code, text=text if kind == "keyDown" else "",
            )  # fmt: skip

    def count_processor_time(self) -> None:
        """From now on, of the page's main thread."""
        self._call("Performance.enable", timeDomain="threadTicks")

    def processor_seconds(self) -> float:
        """What parsing, scripts, layout and painting have taken so far."""
        metrics = self._call("Performance.getMetrics")["metrics"]
        return float(next(one["value"] for one in metrics if one["name"] == "TaskDuration"))

    def close(self) -> None:
        """Asks the browser to end."""
        self._session = ""
        self._call("Browser.close")

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """A PNG of the page, or of what the window shows."""
        got = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(got["data"]))

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + TIMEOUT_S
        while (answer := self._read(end)).get("id") != self._last_id:
            self._event(answer)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _read(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"chromium did not answer in {TIMEOUT_S} s"
            part = os.read(self._from, 1 << 20)
            assert part, "chromium ended"
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def _event(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if url.split("#")[0] != self._url and not url.startswith(("data:", "about:")):
                self.requests.append(url)


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A page of a browser whose profile lies in an empty folder."""
    assert PROGRAM is not None
    command_read, command_write = os.pipe()
    answer_read, answer_write = os.pipe()
    # Chromium reads from descriptor 3 and writes to 4: a shell puts them there.
    theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (command_read, answer_write)]
    place = 'exec "$0" "$@" 3<&{} 4>&{}'.format(*theirs)
    process = subprocess.Popen(
        ["bash", "-c", place, PROGRAM, *_FLAGS, f"--user-data-dir={profile}"],
        pass_fds=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for end in (command_read, answer_write, *theirs):
        os.close(end)
    try:
        page = Page(command_write, answer_read)
        yield page
        page.close()
        process.wait(TIMEOUT_S)
    finally:
        process.kill()
        process.wait()
        os.close(command_write)
        os.close(answer_read)
