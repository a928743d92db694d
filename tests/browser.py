"""Debian's Chromium, driven as a person would: by the W3C's WebDriver protocol, which chromedriver speaks."""

import base64
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

from tests.lab.waiting import LabTimeoutError, wait_until
from tests.netns import Netns
from tests.program import Program
from tests.sshd import free_port

SOON = 60.0
"""Seconds that nothing on a page takes on a machine that is busy with other things too."""
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The protocol's name for a reference to an element."""
TAB, ENTER = "\ue004", "\ue007"
PHONE = (360, 740)


class Browser:
    """One window."""

    def __init__(self, driver: str, netns: Netns | None, profile: Path) -> None:
        self._netns = netns
        self._session = driver
        arguments = [
            "--headless",
            "--no-sandbox",  # which root needs
            "--disable-gpu",
            "--hide-scrollbars",
            "--force-color-profile=srgb",
            f"--user-data-dir={profile}",
        ]
        wanted = {"browserName": "chrome", "goog:chromeOptions": {"args": arguments}}
        made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"{driver}/session/{made['sessionId']}"

    # ---- going and looking -------------------------------------------------------------------------------

    def open(self, url: str) -> None:
        """Load a page."""
        self._call("POST", "/url", {"url": url})

    @property
    def url(self) -> str:
        return str(self._call("GET", "/url"))

    def script(self, code: str, *arguments: object) -> Any:
        """What a function body gives in the page."""
        return self._call("POST", "/execute/sync", {"script": code, "args": arguments})

    def text(self, selector: str = "main") -> str:
        """What a person reads there; nothing where it is not shown."""
        code = (
            "const it = document.querySelector(arguments[0]); return it.checkVisibility() ? it.innerText : ''"
        )
        return str(self.script(code, selector))

    def wait_text(self, *texts: str, selector: str = "main") -> str:
        """Wait until a person reads all of these there; all that is read then."""
        said = [""]

        def shows() -> bool:
            said[0] = self.text(selector)
            return all(text in said[0] for text in texts)

        try:
            wait_until(shows, f"the page to say {' and '.join(texts)}", SOON, 0.1)
        except LabTimeoutError as error:
            raise LabTimeoutError(f"{error}; it says:\n{said[0]}") from error
        return said[0]

    # ---- the keyboard ------------------------------------------------------------------------------------

    def press(self, keys: str) -> None:
        """Press keys, one after the other."""
        strokes = [{"type": stroke, "value": key} for key in keys for stroke in ("keyDown", "keyUp")]
        self._call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})

    def focused(self) -> str:
        """What a screen reader calls the element that has the focus."""
        element = self._call("GET", "/element/active")[ELEMENT]
        return str(self._call("GET", f"/element/{element}/computedlabel"))

    def tab_to(self, name: str, most: int = 200) -> None:
        """Press Tab until the element of this name has the focus."""
        passed = []
        for _ in range(most):
            self.press(TAB)
            passed.append(self.focused())
            if passed[-1] == name:
                return
        raise AssertionError(f"Tab never comes to {name!r}, but to {list(dict.fromkeys(passed))}")

    # ---- how it looks ------------------------------------------------------------------------------------

    def be(self, width: int, height: int, *, dark: bool = False, scripts: bool = True) -> None:
        """Have a window of this size, and these wishes."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width <= PHONE[0]}
        self.devtools("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme, still])
        self.devtools("Emulation.setScriptExecutionDisabled", value=not scripts)

    def picture(self, png: Path) -> None:
        """Put what the window shows into a file."""
        png.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))

    def devtools(self, command: str, **parameters: object) -> Any:
        """Chromium's own protocol, for what WebDriver has no word for."""
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def close(self) -> None:
        with contextlib.suppress(requests.RequestException, AssertionError):
            self._call("DELETE", "")

    def _call(self, method: str, path: str, body: object = None) -> Any:
        inside = self._netns.entered() if self._netns else contextlib.nullcontext()
        with inside, requests.Session() as session:
            session.trust_env = False
            data = None if body is None else json.dumps(body)
            answer = session.request(method, self._session + path, data=data, timeout=SOON)
        value = answer.json()["value"]
        assert answer.ok, value["message"]
        return value


@contextlib.contextmanager
def browser(folder: Path, netns: Netns | None = None) -> Iterator[Browser]:
    """A window until the end of the block, in a network namespace or where the test runs."""
    port = 9515 if netns else free_port()
    argv = ["chromedriver", f"--port={port}"]
    with Program(argv, folder / "chromedriver.log", netns=netns) as program:
        url = f"http://127.0.0.1:{port}"
        program.wait_ready(f"{url}/status")
        window = Browser(url, netns, folder / "profile")
        try:
            yield window
        finally:
            window.close()
