"""How each kind of service is prepared, started, asked whether it is ready, and stopped."""

import base64
import contextlib
import functools
import getpass
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

from .config import (DAEMONS, DB_PASSWORD, DB_USER_NAME, OPERATORS, OWNED, RABBIT_PASSWORD,
                     RABBIT_USER, DEFAULTS, StackError, split_name)
from .process import Process, wait_until

PROBE_TIMEOUT = 2
# Debian keeps daemons in sbin, which an ordinary user's PATH may lack.
SEARCH_PATH = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"


def find_program(name):
    path = shutil.which(name, path=SEARCH_PATH)
    if not path:
        raise StackError(f"{name} is not installed (make deps)")
    return path


def server_program(config, setting, name):
    """Of the folder with a server that a setting names (test/servers/fetch), else this machine's."""
    folder = config.settings[setting]
    return str(Path(folder) / "bin" / name) if folder else find_program(name)


def http_status(url, user=None, timeout=PROBE_TIMEOUT, method="GET"):
    """The status code of a request, or None when there is no answer. By hand: http.client alone takes as long to load
    as all the rest, and every call of compose/local would pay for it."""
    host, _, path = url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    head = [f"{method} /{path} HTTP/1.1", f"Host: {host}"]
    if user:
        head.append("Authorization: Basic " + base64.b64encode(user.encode()).decode())
    answer = b""
    try:
        with socket.create_connection((name, int(port)), timeout) as s:
            s.sendall("\r\n".join([*head, "", ""]).encode())
            while b"\r\n\r\n" not in answer and (part := s.recv(16384)):
                answer += part
    except OSError:
        return None
    status = re.match(rb"HTTP/1\.[01] (\d{3}) ", answer)
    return int(status[1]) if status else None


# A process that was killed while it wrote to its disk is dead before it lets go of its port: its first thread has
# ended, others have not.
PORT_WAIT = 10
# A connection that somebody's client made from that port, and ended, keeps it for a minute (TIME_WAIT).
CLOSING_WAIT = 65
TIME_WAIT = "06"  # in /proc/net/tcp


def port_in_use(port):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def port_is_closing(port):
    """Nobody has it any more, only the kernel, for a while."""
    states = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if int(fields[1].rpartition(":")[2], 16) == port:
                    states.add(fields[3])
    return states == {TIME_WAIT}


class Service:
    """One named service of a stack. Kinds differ in the methods below the line."""

    stop_timeout = 30
    address = "127.0.0.1"

    def __init__(self, config, name):
        self.config = config
        self.name = name
        self.kind, self.index = config.split_name(name)
        self.process = Process(config, name)

    @property
    def port(self):
        return self.config.port(self.name)

    def running(self):
        return self.process.pid() is not None

    def start(self, assignments=None):
        """Starts it unless it runs. `assignments` are settings for this start alone."""
        if self.running():
            return
        for port in self.ports():
            self.await_port(port)
        self.prepare()
        command, env, cwd = self.command(assignments or {})
        self.process.spawn(command, env, cwd)

    def await_port(self, port):
        began = time.monotonic()
        while not wait_until(lambda: not port_in_use(port), time.monotonic() + 1):
            waited = time.monotonic() - began
            if waited >= (CLOSING_WAIT if port_is_closing(port) else PORT_WAIT):
                raise StackError(f"{self.name}: port {port} is taken by another process; "
                                 "choose another PORT_BASE (or API_PORT)")

    def await_end(self):
        return self.process.await_end(self.stop_timeout)

    # ---------------------------------------------------------------------------------------------

    def ports(self):
        return [self.port]

    def prepare(self):
        pass

    def command(self, assignments):
        raise NotImplementedError

    def ready(self):
        raise NotImplementedError


class MariaDB(Service):
    PROGRAM = "mariadbd"
    OPTIONS = ("--innodb-log-file-size=512M", "--skip-feedback")

    def __init__(self, config, name):
        super().__init__(config, name)
        self.directory = config.state_dir / name
        self.data = self.directory / "data"
        # Of its own: temporary tables of servers that start at the same time have the same names.
        self.temporary = self.directory / "tmp"

    def environment(self):
        return dict(base_environment(), TMPDIR=str(self.temporary))

    def prepare(self):
        self.temporary.mkdir(parents=True, exist_ok=True)
        if (self.data / "mysql").is_dir():
            return
        fresh = self.directory / "fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        command = self.installation(fresh)
        done = subprocess.run(command, env=self.environment(), stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise StackError(f"{command[0]} failed:\n{done.stdout}")
        (self.directory / "init.sql").write_text(self.init_sql())
        fresh.rename(self.data)  # a half-made folder never counts as initialised

    def init_sql(self):
        """What the server runs at each start, before it listens."""
        name = self.config.settings["DB_NAME"]
        accounts = "".join(
            f"CREATE USER IF NOT EXISTS '{DB_USER_NAME}'@'{host}' IDENTIFIED BY '{DB_PASSWORD}';\n"
            # Databases of stacks that share this server begin with the same name; one of any other name is
            # granted by name.
            f"GRANT ALL ON `messaging\\_platform%`.* TO '{DB_USER_NAME}'@'{host}';\n"
            f"GRANT ALL ON `{name}`.* TO '{DB_USER_NAME}'@'{host}';\n"
            for host in ("127.0.0.1", "localhost", "%"))
        return (f"CREATE DATABASE IF NOT EXISTS `{name}` CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;\n"
                + accounts)

    def options(self):
        return ["--skip-log-bin"]

    def installation(self, fresh):
        """The command that makes a data folder, with an administrator who needs no password."""
        # The account's socket login replaces a root password; clients use TCP and message_user.
        return [server_program(self.config, "DB_SERVER", "mariadb-install-db"), "--no-defaults",
                f"--datadir={fresh}", f"--user={getpass.getuser()}",
                "--auth-root-authentication-method=socket",
                f"--auth-root-socket-user={getpass.getuser()}", "--skip-test-db",
                "--innodb-log-file-size=8M", "--force"]  # force: names are not looked up

    def command(self, assignments):
        command = [
            server_program(self.config, "DB_SERVER", self.PROGRAM), "--no-defaults", f"--datadir={self.data}",
            # Relative to the data folder: a socket's path is limited to 107 bytes.
            "--socket=mysql.sock", f"--bind-address={self.address}", f"--port={self.port}",
            f"--init-file={self.directory / 'init.sql'}",
            "--innodb-flush-log-at-trx-commit=1", "--innodb-buffer-pool-size=512M",
            "--innodb-buffer-pool-dump-at-shutdown=OFF",
            "--innodb-buffer-pool-load-at-startup=OFF", "--skip-name-resolve",
            "--performance-schema=OFF", "--max-connections=1000",
            "--character-set-server=utf8mb4", *self.OPTIONS, *self.options(),
            *shlex.split(self.config.settings["MARIADB_OPTIONS"])]
        if os.geteuid() == 0:
            command.append("--user=root")
        return command, self.environment(), self.data

    def ready(self):
        # The init file is done before the server listens: an answer means that the accounts exist.
        command = [find_program("mariadb-admin"), "--no-defaults", f"--host={self.address}",
                   f"--port={self.port}", f"--user={DB_USER_NAME}", "--protocol=tcp",
                   f"--connect-timeout={PROBE_TIMEOUT}", "ping"]
        env = dict(base_environment(), MYSQL_PWD=DB_PASSWORD)
        return subprocess.run(command, env=env, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, timeout=10).returncode == 0


class MySQL(MariaDB):
    PROGRAM = "mysqld"
    OPTIONS = ("--innodb-redo-log-capacity=512M", "--mysqlx=OFF", "--secure-file-priv=NULL")

    def installation(self, fresh):
        command = [server_program(self.config, "DB_SERVER", self.PROGRAM), "--no-defaults",
                   f"--datadir={fresh}", "--initialize-insecure"]
        return [*command, "--user=root"] if os.geteuid() == 0 else command


def database(config, name):
    folder = config.settings["DB_SERVER"]
    return (MySQL if folder and (Path(folder) / "bin" / MySQL.PROGRAM).exists() else MariaDB)(config, name)


class Epmd(Service):
    """Erlang's port mapper, of our own: a shared one would outlive the stack and mix its nodes."""

    def command(self, assignments):
        return ([server_program(self.config, "RABBITMQ_SERVER", "epmd"), "-address", self.address, "-port", str(self.port)],
                base_environment(), "/")

    def ready(self):
        with socket.socket() as s:
            s.settimeout(PROBE_TIMEOUT)
            return s.connect_ex((self.address, self.port)) == 0


def rabbitmq_program(config, name):
    """Not those in sbin, which are for root alone and become another user."""
    folder = config.settings["RABBITMQ_SERVER"]
    return f"{folder}/bin/{name}" if folder else f"/usr/lib/rabbitmq/bin/{name}"


class RabbitMQ(Service):
    stop_timeout = 60

    def __init__(self, config, name):
        super().__init__(config, name)
        self.directory = config.state_dir / name
        self.epmd = self.make_epmd()

    def make_epmd(self):
        return Epmd(self.config, "epmd")

    def ports(self):
        return [self.config.port(name) for name in (
            "rabbitmq", "rabbitmq-management", "rabbitmq-prometheus", "rabbitmq-distribution")]

    def start(self, assignments=None):
        self.epmd.start()
        super().start(assignments)

    def prepare(self):
        for folder in ("home", "mnesia", "log"):
            (self.directory / folder).mkdir(parents=True, exist_ok=True)
        (self.directory / "home").chmod(0o700)
        (self.directory / "enabled_plugins").write_text(
            "[rabbitmq_management,rabbitmq_prometheus].\n")
        more = self.config.settings["RABBIT_CONF"].split(";")
        (self.directory / "rabbitmq.conf").write_text(
            "".join(f"{line.strip()}\n" for line in [*self.configuration(), *more]))

    def configuration(self):
        port = self.config.port
        return [f"listeners.tcp.1 = {self.address}:{port('rabbitmq')}",
                f"management.tcp.ip = {self.address}",
                f"management.tcp.port = {port('rabbitmq-management')}",
                f"prometheus.tcp.ip = {self.address}",
                f"prometheus.tcp.port = {port('rabbitmq-prometheus')}",
                f"default_user = {RABBIT_USER}",
                f"default_pass = {RABBIT_PASSWORD}",
                "default_vhost = /",
                "loopback_users = none",
                "log.console = true",
                "log.file = false",
                # Queue depths that are a second old at most, for those who watch a drain.
                "collect_statistics_interval = 1000"]

    def node(self):
        return f"rabbit-{self.config.port_base}@localhost"

    def command(self, assignments):
        program = rabbitmq_program(self.config, "rabbitmq-server")
        if not Path(program).exists():
            raise StackError("rabbitmq-server is not installed (make deps)")
        directory = self.directory
        env = base_environment()
        env.update(
            HOME=str(directory / "home"),
            LANG="C.UTF-8",
            ERL_EPMD_PORT=str(self.epmd.port),
            ERL_EPMD_ADDRESS=self.address,
            RABBITMQ_CONF_ENV_FILE="/dev/null",
            RABBITMQ_NODENAME=self.node(),
            RABBITMQ_DIST_PORT=str(self.config.port("rabbitmq-distribution")),
            RABBITMQ_NODE_IP_ADDRESS=self.address,
            RABBITMQ_NODE_PORT=str(self.port),
            RABBITMQ_CONFIG_FILE=str(directory / "rabbitmq.conf"),
            RABBITMQ_ENABLED_PLUGINS_FILE=str(directory / "enabled_plugins"),
            RABBITMQ_MNESIA_BASE=str(directory / "mnesia"),
            RABBITMQ_LOG_BASE=str(directory / "log"),
            # Makes the script exec the virtual machine: the recorded pid is the broker's own, and
            # SIGTERM stops it without a second virtual machine.
            RABBITMQ_ALLOW_INPUT="1",
            RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=(
                # One scheduler that does not spin: the broker shares its cores with the daemons, and
                # a second one costs a fifth of its time in waking each other.
                "-noinput +S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none "
                "-rabbit quorum_tick_interval 1000 "
                f"-kernel inet_dist_use_interface {{{self.address.replace('.', ',')}}}"
                + self.kernel_args()))
        return [program], env, directory

    def kernel_args(self):
        return ""

    def ready(self):
        # The listener opens last, and a broker that boots up answers the protocol header.
        try:
            with socket.create_connection((self.address, self.port), PROBE_TIMEOUT) as s:
                s.settimeout(PROBE_TIMEOUT)
                s.sendall(b"AMQP\x00\x00\x09\x01")
                if s.recv(1) != b"\x01":  # a method frame: connection.start
                    return False
        except OSError:
            return False
        url = f"http://{self.address}:{self.config.port('rabbitmq-management')}/api/overview"
        return http_status(url, f"{RABBIT_USER}:{RABBIT_PASSWORD}") == 200


class OperatorSim(Service):
    stop_timeout = 10

    def ports(self):
        return [self.port, self.config.port(f"{self.name}-control")]

    def command(self, assignments):
        env = daemon_environment(self.config, self.name, assignments)
        return [str(binary(self.config, "operator-sim"))], env, "/"

    def ready(self):
        # The control address opens last, and stays open while the operator is told to refuse.
        return http_status(f"{self.config.url(self.name + '-control')}/healthz") == 200


class Daemon(Service):
    stop_timeout = 40

    def command(self, assignments):
        env = daemon_environment(self.config, self.name, assignments)
        wrapper = shlex.split(self.config.settings["DAEMON_WRAPPER"])
        return [*wrapper, str(binary(self.config, self.kind))], env, "/"

    def ready(self):
        return http_status(f"{self.config.url(self.name)}/readyz", timeout=5) == 200


KINDS = {"mariadb": database, "epmd": Epmd, "rabbitmq": RabbitMQ,
         **dict.fromkeys(OPERATORS, OperatorSim), **dict.fromkeys(DAEMONS, Daemon)}


def make_service(config, name):
    return KINDS[split_name(name)[0]](config, name)


def binary(config, kind):
    build = Path(config.settings["BUILD_DIR"])
    path = build / kind / (kind if kind == "operator-sim" else f"msg-{kind}")
    if not os.access(path, os.X_OK):
        raise StackError(f"{path} is missing (make build, or set BUILD_DIR)")
    return path


def base_environment():
    env = {k: v for k, v in os.environ.items()
           if k not in DEFAULTS and k not in OWNED and not k.startswith("RABBITMQ_")}
    env["PATH"] = SEARCH_PATH
    env["no_proxy"] = env["NO_PROXY"] = "127.0.0.1,localhost"  # a proxy does not see this stack
    return env


def daemon_environment(config, name, assignments):
    env = base_environment()
    env.update(config.daemon_settings)
    env.update(assignments)
    for owned in OWNED:
        env.pop(owned, None)
    env["LISTEN_ADDR"] = config.listen_address(name)
    if name in OPERATORS:
        env["CONTROL_ADDR"] = config.listen_address(f"{name}-control")
        env["SIM_NAME"] = "operator" + name[-1].upper()
        # An operator that was killed still knows what it has accepted.
        env.setdefault("SIM_LEDGER_FILE", str(config.state_dir / f"{name}.ledger"))
        return env
    for key, value in config.connection_environment(name).items():
        env[key] = assignments.get(key, value)  # one daemon may be pointed at a proxy
    env.setdefault("API_AUTH", "off")  # for trials and tests; it listens on the loopback alone
    env.setdefault("OPERATORS", ",".join(
        f"operator{o[-1].upper()}={config.url(o)}" for o in OPERATORS))
    return env


@functools.cache
def known_settings(build_dir):
    """Names of all daemon settings, as the binaries themselves list them."""
    names = set()
    for kind in (*DAEMONS, "operator-sim"):
        path = Path(build_dir) / kind / (kind if kind == "operator-sim" else f"msg-{kind}")
        if not path.exists():
            continue
        text = subprocess.run([path, "--help"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              text=True, timeout=30).stdout
        names.update(re.findall(r"^\s*([A-Z][A-Z0-9_]{3,}) \(", text, re.MULTILINE))
    return names | {f"{name}_FILE" for name in names}


def run_sql(config, statement):
    backend = config.backend()
    command = [find_program("mariadb"), "--no-defaults", "--host=127.0.0.1", "--protocol=tcp",
               f"--port={backend.port('mariadb')}", f"--user={DB_USER_NAME}",
               f"--execute={statement}"]
    env = dict(base_environment(), MYSQL_PWD=DB_PASSWORD)
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=60)
    if done.returncode:
        raise StackError(f"the database said: {done.stdout.strip()}")


def delete_broker_objects(config):
    """Exchange and queues of a stack that lives on another stack's broker."""
    backend = config.backend()
    base = f"http://127.0.0.1:{backend.port('rabbitmq-management')}/api"
    exchange = config.settings["RABBIT_MESSAGE_EXCHANGE"]
    names = [("queues", config.settings["EXPRESS_QUEUE"]),
             ("queues", config.settings["NORMAL_QUEUE"]), ("queues", exchange + ".dead"),
             ("exchanges", exchange), ("exchanges", exchange + ".dead")]
    for kind, name in names:
        http_status(f"{base}/{kind}/%2F/{quote(name, safe='')}", f"{RABBIT_USER}:{RABBIT_PASSWORD}",
                    timeout=10, method="DELETE")
