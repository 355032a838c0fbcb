"""A headless Chromium, driven over the WebDriver protocol (W3C) with the standard library."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from .host import free_port

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1400,1400",
    # Fonts and scripts from elsewhere fail at once instead of hanging: a test needs nothing but this machine.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)  # fmt: skip


def found() -> tuple[str, str] | None:
    """Chromium and its driver on PATH."""
    chromium = next((path for name in CHROMIUMS if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    return (chromium, driver) if chromium and driver else None


class Browser:
    """One browser window. A context manager: driver and browser end with it."""

    def __enter__(self) -> Browser:
        tools = found()
        if tools is None:
            raise RuntimeError("needs Chromium and chromedriver on PATH")
        port = free_port()
        self.base = f"http://127.0.0.1:{port}"
        self.driver = subprocess.Popen(
            [tools[1], f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )
        self.session = ""
        try:
            self._wait_for_driver()
            options = {"binary": tools[0], "args": list(FLAGS)}
            wanted = {"browserName": "chrome", "goog:chromeOptions": options, "unhandledPromptBehavior": "accept"}
            answer = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            self.session = f"/session/{answer['sessionId']}"
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.session:
                self._ask("DELETE", self.session)
        except OSError:
            pass
        finally:
            self.driver.terminate()
            self.driver.wait(10)

    def open(self, url: str) -> None:
        self._ask("POST", f"{self.session}/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """What the function body `script` returns for `arguments`."""
        return self._ask("POST", f"{self.session}/execute/sync", {"script": script, "args": list(arguments)})

    def shot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self._ask("GET", f"{self.session}/screenshot")))

    def shot_of(self, file: Path, selector: str) -> None:
        """A picture of one element, whatever of it the window shows."""
        box = self.run(
            "const box = document.querySelector(arguments[0]).getBoundingClientRect();"
            "return {x: box.x + scrollX, y: box.y + scrollY, width: box.width, height: box.height}",
            selector,
        )
        params = {"clip": {**box, "scale": 1}, "captureBeyondViewport": True}
        said = self._ask(
            "POST", f"{self.session}/goog/cdp/execute", {"cmd": "Page.captureScreenshot", "params": params}
        )
        file.write_bytes(base64.b64decode(said["data"]))

    def new_tab(self) -> str:
        """Open another tab of this window; `switch` goes to it."""
        return str(self._ask("POST", f"{self.session}/window/new", {"type": "tab"})["handle"])

    def this_tab(self) -> str:
        return str(self._ask("GET", f"{self.session}/window"))

    def switch(self, tab: str) -> None:
        self._ask("POST", f"{self.session}/window", {"handle": tab})

    def close_tab(self, tab: str, then: str) -> None:
        self.switch(tab)
        self._ask("DELETE", f"{self.session}/window")
        self.switch(then)

    def _wait_for_driver(self) -> None:
        end = time.monotonic() + 20
        while True:
            try:
                self._ask("GET", "/status")
                return
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return json.loads(reply.read())["value"]
        except urllib.error.HTTPError as error:
            said = json.loads(error.read())["value"]
            raise RuntimeError(f"{said['error']}: {said['message']}") from None
