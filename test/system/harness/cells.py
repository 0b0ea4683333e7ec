"""Two cells, each a stack with a database and queues of its own, behind HAProxy with the configuration that
docs/scale.md shows, and the verbs that move customers between them."""

import hashlib
import os
import socket
import subprocess

import requests

from .fronts import HAPROXY, free_port
from .keys import KeyedApi
from .stack import REPOSITORY
from .wait import wait_until

EXAMPLE = REPOSITORY / "docs" / "examples" / "haproxy-cells.cfg"
DATABASE = ("DB_HOST", "DB_PORT", "DB_NAME", "DB_USER_NAME", "DB_PASSWORD")
TOPOLOGY = ("RABBIT_MESSAGE_EXCHANGE", "EXPRESS_QUEUE", "NORMAL_QUEUE")


class Cells:
    """`a`, `b`: the stacks. `front`: HAProxy before both, an Api without a key."""

    def __init__(self, world, folder, **options):
        self.folder = folder / "cells"
        self.folder.mkdir()
        self.front = self.process = None
        self.stacks = {}
        for name in ("a", "b"):
            stack = world("operator-a", API_AUTH="required", API_KEY_CELL=name, CELLS_DIR=self.folder, **options)
            stack.settings["RECEIPTS_PUBLIC_URL"] = stack.url("api-1")  # known when its ports are
            self.stacks[name] = stack.up()
        for name, stack in self.stacks.items():
            wanted = [key for key in (*DATABASE, *TOPOLOGY) if key in stack.values]
            (self.folder / f"{name}.env").write_text(
                "# as that cell's own daemons have it\n" + "".join(f"{key}={stack.values[key]}\n" for key in wanted))

    @property
    def a(self):
        return self.stacks["a"]

    @property
    def b(self):
        return self.stacks["b"]

    # -- the verbs ----------------------------------------------------------------------------------

    def command(self, cell, *words, **settings):
        stack = self.stacks[cell]
        environ = {"API_KEY_CELL": cell, "CELLS_DIR": str(self.folder), "PATH": os.environ["PATH"],
                   **{key: stack.values[key] for key in (*DATABASE, *TOPOLOGY) if key in stack.values},
                   **{key: str(value) for key, value in settings.items()}}
        return [stack.binary("api"), *words], environ

    def verb(self, cell, *words, code=0, **settings):
        """The finished `msg-api …` of a cell; code None: whatever it ends with."""
        command, environ = self.command(cell, *words, **settings)
        try:
            done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
        except subprocess.TimeoutExpired as e:
            raise AssertionError((words, e.stdout, e.stderr)) from e
        assert code is None or done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        return done

    def move(self, customer, here="a", there="b", code=0, **settings):
        return self.verb(here, "customer", "move", str(customer), f"--to={there}", code=code, **settings)

    def key(self, cell, scopes="send,read,topup,webhooks", customer=None):
        words = [f"--label=test of {cell}", f"--scopes={scopes}", *([f"--customer={customer}"] if customer else [])]
        key = self.verb(cell, "key", "create", *words).stdout.strip()
        assert key.startswith(f"msg_{cell}_"), key
        api = KeyedApi(self.stacks[cell].url("api-1"), key)
        wait_until(lambda: api.get("/balance", user_id=customer or 1).status_code not in (401, 503), 10,
                   "the key is known")
        return key

    def state(self, cell, customer):
        rows = self.stacks[cell].db.rows("SELECT state FROM customer_moves WHERE customer_id=%s", customer)
        return rows[0][0] if rows else 0

    # -- the proxy ----------------------------------------------------------------------------------

    def open(self):
        self.port, self.socket = free_port(), self.folder / "haproxy.sock"
        self.write_maps()
        environ = {**os.environ, "HAPROXY_LISTEN": f"127.0.0.1:{self.port}", "HAPROXY_SOCKET": str(self.socket),
                   "HAPROXY_MAPS": str(self.folder)}
        for name, stack in self.stacks.items():
            for i in (1, 2):  # one replica stands for both
                environ[f"CELL_{name.upper()}_{i}"] = stack.url("api-1").removeprefix("http://")
        with open(self.folder / "haproxy.log", "wb") as out:
            self.process = subprocess.Popen([HAPROXY, "-f", str(EXAMPLE)], env=environ, stdout=out,
                                            stderr=subprocess.STDOUT)
        self.url = f"http://127.0.0.1:{self.port}"
        wait_until(self.is_open, 15, lambda: (self.folder / "haproxy.log").read_text())
        return self

    def is_open(self):
        try:
            return requests.get(self.url + "/healthz", timeout=2).status_code == 200
        except requests.ConnectionError:
            return False

    def write_maps(self):
        for name in ("keys", "customers"):
            lines = "".join(self.verb(cell, "customer", "map", name).stdout for cell in self.stacks)
            (self.folder / f"{name}.map").write_text(lines)

    def tell(self, line):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(self.socket))
            s.sendall(line.encode() + b"\n")
            return s.makefile().read()

    def update_maps(self):
        """As docs/scale.md says: the files for the next start, the running proxy through its socket."""
        self.write_maps()
        for name in ("keys", "customers"):
            file = self.folder / f"{name}.map"
            self.tell(f"clear map {file}")
            for line in file.read_text().splitlines():
                self.tell(f"add map {file} {line}")

    def api(self, key):
        return KeyedApi(self.url, key)

    def close(self):
        if self.process:
            assert self.process.poll() is None, (self.folder / "haproxy.log").read_text()
            self.process.terminate()
            self.process.wait(30)


def digest(key):
    return hashlib.sha256(key.encode()).hexdigest().upper()
