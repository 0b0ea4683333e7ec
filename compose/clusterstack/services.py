"""How each kind of service is started on its machine."""

import json

from localstack import services as local
from localstack.config import DAEMONS, OPERATORS, RABBIT_PASSWORD, RABBIT_USER
from localstack.services import base_environment, daemon_environment, find_program, http_status

from .config import BROKERS, DBA, MACHINES, MIGRATE, MONITOR, PASSWORD, REPLICATOR, machine_of
from .net import Network

# What each daemon may do at the broker, as docs/operating.md has it: configure, write, read.
PERMISSIONS = {
    "msg_api": (r"^message_exchange\.doorbell$", r"^message_exchange\.doorbell$", "^$"),
    "msg_outboxd": (r"^message_(exchange(\.dead|\.doorbell.*)?|express|normal)$",) * 3,
    "msg_consumerd": (r"^message_(exchange(\.dead|\.doorbell)?|express|normal)$",
                      r"^message_(exchange\.(dead|doorbell)|express|normal)$",
                      r"^message_(exchange(\.dead)?|express|normal)$"),
    MONITOR: ("^$", "^$", ".*"),
    RABBIT_USER: (".*",) * 3,
}


class OnMachine:
    """Mixed into a service of compose/localstack: it runs on its machine, at that machine's address."""

    def __init__(self, config, name):
        self.machine = machine_of(name).name
        self.address = config.address(self.machine)
        super().__init__(config, name)

    def ports(self):
        return []  # nobody else is on the machine

    def command(self, assignments):
        command, env, cwd = super().command(assignments)
        env["no_proxy"] = env["NO_PROXY"] = "*"
        return Network(self.config).on(self.machine, command), env, cwd


class MariaDB(OnMachine, local.MariaDB):
    """Starts read-only, whatever it was before: only `promote` makes a primary."""

    def init_sql(self):
        every = f"IDENTIFIED BY '{PASSWORD}'"
        accounts = [f"CREATE USER IF NOT EXISTS '{name}'@'%' {every};"
                    for name in (MIGRATE, "msg_api", "msg_outboxd", "msg_consumerd", DBA, REPLICATOR)]
        return "\n".join([
            "SET sql_log_bin=0;",  # each server makes them for itself: no transaction of its own
            super().init_sql(), *accounts,
            f"GRANT ALL ON `{self.config.settings['DB_NAME']}`.* TO '{MIGRATE}'@'%';",
            f"GRANT ALL ON *.* TO '{DBA}'@'%' WITH GRANT OPTION;",
            f"GRANT REPLICATION SLAVE ON *.* TO '{REPLICATOR}'@'%';", ""])

    def options(self):
        return [f"--server-id={self.index}", f"--report-host={self.machine}", "--read-only=1",
                "--innodb-log-file-size=128M",
                # A commit is on the disk twice before it is answered: in the binary log, and in InnoDB's.
                "--log-bin=binlog", "--sync-binlog=1", "--binlog-format=ROW", "--log-slave-updates=1",
                "--binlog-expire-logs-seconds=604800", "--gtid-strict-mode=1",
                # The replica has it before anybody sees it. A primary begins to ask for that when it is promoted.
                "--rpl-semi-sync-master-wait-point=AFTER_SYNC", "--rpl-semi-sync-master-wait-no-slave=ON",
                "--rpl-semi-sync-slave-enabled=ON",
                # Commits of one group are applied together, or a replica falls behind a primary that groups them.
                "--slave-parallel-threads=4", "--slave-parallel-mode=optimistic",
                "--slave-net-timeout=4", "--relay-log=relay"]


class Epmd(OnMachine, local.Epmd):
    pass


class RabbitMQ(OnMachine, local.RabbitMQ):
    def make_epmd(self):
        return Epmd(self.config, f"epmd-{self.index}")

    def node(self):
        return f"rabbit@{self.machine}"

    def prepare(self):
        super().prepare()
        cookie = self.directory / "home" / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(f"{self.config.settings['CLUSTER_NAME']}-cookie")
            cookie.chmod(0o400)
        (self.directory / "definitions.json").write_text(json.dumps(definitions()))

    def configuration(self):
        first = [line for line in super().configuration() if not line.startswith("default_")]
        return [*first,
                f"cluster_name = {self.config.settings['CLUSTER_NAME']}",
                "cluster_formation.peer_discovery_backend = classic_config",
                *(f"cluster_formation.classic_config.nodes.{i} = rabbit@{m}" for i, m in enumerate(BROKERS, 1)),
                # The smaller side stops by itself and comes back when it sees the others.
                "cluster_partition_handling = pause_minority",
                "vm_memory_high_watermark.absolute = 1GB",
                "disk_free_limit.absolute = 50MB",
                f"load_definitions = {self.directory / 'definitions.json'}"]

    def kernel_args(self):
        # A node that fell silent is down after eight seconds, not after a minute.
        return " -kernel net_ticktime 8"


def definitions():
    """The accounts. Every node imports them; what exists stays as it is."""
    tags = {RABBIT_USER: "administrator", MONITOR: "monitoring"}
    passwords = {RABBIT_USER: RABBIT_PASSWORD}
    return {"vhosts": [{"name": "/"}],
            "users": [{"name": n, "password": passwords.get(n, PASSWORD), "tags": tags.get(n, "")}
                      for n in PERMISSIONS],
            "permissions": [{"user": n, "vhost": "/", "configure": c, "write": w, "read": r}
                            for n, (c, w, r) in PERMISSIONS.items()]}


class Front(local.Service):
    """HAProxy in front of every msg-api. It stops using one that cannot reach the database within a second, repeats
    what could not be sent at all, and nothing that may have arrived."""

    stop_timeout = 10

    @property
    def file(self):
        return self.config.state_dir / "haproxy" / "haproxy.cfg"

    def prepare(self):
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(haproxy_conf(self.config))

    def command(self, assignments):
        return [find_program("haproxy"), "-db", "-f", str(self.file)], base_environment(), "/"

    def ready(self):
        return http_status(f"{self.config.url('haproxy')}/readyz?for=traffic") == 200


class HAProxy(OnMachine, Front):
    pass


# What HAProxy says itself, in the words of the API.
FRONT_ERRORS = ((502, "outcome_unknown", "Repeat the request with its Idempotency-Key."),
                (503, "unavailable", "No server takes requests at the moment. Please retry later."),
                (504, "outcome_unknown", "Repeat the request with its Idempotency-Key."))


def haproxy_conf(config):
    servers = "\n".join(f"  server {name} {config.listen_address(name)} check"
                        for m in BROKERS for name in MACHINES[m].services if name.startswith("api-"))
    errors = "\n".join(f"  http-error status {status} content-type application/json string '{{\"error\":\"{code}\","
                       f"\"message\":\"{message}\"}}' hdr Retry-After 1" for status, code, message in FRONT_ERRORS)
    return f"""global
  maxconn 2000
defaults
  mode http
  option forwardfor
  option redispatch
  retries 3
  retry-on conn-failure
  timeout connect 1s
  timeout client 60s
  timeout server 8s
{errors}
frontend messages
  bind {config.listen_address('haproxy')}
  default_backend api
backend api
  balance leastconn
  option httpchk
  http-check send meth GET uri /readyz?for=traffic
  default-server inter 500ms fastinter 250ms fall 2 rise 1
{servers}
"""


class OperatorSim(OnMachine, local.OperatorSim):
    pass


class Daemon(OnMachine, local.Daemon):
    def command(self, assignments):
        front = {"API_AUTH_OFF_ANYWHERE": "true", "MIGRATE_ON_START": "false",
                 "TRUSTED_PROXIES": f"{self.config.address('front')}/32"}
        if self.kind == "consumerd":
            port = self.config.port("rabbitmq-management")
            front["RABBIT_MANAGEMENT_URI"] = f"http://{MONITOR}:{PASSWORD}@{self.address}:{port}/"
        return super().command({**front, **self.config.daemon_settings, **assignments})


KINDS = {"mariadb": MariaDB, "epmd": Epmd, "rabbitmq": RabbitMQ, "haproxy": HAProxy,
         **dict.fromkeys(OPERATORS, OperatorSim), **dict.fromkeys(DAEMONS, Daemon)}


def make_service(config, name):
    return KINDS[config.split_name(name)[0]](config, name)


def migrate_environment(config):
    """For `msg-api migrate`, which has all rights on the database."""
    return {**daemon_environment(config, "api-1", {}), "API_AUTH": "required", "DB_USER_NAME": MIGRATE,
            "DB_PASSWORD": PASSWORD}
