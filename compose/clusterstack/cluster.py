"""The verbs of compose/cluster on a whole cluster."""

import shutil
import subprocess
import time

from localstack.config import DAEMONS, OPERATORS, RABBIT_PASSWORD, RABBIT_USER, REPOSITORY, StackError
from localstack.process import wait_until
from localstack.services import binary, known_settings
from localstack.stack import Stack

from .config import BROKERS, DATABASES, MACHINES, machine_of, split_name
from .database import Databases
from .net import Network
from .services import make_service, migrate_environment

START_ORDER = ("ops", "db1", "db2", "m1", "m2", "m3", "front")


class Cluster(Stack):
    def __init__(self, config):
        super().__init__(config)
        self.network = Network(config)
        self.databases = Databases(config, self._power_off, self._power_on)

    def service(self, name):
        return make_service(self.config, name)

    # -- which services ------------------------------------------------------------------------------

    def members(self):
        return [name for m in START_ORDER for name in MACHINES[m].services]

    recorded = members

    def resolve(self, words):
        """Services, machines, kinds ('api': all of them), or 'daemons', 'operators', 'backends', 'all'."""
        names = []
        for word in words:
            if word in MACHINES:
                found = list(MACHINES[word].services)
            else:
                kinds = {"all": None, "daemons": DAEMONS, "operators": OPERATORS, "backends": ("mariadb", "rabbitmq")}
                wanted = kinds.get(word, (word,))
                found = [n for n in self.members() if wanted is None or split_name(n)[0] in wanted]
                if not found:
                    split_name(word)
                    found = [word]
            names += [n for n in found if n not in names]
        return names

    # -- up and down ---------------------------------------------------------------------------------

    def up(self, words, assignments):
        config = self.config
        config.remember_daemon_settings(known_settings(config.settings["BUILD_DIR"]), assignments)
        config.save()
        self.network.up()
        self.start(self.resolve(["operators", "backends"]), {})
        self.databases.begin()
        self.migrate()
        names = self.resolve(words or ["daemons"])
        self.start([n for n in names if n != "haproxy"], {})
        self.start(["haproxy"], {})

    def migrate(self):
        """The schema, then what each daemon's account may do."""
        primary = self.databases.primary()
        done = subprocess.run([binary(self.config, "api"), "migrate"], env=migrate_environment(self.config), text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
        if done.returncode:
            raise StackError(f"msg-api migrate: {done.stdout}")
        grants = (REPOSITORY / "sql" / "grants.sql").read_text()
        primary.run(grants.replace("messaging_platform.", f"`{self.config.settings['DB_NAME']}`."))

    def down(self, purge):
        # Clients before servers, each group at once: a drain still needs database and broker.
        for group in (["haproxy", "daemons"], ["operators"], ["backends"]):
            services = [self.service(n) for n in self.resolve(group)]
            if purge:
                for service in services:
                    service.process.kill()
            else:
                self._stop_together(services)
            for service in services:
                service.process.forget()
        for number in range(1, len(BROKERS) + 1):
            epmd = self.service(f"epmd-{number}")
            epmd.process.kill()
            epmd.process.forget()
        self.network.down()
        if purge:
            shutil.rmtree(self.config.state_dir)

    # -- what goes wrong -----------------------------------------------------------------------------

    def kill(self, names):
        """A machine's name is its power: its link goes first, so that nobody hears a goodbye."""
        for name in names:
            if name in MACHINES:
                self.network.link(name, "down")
        for name in self.resolve(names):
            self.service(name).process.kill()
            if name.startswith("rabbitmq-") and machine_of(name).name in names:
                self.service(name).epmd.process.kill()

    def start(self, names, assignments, wait=True):
        for machine in {machine_of(n).name for n in names}:
            self.network.link(machine, "up")
        super().start(names, assignments, wait)

    def _power_off(self, service):
        self.service(service).process.kill()

    def _power_on(self, service):
        self.start([service], {})

    def rabbitmqctl(self, machine, *words, timeout=60, check=True):
        """On that machine, with its node's name and cookie."""
        service = self.service(next(n for n in MACHINES[machine].services if n.startswith("rabbitmq-")))
        _, env, cwd = service.command({})
        command = self.network.on(machine, ["/usr/lib/rabbitmq/bin/rabbitmqctl", "-n", service.node(), *words])
        env.pop("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", None)
        done = subprocess.run(command, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=timeout)
        if check and done.returncode:
            raise StackError(f"rabbitmqctl {' '.join(words)} on {machine}: {done.stdout.strip()}")
        return done.stdout

    def await_ready(self, names, deadline=120):
        """Until all of them are; for those that were not started by this call."""
        services = [self.service(n) for n in names]
        if not wait_until(lambda: all(s.running() and s.ready() for s in services), time.monotonic() + deadline):
            raise StackError("not ready: " + " ".join(s.name for s in services if not (s.running() and s.ready())))

    # -- looking -------------------------------------------------------------------------------------

    def status(self):
        rows = super().status()
        roles = {MACHINES[m].services[0]: self.databases.describe(m) for m in DATABASES}
        return [(name, machine_of(name).name, pid, f"{self.config.listen_address(name)}",
                 f"{state} ({roles[name]})" if state == "ready" and name in roles else state)
                for name, pid, _, state in rows]

    def environment(self):
        config = self.config
        urls = {kind: " ".join(config.url(n) for n in self.resolve([kind])) for kind in DAEMONS}
        primary = self.databases.primary()
        values = {
            "API_URL": config.url("haproxy"),
            "API_URLS": urls["api"],
            "OPERATOR_A_URL": config.url("operator-a"),
            "OPERATOR_B_URL": config.url("operator-b"),
            "OPERATOR_A_CONTROL_URL": config.url("operator-a-control"),
            "OPERATOR_B_CONTROL_URL": config.url("operator-b-control"),
            "OUTBOXD_URLS": urls["outboxd"],
            "CONSUMERD_URLS": urls["consumerd"],
            **config.connection_environment(),
            "DB_PRIMARY_HOST": primary.address if primary else "",
            "RABBIT_MANAGEMENT_URLS": " ".join(
                f"http://{config.address(m)}:{config.port('rabbitmq-management')}" for m in BROKERS),
            "RABBIT_PROMETHEUS_URLS": " ".join(
                f"http://{config.address(m)}:{config.port('rabbitmq-prometheus')}" for m in BROKERS),
            "RABBIT_USER_NAME": RABBIT_USER,
            "RABBIT_PASSWORD": RABBIT_PASSWORD,
            "STATE_DIR": str(config.state_dir),
            "BUILD_DIR": config.settings["BUILD_DIR"],
        }
        for name in self.members():
            values["PID_" + name.upper().replace("-", "_")] = str(self.service(name).process.pid() or "")
        return values
