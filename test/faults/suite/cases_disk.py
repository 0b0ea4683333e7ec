"""Disks that are full: the database's, the broker's, and the one that logs go to."""

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path

from harness.stack import Stack

from .cases import Skip, case
from .check import Judge, Result
from .load import Load
from .site import PATIENT, REPAIR_QUICK, Background, Site
from .watch import cpu_sec, resumed, total, until

FULL_SEC = 15
RESUMED_SEC = 10
SMALL_FILES = ("--innodb-log-file-size=16M --innodb-buffer-pool-size=64M"
               " --innodb-data-file-path=ibdata1:4M:autoextend"
               " --innodb-temp-data-file-path=ibtmp1:2M:autoextend --innodb-autoextend-increment=1")


class SmallDisk:
    """A tmpfs that a file can fill."""

    def __init__(self, folder, size_mb):
        self.folder, self.size_mb = Path(folder), size_mb
        self.filler = self.folder / "filler"
        self.mounted = False

    def mount(self):
        if os.geteuid() != 0:
            raise Skip("a small tmpfs needs root")
        self.folder.mkdir(parents=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={self.size_mb}m", "tmpfs", self.folder],
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

    def stay_full_until(self, stop):
        """What others free is taken again."""
        self.fill()
        while not stop.wait(0.2):
            self.fill()

    def stay_full(self, seconds):
        with Background(self.stay_full_until):
            time.sleep(seconds)

    def free(self):
        self.filler.unlink()


@contextlib.contextmanager
def servers_on_small_disk(name, size_mb):
    """Servers of which the named one has its data on a disk that can be filled."""
    os.environ["MARIADB_OPTIONS"] = SMALL_FILES
    servers = Stack("small-disk")
    disk = SmallDisk(Path(servers.state) / name, size_mb)
    try:
        disk.mount()
        servers.up("backends")
        os.environ.pop("MARIADB_OPTIONS")
        yield servers, disk
    finally:
        os.environ.pop("MARIADB_OPTIONS", None)
        if disk.mounted:
            servers.kill(name)
            disk.unmount()
        servers.purge()


def started_again(servers, name):
    """A server that could not write may have ended itself; True when it had to be started."""
    if servers.pid(name):
        return False
    servers.start(name)
    return True


@case("database disk full", "the database's disk full, then freed", shared=False)
def database_disk_full(run):
    result = Result("database disk full", f"the database's disk full for {FULL_SEC} s, then freed",
                    unit="times")
    with servers_on_small_disk("mariadb", 160) as (servers, disk), \
            Site("disk", servers, replicas=1, **PATIENT) as site:
        site.up()
        judge = Judge(site)
        died = 0
        with Load(site, run.new_seed(), rate=100) as load:
            for _ in range(run.times(3)):
                time.sleep(2)
                # Small files grow in steps; traffic fills what is left until somebody is told no.
                told = load.answers[503]
                disk.stay_full(FULL_SEC)
                told = load.answers[503] - told
                disk.free()
                died += started_again(servers, "mariadb")
                lifted = time.monotonic()
                slowest = resumed(site, load, result, RESUMED_SEC, "the disk has room again")
                result.notes.append(f"{told} answers of 503 while it was full, at work again after"
                                    f" {slowest:.1f} s")
                if not told:
                    result.violate("nobody was told 503: the disk was not full")
                result.repetitions += 1
            load.end(90)
            judge.judge(result, load, lifted, deadline=90)
        if load.cut or set(load.answers) - {200, 503}:
            result.violate(f"answers {dict(load.answers)}, {load.cut} requests cut")
        result.notes.append(f"MariaDB died {died} times")
    yield result


@case("broker disk full", "the broker's disk full, then freed", shared=False)
def broker_disk_full(run):
    """Quorum queues that could not write their log stand still until RabbitMQ is started again. RabbitMQ may
    not be able to read a log that was cut short (corrupt_log, every publish refused): then its person does
    what the runbook says, and the repair publishes what the queues held."""
    result = Result("broker disk full", f"RabbitMQ's disk full for {FULL_SEC} s, then freed and RabbitMQ"
                    " started again; its data folder emptied when its queues do not come back", unit="times")
    lost_logs = 0
    with servers_on_small_disk("rabbitmq", 400) as (servers, disk), \
            Site("disk", servers, replicas=1, **REPAIR_QUICK, **PATIENT) as site:
        site.up()
        judge = Judge(site)
        with Load(site, run.new_seed(), rate=100) as load:
            for _ in range(run.times(3)):
                time.sleep(2)
                disk.stay_full(FULL_SEC)
                waiting = site.db.value("SELECT COUNT(*) FROM outbox_events")
                if waiting < 100:
                    result.violate(f"only {waiting} wait in the outbox: the disk was not full")
                disk.free()
                servers.kill("rabbitmq")
                servers.start("rabbitmq")
                if not queues_came_back(servers, site, load, result):
                    lost_logs += 1
                    servers.kill("rabbitmq")
                    shutil.rmtree(disk.folder / "mnesia")
                    servers.start("rabbitmq")
                lifted = time.monotonic()
                resumed(site, load, result, RESUMED_SEC, "the disk has room again")
                result.repetitions += 1
            load.end(90)
            judge.judge(result, load, lifted, deadline=90)
        if load.repeats or load.cut:
            result.violate(f"senders saw it: {dict(load.answers)}, {load.cut} cut")
    result.notes.append(f"RabbitMQ could not read its queues' log again {lost_logs} of {result.repetitions} times")
    yield result


def queues_came_back(servers, site, load, result):
    """Whether work went on; False only when RabbitMQ itself says that a queue's log is corrupt."""
    attempt = Result("", "", unit="times")
    resumed(site, load, attempt, RESUMED_SEC, "RabbitMQ has started")
    if not attempt.violations:
        return True
    log = started_log(servers)
    if "corrupt_log" not in log:
        errors = [line for line in log.splitlines() if "[error]" in line]
        result.violate(f"RabbitMQ stands still after its start: {errors[:3]}")
    return "corrupt_log" not in log


def started_log(servers):
    """What RabbitMQ wrote since its last start."""
    text = (Path(servers.state) / "log" / "rabbitmq.log").read_text(errors="replace")
    return text[text.rindex(" Starting RabbitMQ "):]


@case("log disk full", "the disk that the daemons log to full")
def log_disk_full(run):
    """Lines are dropped and counted, nothing waits for them, and logging goes on when there is room."""
    result = Result("log disk full", "the disk that the daemons log to full, then freed", unit="times")
    with Site("log", run.servers, replicas=1, LOG_LEVEL="debug") as site:
        disk = SmallDisk(Path(site.stack.directory) / "log-disk", 8)
        disk.mount()
        try:
            for daemon in site.daemons.values():
                daemon.log = disk.folder / f"{daemon.name}.log"
                with open(daemon.log, "ab") as log:
                    daemon.start(stdout=log)
            site.up()
            judge = Judge(site, torn_logs=True)
            with Load(site, run.new_seed(), rate=100) as load:
                for _ in range(run.times(3)):
                    log_full(site, load, disk, result)
                    lifted = time.monotonic()
                    result.repetitions += 1
                load.end()
                judge.judge(result, load, lifted)
            if load.repeats:
                result.violate(f"{load.repeats} sends were turned away")
        finally:
            for daemon in site.daemons.values():
                daemon.kill()
            disk.unmount()
    yield result


def accepted_within(load, seconds):
    began = time.monotonic()
    time.sleep(seconds)
    return load.accepted_since(began)


def log_full(site, load, disk, result, seconds=8):
    daemons = list(site.daemons.values())
    before = accepted_within(load, seconds)
    dropped, used = total(daemons, "msg_log_dropped_total"), sum(map(cpu_sec, daemons))
    with Background(disk.stay_full_until):
        full = accepted_within(load, seconds)
        dropped = total(daemons, "msg_log_dropped_total") - dropped
        used = (sum(map(cpu_sec, daemons)) - used) / seconds
    disk.free()
    result.notes.append(f"full: {dropped:.0f} lines dropped, {full} sends accepted in {seconds} s ({before}"
                        f" before), {used:.0%} of a core in all")
    if not dropped:
        result.violate("no dropped line was counted")
    if full < 0.9 * before:
        result.violate(f"{full} sends were accepted in {seconds} s, {before} before")
    sizes = {d.name: d.log.stat().st_size for d in daemons}
    until(result, lambda: all(d.log.stat().st_size > sizes[d.name] for d in daemons if d.kind != "outboxd"),
          10, "lines are written again")
