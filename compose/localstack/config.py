"""What one stack consists of, where it lives and what is remembered of it between two calls."""

import json
import os
import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

DEFAULT_PORT_BASE = 23000
MAX_REPLICAS = 20

# Every port of a stack, as an offset to PORT_BASE. Stacks that run side by side need bases at least
# PORT_SPAN apart. The default lies below the kernel's ephemeral range and above the usual services.
PORTS = {
    "mariadb": 0,
    "rabbitmq": 1,               # AMQP
    "rabbitmq-management": 2,
    "rabbitmq-prometheus": 3,
    "rabbitmq-distribution": 4,  # Erlang node to node
    "epmd": 5,
    "operator-a": 6,
    "operator-b": 7,
    "operator-a-control": 8,     # faults and ledger, also while the operator refuses connections
    "operator-b-control": 9,
    "api": 10,                   # api-1, api-2, …; API_PORT moves api-1 alone
    "outboxd": 30,
    "consumerd": 50,
}
PORT_SPAN = 70

DAEMONS = ("api", "outboxd", "consumerd")
OPERATORS = ("operator-a", "operator-b")
BACKENDS = ("mariadb", "rabbitmq")

# Settings of the stack that the environment may give. They are remembered in stack.json at `up`, so
# that later calls need no more than STATE_DIR.
DEFAULTS = {
    "PORT_BASE": str(DEFAULT_PORT_BASE),
    "API_PORT": "",
    "API_REPLICAS": "1",
    "OUTBOXD_REPLICAS": "1",
    "CONSUMERD_REPLICAS": "1",
    "BUILD_DIR": str(REPOSITORY / "build"),
    "READY_TIMEOUT": "120",
    "DB_NAME": "messaging_platform",
    "RABBIT_MESSAGE_EXCHANGE": "message_exchange",
    "EXPRESS_QUEUE": "message_express",
    "NORMAL_QUEUE": "message_normal",
    "DB_SERVER": "",
    "RABBITMQ_SERVER": "",
    "MARIADB_OPTIONS": "",
    "RABBIT_CONF": "",
    "DAEMON_WRAPPER": "",
}
DB_USER_NAME = "message_user"
DB_PASSWORD = "message_pass"
RABBIT_USER = "rabbit_user"
RABBIT_PASSWORD = "rabbit_pass"

# What the stack alone decides for a daemon; the caller's values would point it at another stack.
OWNED = ("LISTEN_ADDR", "DB_HOST", "DB_PORT", "DB_USER_NAME", "DB_PASSWORD", "DB_PASSWORD_FILE",
         "RABBIT_URI", "RABBIT_URI_FILE", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
# Remembered like daemon settings although no daemon lists them.
TOOLING = re.compile(r"^(A|UB|T|L)SAN_OPTIONS$")


class StackError(Exception):
    """Something the person at the terminal can act on; printed without a traceback."""


def split_name(name):
    """'api-2' -> ('api', 2); 'mariadb' -> ('mariadb', 0)."""
    kind, dash, index = name.rpartition("-")
    if dash and kind in DAEMONS and index.isdigit() and 1 <= int(index) <= MAX_REPLICAS:
        return kind, int(index)
    if name in OPERATORS or name in BACKENDS or name == "epmd":
        return name, 0
    raise StackError(f"unknown name '{name}': mariadb, rabbitmq, operator-a, operator-b, api-1, "
                     "outboxd-1, consumerd-1, …")


class Remembered:
    """Settings of a stack and of its daemons, kept in a file of its folder from `up` on."""

    def __init__(self, state_dir, environ, file, defaults):
        self.state_dir = Path(state_dir).resolve()
        self.file = self.state_dir / file
        self.environ = environ
        self.settings = dict(defaults)
        self.daemon_settings = {}  # what the caller's environment said about the daemons at `up`
        self.saved = {}
        if self.file.exists():
            self.saved = json.loads(self.file.read_text())
            self.settings.update(self.saved["settings"])
            self.daemon_settings = self.saved["daemon_settings"]

    @property
    def exists(self):
        return self.file.exists()

    def remember_daemon_settings(self, names, assignments):
        for name, value in self.environ.items():
            if TOOLING.match(name) or (name in names and name not in self.settings and name not in OWNED):
                self.daemon_settings[name] = value
        self.daemon_settings.update(assignments)

    def save(self, **more):
        self.state_dir.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"settings": self.settings, "daemon_settings": self.daemon_settings, **more}, indent=2)
        temporary = self.file.with_suffix(".new")
        temporary.write_text(text + "\n")
        temporary.replace(self.file)

    @property
    def ready_timeout(self):
        return float(self.environ.get("READY_TIMEOUT") or self.settings["READY_TIMEOUT"])

    def log_file(self, name):
        return self.state_dir / "log" / f"{name}.log"


class Config(Remembered):
    split_name = staticmethod(split_name)

    def __init__(self, state_dir, environ):
        super().__init__(state_dir, environ, "stack.json", DEFAULTS)
        self.ports_changed = False
        self.backends = self.saved.get("backends")  # folder of the stack whose MariaDB and RabbitMQ are used

    def adopt_environment(self, backends):
        """`up`: what the environment says wins over what is remembered."""
        if backends:
            self.backends = str(Path(backends).resolve())
        given = {k: self.environ[k] for k in DEFAULTS if self.environ.get(k)}
        if self.backends and not self.exists:
            # Beside another stack's data: names of its own for the database, exchange and queues.
            suffix = "_" + given.get("PORT_BASE", self.settings["PORT_BASE"])
            for name in ("DB_NAME", "RABBIT_MESSAGE_EXCHANGE", "EXPRESS_QUEUE", "NORMAL_QUEUE"):
                given.setdefault(name, DEFAULTS[name] + suffix)
        before = (self.port_base, self.settings["API_PORT"])
        self.settings.update(given)
        self.ports_changed = self.exists and before != (self.port_base, self.settings["API_PORT"])
        for name in ("BUILD_DIR", "DB_SERVER", "RABBITMQ_SERVER"):
            if self.settings[name]:
                self.settings[name] = str(Path(self.settings[name]).resolve())
        for name in ("PORT_BASE", "API_REPLICAS", "OUTBOXD_REPLICAS", "CONSUMERD_REPLICAS"):
            if not self.settings[name].isdigit():
                raise StackError(f"{name}={self.settings[name]} is not a number")
        for kind in DAEMONS:
            if self.replicas(kind) > MAX_REPLICAS:
                raise StackError(f"at most {MAX_REPLICAS} replicas of each daemon")
        if not 1024 <= self.port_base <= 65535 - PORT_SPAN:
            raise StackError(f"PORT_BASE={self.port_base} must be in 1024…{65535 - PORT_SPAN}")

    def save(self):
        super().save(backends=self.backends)

    # -- values derived from the above ---------------------------------------------------------

    @property
    def port_base(self):
        return int(self.settings["PORT_BASE"])

    def replicas(self, kind):
        return int(self.settings[f"{kind.upper()}_REPLICAS"])

    def port(self, name):
        if name in PORTS and name not in DAEMONS:
            return self.port_base + PORTS[name]
        kind, index = split_name(name)
        if name == "api-1" and self.settings["API_PORT"]:
            return int(self.settings["API_PORT"])
        return self.port_base + PORTS[kind] + index - 1

    def listen_address(self, name):
        return f"127.0.0.1:{self.port(name)}"

    def url(self, name):
        return f"http://{self.listen_address(name)}"

    def backend(self):
        """The configuration that owns MariaDB and RabbitMQ: this one or another stack's."""
        if not self.backends:
            return self
        other = Config(self.backends, {})
        if not other.exists:
            raise StackError(f"no stack in {self.backends}")
        return other

    def rabbit_uri(self):
        port = self.backend().port("rabbitmq")
        return f"amqp://{RABBIT_USER}:{RABBIT_PASSWORD}@127.0.0.1:{port}/"

    def connection_environment(self, name=None):
        """What every client of database and broker needs to know, under the daemons' names."""
        return {
            "DB_HOST": "127.0.0.1",
            "DB_PORT": str(self.backend().port("mariadb")),
            "DB_NAME": self.settings["DB_NAME"],
            "DB_USER_NAME": DB_USER_NAME,
            "DB_PASSWORD": DB_PASSWORD,
            "RABBIT_URI": self.rabbit_uri(),
            "RABBIT_MESSAGE_EXCHANGE": self.settings["RABBIT_MESSAGE_EXCHANGE"],
            "EXPRESS_QUEUE": self.settings["EXPRESS_QUEUE"],
            "NORMAL_QUEUE": self.settings["NORMAL_QUEUE"],
        }
