"""A platform under test. Its daemons are children of this process, so that a kill is noticed and
answered with a new process at once.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import requests
from harness.client import Api
from harness.proxy import FaultProxy
from harness.receipts import SIGNING
from harness.stack import BUILD, REPOSITORY, Stack, binary
from harness.wait import wait_until

sys.path.insert(0, str(REPOSITORY / "compose"))
from localstack.config import Config  # noqa: E402
from localstack.services import daemon_environment  # noqa: E402
from .told import Told  # noqa: E402

TAKEN = "0912"     # how recipients begin, each with a number of eight digits
REJECTED = "0999"  # those that begin so get a final no of both operators
READY_SEC = 30
CONNECTIONS = ("RABBIT_URI", "RABBIT_MESSAGE_EXCHANGE", "EXPRESS_QUEUE", "NORMAL_QUEUE")

# A dead consumer is noticed in three seconds instead of ten, and no number of deaths over one message
# makes a dead letter of it: the suite kills more often than any day would. Every delivery has its line.
QUICK = {"LOG_LEVEL": "debug", "WORKER_DEAD_SEC": "3", "WORKER_HEARTBEAT_MS": "200",
         "DELIVERY_TAKEOVERS_MAX": "1000"}
# Operators that are slow for once are no reason to give up on a message whose broker is away for long.
PATIENT = {"DELIVERY_RETRY_WINDOW_SEC": 300}
REPAIR_QUICK = {"REPAIR_AFTER_SEC": 5, "REPAIR_INTERVAL_MS": 500}


class Daemon:
    def __init__(self, site, name, settings):
        self.site, self.name, self.kind = site, name, name.rpartition("-")[0]
        self.settings, self.build = settings, site.build
        self.process = None
        self.log = Path(site.stack.directory) / f"{name}.log"
        self.stopped = False

    def start(self, prefix=(), stdout=None, **settings):
        merged = {**self.site.settings, **self.settings, **settings}
        environ = daemon_environment(Config(self.site.stack.state, {}), self.name, merged)
        environ.update(merged)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([*prefix, str(binary(self.kind, self.build))], env=environ,
                                            stdin=subprocess.DEVNULL, stdout=stdout or log,
                                            stderr=log, cwd="/")
        return self

    @property
    def alive(self):
        return self.process is not None and self.process.poll() is None

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        if self.alive:
            self.process.kill()
            self.process.wait()

    def terminate(self, deadline=30):
        """SIGTERM; returns (exit code, seconds)."""
        began = time.monotonic()
        self.process.terminate()
        code = self.process.wait(deadline)
        return code, time.monotonic() - began

    @contextlib.contextmanager
    def paused(self):
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    @property
    def url(self):
        return self.site.stack.url(self.name)

    def ready(self):
        if not self.alive:
            raise AssertionError(f"{self.name} ended with {self.process.returncode}; see {self.log}")
        with contextlib.suppress(requests.RequestException):
            return requests.get(self.url + "/readyz", timeout=3).status_code == 200
        return False

    def wait_ready(self, deadline=READY_SEC):
        wait_until(self.ready, deadline, f"{self.name} is ready")
        return self


class Site:
    """`servers`: the Stack whose MariaDB and RabbitMQ are used. links: names of the links that go
    through a proxy, as "consumerd-1:db" (or :broker, :operatorA, :operatorB). carriers: operators of
    the harness instead of the simulators. build: the folder whose daemons it begins with. told: one
    customer in so many has an endpoint, and the simulators send receipts; 0: neither.
    """

    def __init__(self, name, servers, replicas=2, links=(), carriers=(), build=BUILD, told=5, **settings):
        self.build = build
        self.stack = Stack(name, servers, carriers=carriers)
        self.stack.settings["SIM_RECEIPT_KEY"] = SIGNING
        self.settings = {**self.stack.settings, **QUICK,
                         **{k: str(v) for k, v in settings.items()}}
        self.daemons, self.proxies = {}, {}
        self.told = None
        self.customers = 0
        try:
            self.stack.up("operators")
            if not carriers:
                self.operators_do()
            if told:
                self.told = Told(self, told, receipts=not carriers)
                self.settings = {**self.told.settings(), **self.settings}
            for link in links:
                self._make_proxy(link)
            self.migrate(build)
            if self.told:
                self.told.begin()
            self.headers = self.stack.headers
            self.counts = replicas if isinstance(replicas, dict) else dict.fromkeys(
                ("api", "outboxd", "consumerd"), replicas)
            for kind, count in self.counts.items():
                for i in range(1, count + 1):
                    self.add(f"{kind}-{i}")
        except BaseException:
            self.close()
            raise

    def add(self, name):
        self.daemons[name] = Daemon(self, name, self._proxied(name))
        return self.daemons[name]

    def up(self):
        for daemon in self.daemons.values():
            if not daemon.alive:
                daemon.start()
        for daemon in self.daemons.values():
            daemon.wait_ready()
        return self

    def close(self):
        alive = [d for d in self.daemons.values() if d.alive]
        for daemon in alive:
            daemon.process.kill()
        for daemon in alive:
            daemon.process.wait()
        for proxy in self.proxies.values():
            proxy.close()
        if self.told:
            self.told.close()
        self.stack.purge()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __getitem__(self, name):
        return self.daemons[name]

    def of(self, kind):
        return [d for d in self.daemons.values() if d.kind == kind]

    def migrate(self, build=BUILD):
        environ = {**os.environ, **self.settings, **self._connections()}
        subprocess.run([binary("api", build), "migrate"], env=environ, check=True, timeout=120,
                       stdout=subprocess.DEVNULL)

    def verb(self, kind, *words):
        """Runs a verb of msg-<kind>; returns the exit code and all it says."""
        environ = {**os.environ, **self.settings, **self._connections()}
        environ.setdefault("OPERATORS", f"operatorA={self.stack.values['OPERATOR_A_URL']}")
        done = subprocess.run([binary(kind), *words], env=environ, timeout=120, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.returncode, done.stdout

    def _connections(self):
        values = self.stack.values
        return {k: v for k, v in values.items() if k.startswith("DB_") or k in CONNECTIONS}

    # -- proxies ----------------------------------------------------------------------------------

    def _make_proxy(self, link):
        values = self.stack.values
        target = link.split(":")[1]
        port = {"db": values["DB_PORT"], "broker": values["RABBIT_URI"].rsplit(":", 1)[1].strip("/"),
                "operatorA": values["OPERATOR_A_URL"].rsplit(":", 1)[1],
                "operatorB": values["OPERATOR_B_URL"].rsplit(":", 1)[1]}[target]
        self.proxies[link] = FaultProxy("127.0.0.1", int(port))

    def _proxied(self, name):
        """The settings that send a daemon through its proxies."""
        values, settings = self.stack.values, {}
        ports = {link.split(":")[1]: proxy.port for link, proxy in self.proxies.items()
                 if link.split(":")[0] == name}
        if "db" in ports:
            settings.update(DB_HOST="127.0.0.1", DB_PORT=str(ports["db"]))
        if "broker" in ports:
            settings["RABBIT_URI"] = values["RABBIT_URI"].rsplit(":", 1)[0] + f":{ports['broker']}/"
        if "operatorA" in ports or "operatorB" in ports:
            urls = {n: f"http://127.0.0.1:{ports[n]}" if n in ports else values[f"OPERATOR_{n[-1]}_URL"]
                    for n in ("operatorA", "operatorB")}
            if self.told and self.told.receipts:
                settings.update(self.told.operators_file(name, **urls))
            else:
                settings["OPERATORS"] = ",".join(f"{n}={u}" for n, u in urls.items())
        return settings

    # -- what is inside ---------------------------------------------------------------------------

    @property
    def db(self):
        return self.stack.db

    @property
    def broker(self):
        return self.stack.broker

    @property
    def operators(self):
        return self.stack.operators

    @property
    def apis(self):
        return [Api(d.url, self.headers) for d in self.of("api")]

    def new_customers(self, n, balance):
        first = self.customers + 1
        self.customers += n
        return self.db.seed_customers(n, balance, first)

    def heap(self, sec):
        """Nobody publishes for so long: what waits then travels together."""
        with contextlib.ExitStack() as stack:
            for daemon in self.of("outboxd"):
                stack.enter_context(daemon.paused())
            time.sleep(sec)

    def operators_do(self, **faults):
        for operator in self.operators:
            operator.faults(reject_prefix=REJECTED, **faults)


class KillLoop:
    """Daemons with a failpoint armed: each dies there by itself and is started again at once, with
    another number of passes until the next time."""

    def __init__(self, daemons, failpoint, rng, passes):
        self.daemons, self.failpoint, self.rng, self.passes = daemons, failpoint, rng, passes
        self.kills = 0
        self.problems = []

    def _arm(self, daemon):
        every = self.rng.randint(1, self.passes)
        daemon.start(MSG_FAILPOINT=f"{self.failpoint}:kill:every={every}")

    def run(self, kills, deadline):
        """Until so many have died, or the deadline; all of them run unarmed and ready afterwards."""
        end = time.monotonic() + deadline
        for daemon in self.daemons:
            daemon.kill()
            self._arm(daemon)
        while self.kills < kills and time.monotonic() < end:
            for daemon in self.daemons:
                code = daemon.process.poll()
                if code is None:
                    continue
                if code == -signal.SIGKILL:
                    self.kills += 1
                else:
                    self.problems.append(f"{daemon.name} ended with {code}")
                self._arm(daemon)
            time.sleep(0.01)
        for daemon in self.daemons:
            daemon.kill()
        if self.kills < kills:
            self.problems.append(f"{self.kills} kills in {deadline} s, {kills} wanted")


class Background:
    """A function in a thread until told to stop; what it raises is raised at the end."""

    def __init__(self, function):
        self.stop = threading.Event()
        self.error = None
        self._function = function
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        try:
            self._function(self.stop)
        except Exception as e:  # noqa: BLE001 - handed on
            self.error = e

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self._thread.join(60)
        if self.error:
            raise self.error
