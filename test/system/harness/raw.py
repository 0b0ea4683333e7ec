"""A daemon's HTTP server alone, and clients that say exactly what they are told."""

import os
import re
import resource
import select
import socket
import subprocess
import time
import urllib.request

from .stack import binary

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
CLOSE = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

# Crowds of clients are made here.
_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES[1], _FILES[1]))

# What a daemon has to know of servers that it goes without here.
ELSEWHERE = {"api": {"DB_PASSWORD": "x", "DB_HOST": "127.0.0.1", "DB_PORT": "1", "RABBIT_URI": "amqp://127.0.0.1:1/"}}


class Server:
    def __init__(self, kind="operator-sim", files=None, log=subprocess.DEVNULL, source="127.0.0.1", **settings):
        self.source = source
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        env = {"PATH": os.environ["PATH"], "LISTEN_ADDR": f"127.0.0.1:{self.port}",
               "HTTP_READ_TIMEOUT_MS": "1000", "HTTP_WRITE_TIMEOUT_MS": "1000",
               "HTTP_IDLE_TIMEOUT_MS": "30000", "CORE_DUMPS": "true",  # its memory is looked at
               **ELSEWHERE.get(kind, {}), **{k: str(v) for k, v in settings.items()}}
        limit = None if files is None else \
            lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
        self.process = subprocess.Popen([binary(kind)], env=env, preexec_fn=limit, stdout=log)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                self.healthy()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"{kind} does not answer")

    def dial(self, timeout=10):
        return socket.create_connection(("127.0.0.1", self.port), timeout, (self.source, 0))

    def healthy(self, timeout=10):
        """Seconds that a plain request took on a connection of its own."""
        began = time.monotonic()
        with self.dial(timeout) as s:
            s.sendall(CLOSE)
            assert read_all(s).startswith(b"HTTP/1.1 200")
        return time.monotonic() - began

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return answer.read().decode()

    def metric(self, name):
        """The sum over all label sets."""
        lines = re.findall(rf"^{name}(?:{{.*}})? (.+)$", self.get("/metrics"), re.MULTILINE)
        return sum(map(float, lines))

    def cpu_seconds(self):
        fields = open(f"/proc/{self.process.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mib(self):
        """0 under a sanitizer, which keeps freed memory."""
        return self._memory_mib("VmRSS")

    def peak_mib(self):
        return self._memory_mib("VmHWM")

    def _memory_mib(self, field):
        if re.search(r"/lib[at]san", open(f"/proc/{self.process.pid}/maps").read()):
            return 0
        status = open(f"/proc/{self.process.pid}/status").read()
        return int(re.search(rf"{field}:\s+(\d+)", status)[1]) / 1024

    def stop(self):
        self.process.terminate()
        return self.process.wait(30)


def read_all(s):
    """Until the other side closes; a reset counts as a close."""
    data = b""
    try:
        while chunk := s.recv(65536):
            data += chunk
    except ConnectionResetError:
        pass
    return data


def cut_off(connections, deadline):
    """How many of the connections the server ends within the deadline (seconds)."""
    alive, end = set(connections), time.monotonic() + deadline
    while alive and time.monotonic() < end:
        for s in select.select(list(alive), [], [], 0.2)[0]:
            try:
                if not s.recv(65536):
                    alive.discard(s)
            except OSError:
                alive.discard(s)
    return len(connections) - len(alive)


def send_in_segments(s, data, rng):
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    longest = rng.choice([1, 3, 20, 200, len(data)])
    while data:
        n = rng.randrange(1, longest + 1)
        try:
            s.sendall(data[:n])
        except OSError:  # refused already
            return
        data = data[n:]
