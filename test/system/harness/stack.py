"""A stack of compose/local as an object; every test that breaks things has its own."""

import contextlib
import functools
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import requests

from . import keys
from .client import Api
from .metrics import Metrics
from .operators import Operator
from .wait import wait_until
from .witness import Broker, Database

REPOSITORY = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(REPOSITORY / "compose"))
from localstack.config import Config  # noqa: E402
from localstack.services import rabbitmq_program  # noqa: E402
from localstack.stack import Stack as Services  # noqa: E402

LOCAL = str(REPOSITORY / "compose" / "local")
BUILD = Path(os.environ.get("BUILD_DIR") or REPOSITORY / "build").resolve()
PORT_SPAN = 70

# Tests name the settings they are about; limits that are not the subject are out of the way.
UNLIMITED = {"GLOBAL_RATE_LIMIT_RPS": "0", "USER_RATE_LIMIT_RPS": "0", "USER_READ_LIMIT_RPS": "0",
             "AUTH_FAILURE_RATE_LIMIT_RPS": "0",
             "BACKPRESSURE_OUTBOX_PENDING_THRESHOLD": "1000000"}

# With API_AUTH=required in the environment every stack whose test says nothing else asks for keys; `key` is one.
KEYS_ASKED = os.environ.get("API_AUTH") == "required"

# What a sanitizer or valgrind says when it has found something.
COMPLAINT = re.compile(r"^.*(?:ERROR: \w+Sanitizer|WARNING: \w+Sanitizer|runtime error: |"
                       r"definitely lost: [1-9]|ERROR SUMMARY: [1-9]).*$", re.MULTILINE)


class PortRange:
    """PORT_SPAN free ports, reserved against other runs on this machine by holding the last one."""

    BASES = range(25000, 32500, 100)
    candidates = itertools.cycle(BASES)  # goes round: what was used long ago has had time to close

    def __init__(self):
        for base in itertools.islice(PortRange.candidates, len(self.BASES)):
            guard = socket.socket()
            try:
                guard.bind(("127.0.0.1", base + PORT_SPAN - 1))
                guard.listen()
                if all(self._free(base + i) for i in range(PORT_SPAN - 1)):
                    self.base, self._guard = base, guard
                    return
            except OSError:
                pass
            guard.close()
        raise RuntimeError("no free range of ports")

    @staticmethod
    def _free(port):
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                return False
        return True

    def release(self):
        self._guard.close()


class Stack:
    """`backends`: another Stack whose MariaDB and RabbitMQ are used (own database and queues).
    `build`: the folder whose programs it runs. `carriers`: the operators, instead of the simulators.
    `servers`: what compose/local is to know of its own servers (MARIADB_OPTIONS, RABBIT_CONF)."""

    def __init__(self, name, backends=None, replicas=1, settings=None, build=BUILD, carriers=(), servers=None):
        self.name = name
        self.carriers = list(carriers)
        self.build = build
        self.backends = backends
        self.ports = PortRange()
        self.directory = tempfile.mkdtemp(prefix=f"msg-{name}-")
        self.state = os.path.join(self.directory, "state")
        self.replicas = replicas if isinstance(replicas, dict) else dict.fromkeys(
            ("api", "outboxd", "consumerd"), replicas)
        self.settings = {**UNLIMITED, **{k: str(v) for k, v in (settings or {}).items()}}
        if carriers:
            self.settings.setdefault("OPERATORS", ",".join(f"{c.name}={c.url}" for c in carriers))
        self.servers = servers or {}
        self.foreground = []
        self._values = None
        self.asks_keys = KEYS_ASKED and "API_AUTH" not in self.settings

    # -- lifetime ---------------------------------------------------------------------------------

    def _environ(self):
        environ = dict(os.environ, STATE_DIR=self.state, PORT_BASE=str(self.ports.base),
                       BUILD_DIR=str(self.build), **self.servers)
        for kind, count in self.replicas.items():
            environ[f"{kind.upper()}_REPLICAS"] = str(count)
        environ.pop("API_PORT", None)
        return environ

    def local(self, *words, timeout=180):
        done = subprocess.run([LOCAL, *words], env=self._environ(), stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=timeout)
        if done.returncode:
            raise AssertionError(f"compose/local {' '.join(words)} failed:\n{done.stdout}")
        return done.stdout

    @property
    def services(self):
        """What compose/local works with, for the verbs that start nothing: a process for each costs more than the verb.
        (What is started is not to be our child: nobody would wait for it.)"""
        return Services(Config(self.state, os.environ))

    def up(self, *names):
        options = ["--backends", self.backends.state] if self.backends else []
        self.local("up", *options, *names, *(f"{k}={v}" for k, v in self.settings.items()))
        self._values = None
        if self.asks_keys and self._running_apis():
            self.key  # noqa: B018 - made while the database is well
        return self

    def purge(self):
        """Stops and removes everything; fails when a sanitizer or valgrind had something to say."""
        try:
            for process in self.foreground:
                if process.poll() is None:
                    process.terminate()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(30)
                process.kill()
                process.wait()
            services = self.services
            if services.config.exists:
                with services.lock():
                    services.stop(services.resolve(["daemons", "operators"]))
            complaints = [f"{name}: {line}" for name, text in self._logs()
                          for line in COMPLAINT.findall(text)]
            for name, text in self._logs():
                if COMPLAINT.search(text) and os.environ.get("REPORTS"):
                    with open(os.path.join(os.environ["REPORTS"], f"{self.name}.{name}"), "w") as f:
                        f.write(text)
            if services.config.exists:
                with services.lock():
                    services.down(purge=True)
        finally:
            self.ports.release()
            if not os.environ.get("KEEP_STATE"):
                shutil.rmtree(self.directory, ignore_errors=True)
        assert not complaints, complaints[:10]

    # -- single services --------------------------------------------------------------------------

    def start(self, name, **settings):
        self.local("start", name, *(f"{k}={v}" for k, v in settings.items()))
        self._values = None

    def start_without_waiting(self, name, **settings):
        self.local("start", "--no-wait", name, *(f"{k}={v}" for k, v in settings.items()))
        self._values = None

    def stop(self, name):
        services = self.services
        with services.lock():
            services.stop(services.resolve([name]))

    def kill(self, name):
        services = self.services
        with services.lock():
            services.kill(services.resolve([name]))

    def restart(self, name, **settings):
        self.local("restart", name, *(f"{k}={v}" for k, v in settings.items()))

    @contextlib.contextmanager
    def paused(self, name):
        services = self.services
        services.signal(services.resolve([name]), signal.SIGSTOP)
        try:
            yield
        finally:
            services.signal(services.resolve([name]), signal.SIGCONT)

    def run(self, name, **settings):
        """A daemon as our own child, so that its exit code can be seen."""
        log = open(os.path.join(self.directory, f"{name}.foreground.log"), "ab")
        process = subprocess.Popen([LOCAL, "run", name, *(f"{k}={v}" for k, v in settings.items())],
                                   env=self._environ(), stdout=log, stderr=subprocess.STDOUT)
        log.close()
        self.foreground.append(process)
        return process

    # -- what is inside ---------------------------------------------------------------------------

    @property
    def values(self):
        if self._values is None:
            self._values = self.services.environment()
        return self._values

    def pid(self, name):
        self._values = None
        return int(self.values["PID_" + name.upper().replace("-", "_")] or 0)

    def url(self, name):
        kind, _, index = name.rpartition("-")
        offset = {"api": 10, "outboxd": 30, "consumerd": 50}[kind]
        return f"http://127.0.0.1:{self.ports.base + offset + int(index) - 1}"

    def status(self, name, path="/readyz"):
        """The HTTP status of a daemon's probe; None while nobody listens."""
        try:
            return requests.get(self.url(name) + path, timeout=5).status_code
        except requests.ConnectionError:
            return None

    def binary(self, kind):
        return binary(kind, self.build)

    @functools.cached_property
    def key(self):
        """One that may do everything, known to the replicas that run; None where nobody is asked."""
        if not self.asks_keys:
            return None
        key = keys.verb(self, "bootstrap").stdout.strip()
        assert key, f"{self.name} has an admin key already"
        for url in self._running_apis():
            if self.settings.get("API_METRICS", "open") == "open":  # no limit and no trace is concerned
                wait_until(lambda url=url: Metrics.of(url).value("msg_api_keys"), 10, "the key is known")
            else:
                keys.wait_known(keys.KeyedApi(url, key))
        return key

    def _running_apis(self):
        return [self.url(f"api-{name.rpartition('_')[2]}") for name, pid in self.values.items()
                if name.startswith("PID_API_") and pid]

    @property
    def headers(self):
        """What brings the key."""
        return keys.headers(self.key)

    @property
    def header_lines(self):
        """The same as bytes of a request."""
        return b"".join(f"{name}: {value}\r\n".encode() for name, value in self.headers.items())

    def api(self, index=1):
        return Api(self.url(f"api-{index}"), self.headers)

    def apis(self):
        return [self.api(i) for i in range(1, self.replicas["api"] + 1)]

    def database_root(self, sql, database=""):
        """What its MariaDB's own administrator may do; through the socket, whatever the network does."""
        done = subprocess.run(["mariadb", "--no-defaults", "--user=root", "--socket=mysql.sock", "--batch",
                               "--skip-column-names", database], cwd=self._data, input=sql, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
        assert done.returncode == 0, done.stdout
        return done.stdout

    @property
    def _data(self):
        return Path((self.backends or self).state) / "mariadb" / "data"

    def dump(self, database, *words):
        """As statements, by the server's own client: another one's gives generated columns values."""
        folder = Path((self.backends or self).services.config.settings["DB_SERVER"] or "/usr") / "bin"
        program = next(p for p in (folder / "mariadb-dump", folder / "mysqldump") if p.exists())
        plain = ["--set-gtid-purged=OFF"] if program.name == "mysqldump" else []  # else an administrator has to load it
        return subprocess.run([program, "--no-defaults", "--user=root", "--socket=mysql.sock", "--single-transaction", *plain,
                               *words, database], cwd=self._data, check=True, capture_output=True, timeout=120).stdout

    def rabbitmqctl(self, *words):
        """With its own node's name, cookie and port mapper. What it prints."""
        base = self.ports.base
        env = {**os.environ, "HOME": f"{self.state}/rabbitmq/home", "ERL_EPMD_PORT": str(base + 5),
               "RABBITMQ_NODENAME": f"rabbit-{base}@localhost", "RABBITMQ_CONF_ENV_FILE": "/dev/null",
               "LANG": "C.UTF-8"}
        done = subprocess.run([rabbitmq_program(self.services.config, "rabbitmqctl"), *words], env=env, timeout=120, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 0, done.stdout
        return done.stdout

    @property
    def db(self):
        return Database(self.values)

    @property
    def broker(self):
        return Broker(self.values)

    @property
    def operator_a(self):
        return Operator("operatorA", self.values["OPERATOR_A_CONTROL_URL"])

    @property
    def operator_b(self):
        return Operator("operatorB", self.values["OPERATOR_B_CONTROL_URL"])

    @property
    def operators(self):
        return self.carriers or [self.operator_a, self.operator_b]

    def log_text(self, name):
        texts = []
        for path in (Path(self.state) / "log" / f"{name}.log",
                     Path(self.directory) / f"{name}.foreground.log"):
            if path.exists():
                texts.append(path.read_text(errors="replace"))
        return "\n".join(texts)

    def _logs(self):
        """(name, text) of the daemons' and simulators' logs."""
        folder = Path(self.state) / "log"
        for path in sorted(folder.glob("*.log")) + sorted(Path(self.directory).glob("*.log")):
            if not path.stem.startswith(("rabbitmq", "mariadb", "epmd")):
                yield path.stem, path.read_text(errors="replace")

    def log_tails(self, lines=15):
        """For the report of a failed test: what the daemons said last."""
        for name, text in self._logs():
            yield f"{self.name}/{name}", "\n".join(line[:400] for line in text.splitlines()[-lines:])


def binary(kind, build=BUILD):
    return build / kind / (kind if kind == "operator-sim" else f"msg-{kind}")


def missing_binaries(build=BUILD):
    programs = [binary(kind, build) for kind in ("api", "outboxd", "consumerd", "operator-sim")]
    return [str(p) for p in programs if not os.access(p, os.X_OK)]
