"""A service manager as far as a unit can tell: settings from its files, secrets as credentials, a
socket for notifications, a watchdog that wants to be fed. systemd.exec(5), sd_notify(3).
"""

import re
import shlex
import signal
import socket
import struct
import subprocess
import threading
import time
import uuid
from pathlib import Path

from .stack import REPOSITORY
from .wait import wait_until

PACKAGING = REPOSITORY / "packaging"
ETC = Path("/etc/messaging-platform")
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid of a datagram's sender


def unit_files():
    return sorted([*REPOSITORY.glob("*/*.service"), *PACKAGING.glob("*.target")])


def seconds(text):
    return float(re.fullmatch(r"(\d+)s?", text)[1])


class UnitFile:
    def __init__(self, path, instance=""):
        self.path, self.instance = Path(path), instance
        self.name = self.path.name.replace("@.", f"@{instance}.")
        self.pairs = []  # (section, name, value)
        section = None
        for line in self.path.read_text().splitlines():
            if line.startswith("["):
                section = line.strip("[]")
            elif line and line[0] not in "#;":
                name, _, value = line.partition("=")
                self.pairs.append((section, name, value))

    def all(self, name):
        return [value for _, n, value in self.pairs if n == name]

    def one(self, name):
        values = self.all(name)
        assert len(values) == 1, f"{self.name}: {name}={values}"
        return values[0]


def read_environment(path):
    """An EnvironmentFile: NAME=value lines, comments, quotes if need be."""
    values = {}
    for line in path.read_text().splitlines():
        if line.strip() and line.lstrip()[0] not in "#;":
            name, _, value = line.partition("=")
            values[name.strip()] = "".join(shlex.split(value))
    return values


class Service:
    """A unit, run. `etc` stands for /etc/messaging-platform, `binary` for what ExecStart finds,
    `watchdog` for WatchdogSec."""

    def __init__(self, unit, etc, binary, folder, watchdog=None):
        self.unit, self.etc, self.binary = unit, Path(etc), binary
        self.folder = Path(folder) / unit.name
        self.credentials = self.folder / "credentials"
        self.credentials.mkdir(parents=True)
        self.watchdog = watchdog or seconds(unit.one("WatchdogSec"))
        self.notes = []  # (monotonic, text)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._address = f"msg-notify-{uuid.uuid4()}"
        self._socket.bind("\0" + self._address)
        self.log = self.folder / "log"
        self.process = None
        self._load_credentials()

    def _specifiers(self, text):
        for name, value in (("%d", self.credentials), ("%i", self.unit.instance),
                            ("%S", self.folder / "state")):
            text = text.replace(name, str(value))
        assert "%" not in text, text
        return text

    def _load_credentials(self):
        for value in self.unit.all("LoadCredential"):
            name, _, path = value.partition(":")
            for file in (self.etc / Path(path).relative_to(ETC)).iterdir():
                copy = self.credentials / f"{name}_{file.name}"
                copy.write_bytes(file.read_bytes())
                copy.chmod(0o400)

    def environment(self):
        values = {"PATH": f"{self.binary.parent}:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8",
                  "CREDENTIALS_DIRECTORY": str(self.credentials), "NOTIFY_SOCKET": "@" + self._address,
                  "WATCHDOG_USEC": str(int(self.watchdog * 1e6))}
        for text in self.unit.all("Environment"):
            name, _, value = self._specifiers(text).partition("=")
            values[name] = value
        for text in self.unit.all("EnvironmentFile"):
            path = self.etc / Path(self._specifiers(text).removeprefix("-")).relative_to(ETC)
            if path.exists() or not text.startswith("-"):
                values |= read_environment(path)
        return values

    def start(self):
        for state in self.unit.all("StateDirectory"):
            (self.folder / "state" / self._specifiers(state)).mkdir(parents=True)
        command = shlex.split(self._specifiers(self.unit.one("ExecStart")))
        # The shell becomes the program: its pid is the one that the watchdog is meant for.
        script = 'WATCHDOG_PID=$$; export WATCHDOG_PID; exec "$@"'
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(["/bin/sh", "-c", script, "sh", *command], cwd="/",
                                            env=self.environment(), stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=subprocess.STDOUT)
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def _listen(self):
        while True:
            data, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(_CREDENTIALS.size))
            if not data:
                return
            pid = _CREDENTIALS.unpack(ancillary[0][2])[0]
            if pid == self.process.pid:  # NotifyAccess=main
                self.notes += [(time.monotonic(), line) for line in data.decode().splitlines()]

    def close(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.sendto(b"", "\0" + self._address)

    # -- what is seen -----------------------------------------------------------------------------

    def times(self, text, since=0):
        return [at for at, note in list(self.notes) if note == text and at >= since]

    def wait_note(self, text, deadline, since=0):
        return wait_until(lambda: self.times(text, since), deadline,
                          lambda: f"{self.unit.name} says {text}: {self.notes}\n{self.log.read_text()[-2000:]}")

    def extension(self):
        """Seconds that the program has asked for with its last EXTEND_TIMEOUT_USEC, or 0."""
        asked = [note.partition("=")[2] for _, note in list(self.notes)
                 if note.startswith("EXTEND_TIMEOUT_USEC=")]
        return int(asked[-1]) / 1e6 if asked else 0

    def stop(self):
        """SIGTERM, and no longer than the unit allows; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds(self.unit.one("TimeoutStopSec")))
