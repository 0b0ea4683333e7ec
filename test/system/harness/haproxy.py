"""HAProxy before two msg-api, with the configuration that docs/upgrade.md tells to use."""

import os
import socket
import subprocess
from pathlib import Path

from .fronts import HAPROXY, free_port
from .stack import REPOSITORY
from .wait import wait_until

CONFIGURATION = REPOSITORY / "docs" / "examples" / "haproxy.cfg"
WRETR, WREDIS = "wretr", "wredis"  # of its statistics: tries again, and those at another server


class Haproxy:
    def __init__(self, folder, *urls):
        self.address = f"127.0.0.1:{free_port()}"
        self.control = Path(folder) / "haproxy.sock"
        extra = Path(folder) / "statistics.cfg"
        extra.write_text(f"global\n  stats socket {self.control} level user\n")
        environ = {**os.environ, "FRONT": self.address,
                   **{f"API_{i}": url.removeprefix("http://") for i, url in enumerate(urls, 1)}}
        self.log = open(Path(folder) / "haproxy.log", "ab")
        self.process = subprocess.Popen([HAPROXY, "-db", "-f", str(CONFIGURATION), "-f", str(extra)], env=environ,
                                        stdout=self.log, stderr=subprocess.STDOUT)
        wait_until(self.ready, 10, "HAProxy has found a server")

    def statistics(self):
        """{server: {column: text}} of the backend."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(5)
            s.connect(str(self.control))
            s.sendall(b"show stat\n")
            text = b"".join(iter(lambda: s.recv(65536), b"")).decode()
        names, *rows = [line.lstrip("# ").split(",") for line in text.splitlines() if line]
        return {row[1]: dict(zip(names, row)) for row in rows if row[0] == "api"}

    def ready(self):
        assert self.process.poll() is None, Path(self.log.name).read_text()
        return self.control.exists() and self.statistics()["BACKEND"]["status"] == "UP"

    def repeats(self):
        """How often it has tried again what it had no answer to."""
        rows = self.statistics()
        return sum(int(row[WRETR] or 0) + int(row[WREDIS] or 0) for name, row in rows.items() if name == "BACKEND")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)
        self.log.close()
