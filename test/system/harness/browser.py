"""A headless Chromium, driven through chromedriver's WebDriver calls. It resolves no name: whatever a
page wants from another host fails, and shows in requests().
"""

import base64
import json
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import requests

from .wait import wait_until

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # WebDriver's key of an element's reference
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--hide-scrollbars", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-proxy-server",
         "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"]


def available():
    return shutil.which("chromedriver") and shutil.which("chromium")


class Browser:
    def __init__(self, dark=False):
        self._home = tempfile.mkdtemp(prefix="msg-browser-")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}"
        self._driver = subprocess.Popen(
            ["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=dict(os.environ, HOME=self._home, TMPDIR=self._home))
        try:
            wait_until(self._ready, 30, lambda: "chromedriver answers")
            flags = [*FLAGS, f"--user-data-dir={self._home}/profile"]
            if dark:
                flags.append("--blink-settings=preferredColorScheme=0")
            answer = self._call("POST", "/session", {"capabilities": {"alwaysMatch": {
                "browserName": "chrome", "goog:chromeOptions": {"args": flags},
                "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"}}}}, session=False)
            self._session = f"/session/{answer['sessionId']}"
        except BaseException:
            self.close()
            raise

    def _ready(self):
        try:
            return requests.get(self._url + "/status", timeout=5).json()["value"]["ready"]
        except requests.ConnectionError:
            return False

    def _call(self, method, path, body=None, session=True):
        url = self._url + (self._session if session else "") + path
        answer = requests.request(method, url, json=body, timeout=60).json()["value"]
        if isinstance(answer, dict) and answer.get("error"):
            raise AssertionError(f"{path}: {answer['error']}: {answer['message'].splitlines()[0]}")
        return answer

    def close(self):
        try:
            if getattr(self, "_session", None):
                self._call("DELETE", "")
        finally:
            self._driver.terminate()
            self._driver.wait(30)
            shutil.rmtree(self._home, ignore_errors=True)

    def resize(self, width, height):
        """The size of what is shown, whatever a window may be at least."""
        self._call("POST", "/goog/cdp/execute", {
            "cmd": "Emulation.setDeviceMetricsOverride",
            "params": {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}})

    def open(self, url):
        self._call("POST", "/url", {"url": url})

    def run(self, script, *arguments):
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def text(self, selector="body"):
        return self.run("const e = document.querySelector(arguments[0]); return e && e.innerText",
                        selector) or ""

    def find(self, selector, deadline=30):
        """The element, once it is there."""
        found = []

        def there():
            found[:] = self._call("POST", "/elements", {"using": "css selector", "value": selector})
            return found

        wait_until(there, deadline, lambda: f"{selector} in the page: {self.text()[:2000]}")
        return found[0][ELEMENT]

    def click(self, selector):
        self._call("POST", f"/element/{self.find(selector)}/click", {})

    def fill(self, selector, text):
        element = self.find(selector)
        self._call("POST", f"/element/{element}/clear", {})
        self._call("POST", f"/element/{element}/value", {"text": text})

    def wait_text(self, selector, check, deadline=30):
        """The text of the element, once check(text) holds."""
        seen = []

        def holds():
            seen[:] = [self.text(selector)]
            return check(seen[0])

        wait_until(holds, deadline, lambda: f"{selector} shows {seen}")
        return seen[0]

    def requests(self):
        """URLs that pages have asked for since the last call."""
        entries = self._call("POST", "/se/log", {"type": "performance"})
        messages = [json.loads(e["message"])["message"] for e in entries]
        return [m["params"]["request"]["url"] for m in messages
                if m["method"] == "Network.requestWillBeSent"]

    def complaints(self):
        """What the console says at warning and above: blocked by policy, failed, thrown."""
        return [e["message"] for e in self._call("POST", "/se/log", {"type": "browser"})
                if e["level"] in ("WARNING", "SEVERE")]

    def picture(self, path):
        Path(path).write_bytes(base64.b64decode(self._call("GET", "/screenshot")))
