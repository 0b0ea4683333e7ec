"""Debian's Kannel with the example of the pages, on ports and in a folder of its own."""

import contextlib
import re
import signal
import socket
import subprocess
from pathlib import Path

import requests

from harness.wait import wait_until

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "kannel.conf"
BEARERBOX, SMSBOX = "/usr/sbin/bearerbox", "/usr/sbin/smsbox"


def free_ports(n):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


def example(values):
    """The example's text with other values: {(group, key): value}. Each has to stand in it."""
    lines, group, left = [], None, dict(values)
    for line in EXAMPLE.read_text().splitlines():
        key, _, value = (part.strip() for part in line.partition("="))
        if key == "group":
            group = value
        if (group, key) in left:
            line = f"{key} = {left.pop((group, key))}"
        lines.append(line)
    assert not left, f"not in the example: {left}"
    return "\n".join(lines) + "\n"


class Kannel:
    """`port`: the centre's. `changes`: more that differs from the example."""

    def __init__(self, folder, port, changes=None):
        self.folder = Path(folder)
        self.admin, self.boxes, self.sendsms = free_ports(3)
        for name in ("store", "dlr", "log"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.config = self.folder / "kannel.conf"
        self.config.write_text(example({
            ("core", "admin-port"): self.admin, ("core", "smsbox-port"): self.boxes,
            ("smsbox", "sendsms-port"): self.sendsms, ("smsc", "port"): port,
            ("core", "log-file"): self.folder / "log" / "bearerbox.log",
            ("smsbox", "log-file"): self.folder / "log" / "smsbox.log",
            ("core", "store-location"): self.folder / "store", ("core", "dlr-spool"): self.folder / "dlr",
            ("smsc", "reconnect-delay"): 1, **(changes or {})}))
        self.processes = {}

    @property
    def url(self):
        return f"http://127.0.0.1:{self.sendsms}/cgi-bin/sendsms"

    # -- lifetime ---------------------------------------------------------------------------------

    def start(self):
        """Both, and the link is bound."""
        self._run("bearerbox", BEARERBOX)
        wait_until(self.bound, 30, "bearerbox is bound to the centre")
        self.start_smsbox()
        return self

    def start_smsbox(self):
        self._run("smsbox", SMSBOX)
        wait_until(lambda: re.search(r"smsbox:.*on-line", self.status()) and self._sends(), 30, "smsbox is there")

    def _run(self, name, program):
        with open(self.folder / "log" / f"{name}.out", "ab") as log:
            self.processes[name] = subprocess.Popen([program, "-v", "2", self.config], stdin=subprocess.DEVNULL, stdout=log,
                                                    stderr=subprocess.STDOUT, cwd=self.folder)

    def _sends(self):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.sendsms), 1).close()
            return True
        return False

    def kill(self, *names):
        """At once, as a power cut; both when none is named."""
        for name in names or ("smsbox", "bearerbox"):
            self.processes[name].kill()
            self.processes.pop(name).wait()

    def stop(self):
        """As an init script does: smsbox first."""
        for name in ("smsbox", "bearerbox"):
            process = self.processes.pop(name, None)
            if process and process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    # -- what it says -----------------------------------------------------------------------------

    def status(self):
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"http://127.0.0.1:{self.admin}/status.txt", params={"password": "CHANGE-admin"},
                                timeout=5).text
        return ""

    def bound(self):
        return re.search(r"^\s*carrier\[.*\(online ", self.status(), re.MULTILINE)

    def queued(self):
        """Texts that it has and the centre has not."""
        return sum(map(int, re.findall(r"SMS: received .* sent \d+ \((\d+) queued\), store size (\d+)", self.status())[0]))

    def outstanding(self):
        """Receipts that it waits for."""
        return int(re.search(r"DLR: (\d+) queued", self.status())[1])

    def send(self, to, text, dlr_url, **more):
        """As the operator's file does; the answer."""
        return requests.get(self.url, timeout=30, params={
            "username": "messaging", "password": "CHANGE-send", "from": "12345", "to": to, "text": text,
            "charset": "UTF-8", "dlr-mask": "3", "dlr-url": dlr_url, **more})
