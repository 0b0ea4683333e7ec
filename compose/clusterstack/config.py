"""What a cluster consists of, where it lives and what is remembered of it between two calls."""

import re
from collections import namedtuple

from localstack.config import (DB_PASSWORD, DB_USER_NAME, OPERATORS, RABBIT_PASSWORD, RABBIT_USER, REPOSITORY,
                               Remembered, StackError)

# Each machine has a network namespace, an address and a host name of its own, so every service has the port it has
# everywhere.
Machine = namedtuple("Machine", "name number services")
MACHINES = {m.name: m for m in (
    Machine("m1", 11, ("rabbitmq-1", "api-1", "outboxd-1", "consumerd-1")),
    Machine("m2", 12, ("rabbitmq-2", "api-2", "outboxd-2", "consumerd-2")),
    Machine("m3", 13, ("rabbitmq-3", "api-3", "outboxd-3", "consumerd-3")),
    Machine("db1", 21, ("mariadb-1",)),
    Machine("db2", 22, ("mariadb-2",)),
    Machine("front", 31, ("haproxy",)),
    Machine("ops", 41, OPERATORS),
)}
GATEWAY = 254  # this host: whoever calls the API, the console that promotes
PORTS = {"rabbitmq": 5672, "rabbitmq-management": 15672, "rabbitmq-prometheus": 15692,
         "rabbitmq-distribution": 25672, "epmd": 4369, "mariadb": 3306, "haproxy": 8080, "api": 8080,
         "outboxd": 8081, "consumerd": 8082, "operator-a": 9001, "operator-b": 9002, "operator-a-control": 9101,
         "operator-b-control": 9102}
DATABASES = ("db1", "db2")
BROKERS = ("m1", "m2", "m3")
MODES = ("durable", "available")

DEFAULTS = {
    "CLUSTER_NAME": "msgc",       # namespaces, links and the bridge begin with it
    "CLUSTER_NETWORK": "10.83.7",  # the first three bytes of every address
    "CLUSTER_MODE": "durable",
    "SEMISYNC_TIMEOUT_MS": "1000",  # how long a commit waits for the replica in the mode `available`
    "BUILD_DIR": str(REPOSITORY / "build"),
    "READY_TIMEOUT": "180",
    "DB_NAME": "messaging_platform",
    "RABBIT_MESSAGE_EXCHANGE": "message_exchange",
    "EXPRESS_QUEUE": "message_express",
    "NORMAL_QUEUE": "message_normal",
    "DB_SERVER": "",  # the servers of this machine
    "RABBITMQ_SERVER": "",
    "MARIADB_OPTIONS": "",
    "RABBIT_CONF": "",
    "DAEMON_WRAPPER": "",
}
DBA, REPLICATOR, MONITOR, MIGRATE = "dba", "replicator", "msg_monitor", "msg_migrate"
PASSWORD = DB_PASSWORD  # of every account of this trial cluster

KIND = re.compile(r"(rabbitmq|epmd|api|outboxd|consumerd|mariadb)-([123])")


def split_name(name):
    """'api-2' -> ('api', 2); 'haproxy' -> ('haproxy', 0)."""
    match = KIND.fullmatch(name)
    if match and not name == "mariadb-3":
        return match[1], int(match[2])
    if name in (*OPERATORS, "haproxy"):
        return name, 0
    raise StackError(f"unknown name '{name}': a machine ({' '.join(MACHINES)}), rabbitmq-1, mariadb-1, api-1, "
                     "outboxd-1, consumerd-1, …, haproxy, operator-a, operator-b")


def machine_of(name):
    """The machine that a service is on."""
    split_name(name)
    wanted = name.replace("epmd", "rabbitmq")
    return next(m for m in MACHINES.values() if wanted in m.services)


class ClusterConfig(Remembered):
    split_name = staticmethod(split_name)

    def __init__(self, state_dir, environ):
        super().__init__(state_dir, environ, "cluster.json", DEFAULTS)
        self.primary = self.saved.get("primary", "")    # the machine that was promoted last
        self.takeover = self.saved.get("takeover", "")  # the last transaction that it did not make itself

    def adopt_environment(self):
        self.settings.update({k: self.environ[k] for k in DEFAULTS if self.environ.get(k)})
        if self.settings["CLUSTER_MODE"] not in MODES:
            raise StackError(f"CLUSTER_MODE={self.settings['CLUSTER_MODE']} is none of {' '.join(MODES)}")
        if len(self.settings["CLUSTER_NAME"]) > 9:
            raise StackError("CLUSTER_NAME has at most 9 characters: links are named after it")

    def save(self):
        super().save(primary=self.primary, takeover=self.takeover)

    @property
    def durable(self):
        return self.settings["CLUSTER_MODE"] == "durable"

    # -- addresses -----------------------------------------------------------------------------------

    def address(self, machine):
        number = GATEWAY if machine == "host" else MACHINES[machine].number
        return f"{self.settings['CLUSTER_NETWORK']}.{number}"

    def port(self, name):
        return PORTS[name] if name in PORTS else PORTS[split_name(name)[0]]

    def listen_address(self, name):
        service = name.removesuffix("-control")
        return f"{self.address(machine_of(service).name)}:{self.port(name)}"

    def url(self, name):
        return f"http://{self.listen_address(name)}"

    def rabbit_uris(self, user, password=PASSWORD, first=0):
        """All nodes, in an order that begins elsewhere for each machine."""
        order = BROKERS[first:] + BROKERS[:first]
        return ",".join(f"amqp://{user}:{password}@{self.address(m)}:{self.port('rabbitmq')}/" for m in order)

    def connection_environment(self, name=None):
        """What a client of database and broker needs to know; a daemon has accounts of its own."""
        kind, index = split_name(name) if name else ("", 0)
        account = f"msg_{kind}" if kind else DB_USER_NAME
        broker = (account, PASSWORD) if kind else (RABBIT_USER, RABBIT_PASSWORD)
        return {
            "DB_HOST": ",".join(self.address(m) for m in DATABASES),
            "DB_PORT": str(PORTS["mariadb"]),
            "DB_NAME": self.settings["DB_NAME"],
            "DB_USER_NAME": account,
            "DB_PASSWORD": PASSWORD,
            "RABBIT_URI": self.rabbit_uris(*broker, first=max(0, index - 1)),
            "RABBIT_MESSAGE_EXCHANGE": self.settings["RABBIT_MESSAGE_EXCHANGE"],
            "EXPRESS_QUEUE": self.settings["EXPRESS_QUEUE"],
            "NORMAL_QUEUE": self.settings["NORMAL_QUEUE"],
        }
