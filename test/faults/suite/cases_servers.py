"""MariaDB and RabbitMQ themselves."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import requests
from harness.stack import Stack
from harness.wait import wait_until

from .cases import Skip, case
from .check import Judge, Result
from .load import Load
from .site import Site, start_servers

TMPFS_MB = 160


def restarted(servers, name, away=0):
    def fault(run):
        servers.restart(name)

    def killed(run):
        servers.kill(name)
        time.sleep(away)
        servers.start(name)
    return fault, killed


def server_case(case_name, title, name, how, times=3, away=0):
    @case(case_name, title, shared=False)
    def server(run):
        seconds = away if run.repeat >= 30 else min(away, 10)
        result = Result(case_name, title + (f" for {seconds} s" if away else ""), unit="times")
        servers = run.own_servers()
        orderly, killed = restarted(servers, name, seconds)
        with Site("server", servers, replicas=2) as site:
            site.up()
            judge = Judge(site)
            with Load(site, run.new_seed(), rate=80) as load:
                for _ in range(run.times(times)):
                    time.sleep(2)
                    (orderly if how == "restart" else killed)(run)
                    lifted = time.monotonic()
                    result.repetitions += 1
                load.end()
                judge.judge(result, load, lifted, deadline=90)
        yield result


server_case("broker restart", "RabbitMQ restarted", "rabbitmq", "restart")
server_case("broker kill", "RabbitMQ killed", "rabbitmq", "kill")
server_case("broker away", "RabbitMQ away", "rabbitmq", "kill", times=1, away=60)
server_case("database restart", "MariaDB restarted", "mariadb", "restart")
server_case("database kill", "MariaDB killed", "mariadb", "kill", times=6)


def rabbitmqctl(servers, *words):
    """With the private node's name, cookie and port mapper."""
    base = servers.ports.base
    env = {**os.environ, "HOME": f"{servers.state}/rabbitmq/home", "ERL_EPMD_PORT": str(base + 5),
           "RABBITMQ_NODENAME": f"rabbit-{base}@localhost", "RABBITMQ_CONF_ENV_FILE": "/dev/null",
           "LANG": "C.UTF-8"}
    program = "/usr/lib/rabbitmq/bin/rabbitmqctl"
    done = subprocess.run([program, *words], env=env, timeout=60, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout


@case("broker alarm", "RabbitMQ's memory alarm", shared=False)
def alarm(run):
    blocked_sec = run.times(15, 5)
    result = Result("broker alarm", f"RabbitMQ's memory alarm (connection.blocked) for {5 + blocked_sec} s",
                    unit="times")
    servers = run.own_servers()
    with Site("alarm", servers) as site:
        site.up()
        judge = Judge(site)
        with Load(site, run.new_seed(), rate=80) as load:
            for _ in range(run.times(3)):
                time.sleep(2)
                rabbitmqctl(servers, "set_vm_memory_high_watermark", "0")
                time.sleep(5)
                before = [cpu_sec(d) for d in site.daemons.values()]
                time.sleep(blocked_sec)
                for daemon, earlier in zip(site.daemons.values(), before):
                    used = (cpu_sec(daemon) - earlier) / blocked_sec
                    if daemon.kind == "outboxd" and used > 0.2:
                        result.violate(f"{daemon.name} used {used:.0%} of a core while blocked")
                    if not daemon.alive:
                        result.violate(f"{daemon.name} ended")
                rabbitmqctl(servers, "set_vm_memory_high_watermark", "0.4")
                lifted = time.monotonic()
                result.repetitions += 1
            load.end()
            judge.judge(result, load, lifted)
            if load.repeats:
                result.violate(f"{load.repeats} sends were turned away")
    yield result


def cpu_sec(daemon):
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class SmallDisk:
    """MariaDB's data on a tmpfs that a file can fill."""

    def __init__(self, stack):
        self.folder = Path(stack.state) / "mariadb"
        self.filler = self.folder / "filler"
        self.mounted = False

    def mount(self):
        self.folder.mkdir(parents=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MB}m", "tmpfs", self.folder],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise Skip(f"no tmpfs can be mounted here: {done.stdout.strip()}")
        self.mounted = True

    def unmount(self):
        if self.mounted:
            subprocess.run(["umount", "-l", self.folder], check=False)

    def fill(self):
        with open(self.filler, "ab", buffering=0) as f:
            try:
                while f.write(b"x" * 65536):
                    pass
            except OSError:
                pass

    def free(self):
        self.filler.unlink()


@case("database disk full", "the database's disk full, then freed", shared=False)
def disk_full(run):
    if os.geteuid() != 0:
        raise Skip("a small tmpfs needs root")
    result = Result("database disk full", "the database's disk full for 15 s, then freed", unit="times")
    os.environ["MARIADB_OPTIONS"] = ("--innodb-log-file-size=16M --innodb-buffer-pool-size=64M"
                                     " --innodb-data-file-path=ibdata1:4M:autoextend"
                                     " --innodb-temp-data-file-path=ibtmp1:2M:autoextend"
                                     " --innodb-autoextend-increment=1")
    servers = Stack("small-disk")
    disk = SmallDisk(servers)
    try:
        disk.mount()
        start_servers(servers)
        os.environ.pop("MARIADB_OPTIONS")
        with Site("disk", servers, replicas=1) as site:
            site.up()
            judge = Judge(site)
            with Load(site, run.new_seed(), rate=100) as load:
                for _ in range(run.times(3)):
                    time.sleep(2)
                    disk.fill()
                    # Small files grow in steps; traffic fills what is left until somebody is told no.
                    repeats = load.repeats
                    full = time.monotonic()
                    while time.monotonic() - full < 15:
                        disk.fill()
                        time.sleep(0.2)
                    result.notes.append(f"{load.repeats - repeats} answers of 503 while it was full")
                    disk.free()
                    lifted = time.monotonic()
                    result.repetitions += 1
                load.end(90)
                judge.judge(result, load, lifted, deadline=90)
            result.notes.append("database alive throughout" if servers.pid("mariadb") else "database died")
        yield result
    finally:
        os.environ.pop("MARIADB_OPTIONS", None)
        if disk.mounted:
            servers.kill("mariadb")
            disk.unmount()
        servers.purge()


# Enabled by the presence of the repair job: without it nothing brings such messages back.
REPAIR = Path(__file__).resolve().parents[3] / "outboxd" / "repair.c"
REPAIR_QUICK = {"REPAIR_AFTER_SEC": 5, "REPAIR_INTERVAL_MS": 500}


def repair_case(case_name, title, shared, lose):
    @case(case_name, title, shared=shared)
    def repaired(run):
        if not REPAIR.exists():
            raise Skip("there is no repair job yet")
        result = Result(case_name, title, unit="times")
        servers = run.servers if shared else run.own_servers()
        with Site("repair", servers, replicas=1, **REPAIR_QUICK) as site:
            site.up()
            judge = Judge(site)
            with Load(site, run.new_seed(), rate=80) as load:
                for _ in range(run.times(2)):
                    time.sleep(2)
                    lose(site, servers)
                    lifted = time.monotonic()
                    result.repetitions += 1
                load.end()
                judge.judge(result, load, lifted, deadline=180)
        yield result


def fill_queues(site):
    """The consumers are stopped until there is something to lose; returns the queues."""
    for daemon in site.of("consumerd"):
        daemon.terminate()
    names = (site.broker.express, site.broker.normal)
    wait_until(lambda: sum(site.broker.ready(n) or 0 for n in names) > 50, 20, "messages in the queues")
    return names


def purge(site, servers):
    for name in fill_queues(site):
        response = requests.delete(f"{site.broker.management}/queues/%2F/{name}/contents",
                                   auth=site.broker.login, timeout=10)
        assert response.status_code == 204, response.text
    site.up()


def empty_broker(site, servers):
    fill_queues(site)
    servers.kill("rabbitmq")
    shutil.rmtree(Path(servers.state) / "rabbitmq" / "mnesia")
    servers.start("rabbitmq")
    site.up()


repair_case("queue purged", "queues purged with messages in them", True, purge)
repair_case("broker empty", "RabbitMQ restarted with an empty data folder", False, empty_broker)
