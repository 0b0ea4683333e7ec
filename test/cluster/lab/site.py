"""The cluster under test, in the shape that the load and the judge of test/faults work with."""

import contextlib
import os
import shutil
import socket
import tempfile
import time
from types import SimpleNamespace

from clusterstack.cluster import Cluster
from clusterstack.config import BROKERS, MACHINES, ClusterConfig
from harness.client import Api
from harness.operators import Operator
from harness.stack import BUILD, UNLIMITED
from harness.wait import wait_until
from harness.witness import Broker, Database
from localstack.config import StackError
from suite.check import Judge
from suite.site import PATIENT, QUICK, REJECTED

WHOLE_SEC = 90
ANSWER_SEC = 30
SETTINGS = {**UNLIMITED, **QUICK, **{k: str(v) for k, v in PATIENT.items()}}


class Lab(Cluster):
    """`values`, `db`, `broker` and `operators` are what the witnesses of test/system ask for."""

    def __init__(self, directory):
        self.directory = directory
        config = ClusterConfig(os.path.join(directory, "state"), {**os.environ, "BUILD_DIR": str(BUILD)})
        config.adopt_environment()
        super().__init__(config)
        self.databases.say = lambda text: None
        self._values = None

    @property
    def values(self):
        """Of the primary alone, and of a broker's node that answers."""
        if self._values is None:
            self._values = self.environment()
            self._values["DB_HOST"] = self._values["DB_PRIMARY_HOST"]
        node = next((m for m in BROKERS if self._answers(m)), BROKERS[0])
        config = self.config
        user = f"{self._values['RABBIT_USER_NAME']}:{self._values['RABBIT_PASSWORD']}"
        return {**self._values, "RABBIT_URI": f"amqp://{user}@{config.address(node)}:{config.port('rabbitmq')}/",
                "RABBIT_MANAGEMENT_URL": f"http://{config.address(node)}:{config.port('rabbitmq-management')}"}

    def _answers(self, machine):
        with contextlib.suppress(OSError):
            address = self.config.address(machine), self.config.port("rabbitmq-management")
            socket.create_connection(address, 0.5).close()
            return True
        return False

    def promote(self, machine, **how):
        self.databases.promote(machine, **how)
        self._values = None

    @property
    def db(self):
        return Database(self.values)

    @property
    def broker(self):
        return Broker(self.values)

    @property
    def operators(self):
        return [Operator(f"operator{n}", self.values[f"OPERATOR_{n}_CONTROL_URL"]) for n in "AB"]


class Daemon:
    def __init__(self, site, name):
        self.name, self.kind = name, name.rpartition("-")[0]
        self.service = site.stack.service(name)
        self.log = site.stack.config.log_file(name)
        self.url = site.stack.config.url(name)
        self.process = SimpleNamespace(returncode="an unknown code")

    @property
    def alive(self):
        return self.service.running()


class Site:
    told = None
    headers = {}

    def __init__(self, mode="durable"):
        self.directory = tempfile.mkdtemp(prefix="msg-cluster-")
        self.stack = Lab(self.directory)
        self.stack.config.settings["CLUSTER_MODE"] = mode
        self.customers = 0
        try:
            self.stack.up([], SETTINGS)
            for operator in self.operators:
                operator.faults(reject_prefix=REJECTED)
            self.daemons = {n: Daemon(self, n) for n in self.stack.resolve(["daemons"])}
            self.judge = Judge(self)
        except BaseException:
            self.close()
            raise

    def close(self):
        if os.environ.get("KEEP_STATE"):
            self.stack.down(purge=False)
            print(f"left in {self.directory}", flush=True)
            return
        self.stack.down(purge=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # -- for Load and Judge --------------------------------------------------------------------------

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
        return [Api(self.stack.config.url("haproxy"))]

    def new_customers(self, n, balance):
        first = self.customers + 1
        self.customers += n
        return self.db.seed_customers(n, balance, first)

    # -- the cluster ---------------------------------------------------------------------------------

    @property
    def databases(self):
        return self.stack.databases

    @property
    def primary(self):
        """There is one; a busy machine may be slow to say so."""
        return wait_until(self.databases.primary, ANSWER_SEC, "a server takes writes", pause=0.2)

    @property
    def replica(self):
        return self.databases.other(self.primary)

    def partition(self, some, others, ports=()):
        self.stack.network.partition(some, others, ports)

    def heal(self, but=()):
        self.stack.network.heal(but)

    def kill(self, *names):
        self.stack.kill(names)

    def start(self, *names):
        self.stack.start(self.stack.resolve(names), {})

    def set_mode(self, mode):
        self.stack.config.settings["CLUSTER_MODE"] = mode
        self.databases.set_mode()

    @contextlib.contextmanager
    def in_mode(self, mode):
        before = self.stack.config.settings["CLUSTER_MODE"]
        self.set_mode(mode)
        try:
            yield
        finally:
            self.set_mode(before)

    def whole(self):
        """Everything runs, is ready and follows: what the next fault may be done to."""
        self.heal()
        self.start("all")
        if self.databases.primary() is None:
            self.stack.promote(self.stack.config.primary)
        if not self.replica.follows(self.primary) or self.primary.value("@@rpl_semi_sync_master_enabled") == "0":
            self.databases.rebuild(self.replica.machine)
        wait_until(self.brokers_whole, WHOLE_SEC, "all members of all queues are there", pause=0.2)
        wait_until(self.replica_whole, WHOLE_SEC, "the replica follows and is waited for", pause=0.2)
        self.stack.await_ready(self.stack.members(), WHOLE_SEC)

    def replica_whole(self):
        with contextlib.suppress(StackError):  # a busy machine is slow to answer
            return self.primary.status("Rpl_semi_sync_master_status") == "ON"
        return False

    def brokers_whole(self):
        broker = self.broker
        for name in (broker.express, broker.normal, broker.dead):
            queue = broker.queue(name)
            if not queue or len(queue.get("online", ())) < len(BROKERS) or queue["leader"] not in queue["online"]:
                return False
        return True

    def leader(self, queue):
        """The machine whose node leads it."""
        return self.broker.queue(queue)["leader"].removeprefix("rabbit@")

    def settled(self, last):
        """Recipients that were accepted after `last` and are final."""
        return self.db.value("SELECT COUNT(*) FROM message_status WHERE id>%s AND status IN ('done','failed')", last)

    def newest(self):
        return self.db.value("SELECT COALESCE(MAX(id),0) FROM message_status")


def nodes(site):
    """The broker's nodes in turn, those that lead a queue before others."""
    return sorted(BROKERS, key=lambda m: -sum(site.leader(q) == m for q in (site.broker.express, site.broker.normal)))


def rabbit(machine):
    return next(n for n in MACHINES[machine].services if n.startswith("rabbitmq-"))


def pause(seconds):
    """How long a fault lasts is a part of it."""
    time.sleep(seconds)
