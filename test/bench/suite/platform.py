"""A platform under measurement: daemons of its own on the benchmark's MariaDB and RabbitMQ."""

import contextlib
import functools
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

import requests

from harness import keys
from harness.stack import BUILD, Stack, binary
from harness.wait import Timeout, wait_until

from . import usage

LOADTEST = Path("test", "loadtest", "msg-loadtest")  # in a build folder
CEILING = BUILD / "test" / "bench" / "msg-bench-ceiling"
RECEIVER = BUILD / "test" / "bench" / "msg-bench-receiver"
PROCESSES = ("mariadbd", "beam", "msg-api", "msg-outboxd", "msg-consumerd", "operator-sims", "msg-loadtest")
DAEMONS = {"msg-api": "api-1", "msg-outboxd": "outboxd-1", "msg-consumerd": "consumerd-1"}

# Rate limits would be what is measured; everything else is as shipped.
SETTINGS = {"GLOBAL_RATE_LIMIT_RPS": "0", "USER_RATE_LIMIT_RPS": "0", "USER_READ_LIMIT_RPS": "0",
            "BACKPRESSURE_OUTBOX_PENDING_THRESHOLD": "10000"}
LIFTED = {"BACKPRESSURE_OUTBOX_PENDING_THRESHOLD": "5000000"}


class Load:
    """What the load tool reported, and the processor time of everybody from its first send to the
    last message delivered, by name."""

    def __init__(self, result, cpu_sec):
        self.result, self.cpu_sec = result, cpu_sec

    def __getitem__(self, name):
        return self.result[name]

    @property
    def recipients(self):
        return self["audit"]["rows"]

    def lane(self, name, quantile):
        return self["lanes"][name][quantile]


class Receiver:
    """Takes what is exported, over HTTP, and looks at nothing of it."""

    def __enter__(self):
        self.process = subprocess.Popen([RECEIVER], stdout=subprocess.PIPE, text=True)
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.said = self.process.communicate(timeout=10)[0].strip()


@contextlib.contextmanager
def ended(process):
    """It does not outlive a row that breaks off."""
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


class Platform:
    """`build`: the folder of its programs, the load tool among them: it knows that build's tables."""

    def __init__(self, name, servers, build=BUILD, **settings):
        self.servers = servers
        self.asks_keys = settings.get("API_AUTH", os.environ.get("API_AUTH")) == "required"
        self.key = self.certificate = None
        self.loadtest = build / LOADTEST
        self.stack = Stack(name, servers, settings={**SETTINGS, **settings}, build=build)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stack.purge()

    def up(self, *names):
        self.stack.up(*names)
        return self

    @property
    def db(self):
        return self.stack.db

    def dsn(self, name=None):
        v = self.stack.values
        return (f"{v['DB_USER_NAME']}:{v['DB_PASSWORD']}@tcp({v['DB_HOST']}:{v['DB_PORT']})/"
                f"{name or v['DB_NAME']}")

    @functools.cached_property
    def database(self):
        """What names the database to the load tool: options, which an earlier release has alone, or the environment."""
        known = subprocess.run([self.loadtest, "-help"], stdout=subprocess.PIPE, text=True, timeout=20).stdout
        if "SEED_DB_DSN" in known:
            return [], {**os.environ, "SEED_DB_DSN": self.dsn()}
        return ["-seed-db-dsn", self.dsn()], None

    def key_options(self):
        """With API_AUTH=required in the environment, what keys cost is measured along."""
        if not self.asks_keys:
            return []
        if self.key is None:
            self.key = keys.create(self.stack, scopes="send,read,topup")
            keys.wait_known(keys.KeyedApi(self.stack.url("api-1"), self.key))
        return ["-api-key", self.key]

    def secure(self, authority):
        """HTTPS in front of msg-api from now on."""
        self.key_options()  # it is waited for without TLS
        certificate, key = authority.issue("msg-api", "IP:127.0.0.1")
        self.stack.stop("api-1")
        self.stack.start_without_waiting("api-1", HTTP_TLS_CERT_FILE=certificate, HTTP_TLS_KEY_FILE=key)
        self.certificate = authority.certificate
        url = self.url_options()[1]

        def ready():
            with contextlib.suppress(requests.ConnectionError):
                return requests.get(f"{url}/readyz", verify=str(self.certificate), timeout=5).status_code == 200

        wait_until(ready, 60, "msg-api answers over TLS")

    def url_options(self):
        url = self.stack.url("api-1")
        if not self.certificate:
            return ["-base-url", url]
        return ["-base-url", url.replace("http:", "https:"), "-ca-file", str(self.certificate)]

    # -- processes --------------------------------------------------------------------------------

    def pids(self):
        found = {"mariadbd": [self.servers.pid("mariadb")], "beam": [self.servers.pid("rabbitmq")],
                 **{name: [self.stack.pid(n)] for name, n in DAEMONS.items()},
                 "operator-sims": [self.stack.pid("operator-a"), self.stack.pid("operator-b")]}
        return {name: [p for p in pids if p] for name, pids in found.items()}

    def meter(self):
        return usage.Meter(self.pids)

    def peaks_mib(self):
        """Of the daemons that run, since they started."""
        return {name: max(map(usage.peak_mib, pids)) for name, pids in self.pids().items()
                if name in DAEMONS and pids}

    # -- load -------------------------------------------------------------------------------------

    def load(self, rps, duration_sec, concurrency=200, users=5000, user_start=1, recipients=1,
             express=0.0, more=(), meanwhile=None, verify=True):
        """`more`: options of the load tool. `meanwhile` is called when all is sent, with a function that says the processor time so far.
        `verify`: it adds up the whole ledger afterwards, and waits no longer for that than for anything else."""
        v = self.stack.values
        named, environment = self.database
        command = [self.loadtest, *self.url_options(), "-rps", str(rps), "-duration",
                   f"{duration_sec}s", "-concurrency", str(concurrency), "-users", str(users),
                   "-user-start", str(user_start), "-recipients", str(recipients), "-express-ratio",
                   str(express), "-timeout", "10s", "-json",
                   "-drain-timeout", "15m", *(["-verify"] if verify else []), "-operators",
                   f"{v['OPERATOR_A_CONTROL_URL']},{v['OPERATOR_B_CONTROL_URL']}", *named,
                   *self.key_options(), *more]
        meter, spent = self.meter(), {}

        def so_far():
            return {**meter.stop(), "msg-loadtest": usage.cpu_sec(process.pid)}

        with tempfile.TemporaryFile("w+") as out, ended(
                subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True, env=environment)) as process:
            for line in process.stderr:
                if line == "sent\n" and meanwhile:
                    meanwhile(so_far)
                elif line == "drained\n":
                    spent = so_far()
                elif not re.match(r" *[0-9]+s ok=|sent", line):
                    print(line, end="", flush=True)
            process.wait()
            out.seek(0)
            text = out.read()
        if not text:
            raise RuntimeError(f"msg-loadtest ended with {process.returncode}")
        return Load(json.loads(text), spent)

    def seed(self, users=5000, user_start=1, balance=100_000_000):
        named, environment = self.database
        subprocess.run([self.loadtest, "-seed-only", "-seed-balance", str(balance), "-users", str(users),
                        "-user-start", str(user_start), *named], env=environment, check=True, stdout=subprocess.DEVNULL)
        return self

    # -- what became of it ------------------------------------------------------------------------

    def wait_drained(self, deadline_sec=900):
        """Every message final. Looks at one row at a time: the platform hardly notices."""
        db, after = self.db, 0

        def drained():
            nonlocal after
            rows = db.rows("SELECT id FROM message_status FORCE INDEX(PRIMARY) WHERE id>%s AND status IN"
                           " ('pending','sending') ORDER BY id LIMIT 1", after)
            after = rows[0][0] - 1 if rows else after
            return not rows

        wait_until(drained, deadline_sec, "everything is delivered", pause=0.2)

    def now(self):
        return self.db.value("SELECT NOW(6)")

    def backlog(self, moment):
        """Accepted and not final at a moment that has passed, when all is final."""
        return self.db.value("SELECT COUNT(*) FROM message_status WHERE created_at<=%s AND updated_at>%s",
                             moment, moment)

    def done_between(self, begin, end):
        return self.db.value("SELECT COUNT(*) FROM message_status WHERE status='done' AND"
                             " updated_at>%s AND updated_at<=%s", begin, end)

    def wait_purged(self, deadline_sec=60):
        """The database has cleaned up behind what was before."""
        def purged():
            rows = self.db.rows("SHOW GLOBAL STATUS LIKE 'Innodb_history_list_length'")
            return not rows or int(rows[0][1]) < 1000

        with contextlib.suppress(Timeout):  # measured all the same
            wait_until(purged, deadline_sec, pause=0.5)

    def audit(self):
        """Violations that `msg-api audit` finds."""
        values = {k: v for k, v in self.stack.values.items() if k.startswith(("DB_", "RABBIT_URI"))}
        done = subprocess.run([binary("api", self.stack.build), "audit", "--quiesced", "--json"], timeout=900, text=True,
                              stdout=subprocess.PIPE, env={**os.environ, **values})
        return json.loads(done.stdout)["violations"]

    def ceiling(self, seconds, connections):
        """{connections: sends a second} of one transaction a send, in a scratch database."""
        v, name = self.stack.values, self.stack.values["DB_NAME"] + "_ceiling"
        self.db.execute(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci")
        try:
            environ = {k: x for k, x in v.items() if k.startswith(("DB_", "RABBIT_URI"))}
            subprocess.run([binary("api", self.stack.build), "migrate"], check=True, stdout=subprocess.DEVNULL,
                           env={**os.environ, **environ, "DB_NAME": name})
            text = subprocess.run([CEILING, self.dsn(name), str(seconds), *map(str, connections)],
                                  check=True, stdout=subprocess.PIPE, text=True).stdout
        finally:
            self.db.execute(f"DROP DATABASE `{name}`")
        pairs = (line.split() for line in text.splitlines())
        return {int(a.split("=")[1]): float(b.split("=")[1]) for a, b in pairs}
