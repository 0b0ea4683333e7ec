"""Backup and restore of the database as docs/backup.md has them, under load, with the audit as the check."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "system"))

from harness.audit import quiesce  # noqa: E402
from harness.client import Load, recipient  # noqa: E402
from harness.metrics import Metrics  # noqa: E402
from harness.stack import Stack, binary  # noqa: E402
from harness.wait import wait_until  # noqa: E402

DAEMONS = ("api-1", "outboxd-1", "consumerd-1")
SENDS = 4000
UNFINISHED = "SELECT COUNT(*) FROM message_status WHERE status IN ('pending','sending')"


@pytest.fixture
def stack(request):
    """A platform of its own whose database keeps a binary log."""
    made = Stack(f"backup-{request.node.name.removeprefix('test_')[:12]}")
    os.environ["MARIADB_OPTIONS"] = "--log-bin=binlog --server-id=1 --sync-binlog=1"
    try:
        yield made.up()
    finally:
        del os.environ["MARIADB_OPTIONS"]
        made.purge()


def published(stack):
    return Metrics.of(stack.url("outboxd-1")).sum("msg_outbox_published_total")


class Server:
    """The database as its administrator reaches it: on its machine, over its socket."""

    def __init__(self, stack):
        self.data = Path(stack.state) / "mariadb" / "data"
        self.name = stack.values["DB_NAME"]

    def run(self, program, *options, **streams):
        # The socket's path is short where the folder's is not.
        done = subprocess.run([program, "--no-defaults", *options, "--socket=mysql.sock"], cwd=self.data,
                              stderr=subprocess.PIPE, timeout=300, **streams)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def sql(self, text):
        return self.run("mariadb", "-BNe", text, stdout=subprocess.PIPE).decode()

    def position(self):
        name, position = self.sql("SHOW MASTER STATUS").split()[:2]
        return name, int(position)

    def dump(self, to):
        with open(to, "wb") as f:
            self.run("mariadb-dump", "--single-transaction", "--quick", "--master-data=2", self.name, stdout=f)

    def load(self, dump):
        """In place of what is there, which nobody may be using."""
        self.sql(f"DROP DATABASE `{self.name}`; CREATE DATABASE `{self.name}` CHARACTER SET utf8mb4")
        with open(dump, "rb") as f:
            self.run("mariadb", self.name, stdin=f)

    def replay(self, dump, until):
        """What the binary log has from the dump's position to another one."""
        head = Path(dump).read_text(errors="replace")[:4000]
        first, start = re.search(r"MASTER_LOG_FILE='([^']+)', MASTER_LOG_POS=(\d+)", head).groups()
        logs = sorted(p.name for p in self.data.glob("binlog.0*") if first <= p.name <= until[0])
        log = subprocess.Popen(["mariadb-binlog", "--no-defaults", "--disable-log-bin", f"--start-position={start}",
                                f"--stop-position={until[1]}", f"--database={self.name}", *logs],
                               cwd=self.data, stdout=subprocess.PIPE)
        self.run("mariadb", stdin=log.stdout)
        log.stdout.close()
        assert log.wait(60) == 0


def audit(stack, *options):
    """Exit status and text of `msg-api audit --quiesced`."""
    done = subprocess.run([binary("api"), "audit", "--quiesced", *options], capture_output=True, text=True, timeout=120,
                          env={k: v for k, v in stack.values.items() if k.startswith(("DB_", "RABBIT_"))})
    print(done.stdout, done.stderr)
    return done.returncode, done.stdout + done.stderr


def restore_mode(stack, word):
    done = subprocess.run([binary("api"), "restore-mode", word], capture_output=True, text=True, timeout=120,
                          env={k: v for k, v in stack.values.items() if k.startswith(("DB_", "RABBIT_"))})
    print(done.stdout, done.stderr)
    return done.returncode, done.stdout


def operators(stack):
    return ["--operators", ",".join(stack.values[f"OPERATOR_{x}_CONTROL_URL"] for x in "AB")]


def dead(stack, *words):
    return subprocess.run([binary("consumerd"), "dead", *words], capture_output=True, text=True, timeout=60, check=True,
                          env={k: v for k, v in stack.values.items() if k.startswith(("DB_", "RABBIT_"))}).stdout


def stop_daemons(stack):
    for name in DAEMONS:
        stack.stop(name)


def start_daemons(stack):
    for name in DAEMONS:
        stack.start(name)


def loaded(stack, meanwhile):
    """Sends under way while `meanwhile` runs; returns when all are delivered."""
    customers = stack.db.seed_customers(50, 10_000)
    with Load([stack.api()], customers, SENDS, connections=4) as load:
        load.wait_accepted(SENDS // 3)
        meanwhile()
        assert len(load.accepted) < SENDS, "all was sent before the backup was taken"
        load.finish()
    quiesce(stack)
    return customers


def test_a_dump_alone(stack, tmp_path):
    """What came after it is gone; what was under way in it comes to its end, once."""
    server, dump = Server(stack), tmp_path / "backup.sql"

    def take():
        with stack.paused("consumerd-1"):  # so that something is unfinished for certain
            wait_until(lambda: stack.db.value(UNFINISHED), 30, "unfinished recipients")
            server.dump(dump)

    customers = loaded(stack, take)
    assert audit(stack, *operators(stack))[0] == 0
    # The queues hold what the backup does not know.
    stack.stop("consumerd-1")
    before = published(stack)
    for n in range(20):
        stack.api().sent(customers[n], [recipient(n)])
    wait_until(lambda: published(stack) == before + 20, 30, "20 messages in the queue")
    stop_daemons(stack)
    server.load(dump)
    restored = stack.db.value("SELECT COUNT(*) FROM message_status")
    unfinished = stack.db.value(UNFINISHED)
    assert 0 < restored < SENDS
    assert unfinished > 0
    restore_mode(stack, "on")  # 1 if the backup is so young that its consumers might live
    start_daemons(stack)
    assert stack.db.value(UNFINISHED) == unfinished
    assert restore_mode(stack, "resume")[0] == 0
    quiesce(stack, 180)
    print(f"{restored} recipients in the backup, {unfinished} of them unfinished")
    status, text = audit(stack)
    assert status == 0, text
    # The database does not know them: no row, no money, no second delivery.
    assert stack.broker.ready(stack.broker.dead) == 20
    dead(stack, "drop", "--all")
    assert stack.broker.ready(stack.broker.dead) == 0
    # Operators have what was delivered after the backup, and say so; nothing was delivered twice.
    status, text = audit(stack, *operators(stack))
    assert status == 1 and "nobody sent it" in text
    assert sum(len(o.ledger()) for o in stack.operators) == SENDS
    assert stack.db.value("SELECT COUNT(*) FROM message_status WHERE status='done'") == restored


def test_a_dump_and_the_binary_log(stack, tmp_path):
    """Up to just before a mishap, nothing is missing."""
    server, dump = Server(stack), tmp_path / "backup.sql"
    loaded(stack, lambda: server.dump(dump))
    before = server.position()
    server.sql(f"DELETE FROM `{server.name}`.user_transactions WHERE transaction_type='withdrawal'")
    assert audit(stack)[0] == 1
    stop_daemons(stack)
    server.load(dump)
    server.replay(dump, before)
    start_daemons(stack)
    quiesce(stack)
    status, text = audit(stack, *operators(stack))
    assert status == 0, text
    assert stack.db.value("SELECT COUNT(*) FROM message_status WHERE status='done'") == SENDS


@pytest.mark.skipif(not shutil.which("mariadb-backup"), reason="needs mariadb-backup")
def test_a_copy_of_the_files(stack, tmp_path):
    """mariadb-backup: as a dump, faster on a large database."""
    server, copy = Server(stack), tmp_path / "backup"

    def take():
        server.run("mariadb-backup", "--backup", f"--datadir={server.data}", f"--target-dir={copy}",
                   stdout=subprocess.DEVNULL)

    loaded(stack, take)
    subprocess.run(["mariadb-backup", "--no-defaults", "--prepare", f"--target-dir={copy}"], check=True,
                   capture_output=True, timeout=120)
    stop_daemons(stack)
    stack.stop("mariadb")
    server.data.rename(tmp_path / "lost")
    subprocess.run(["mariadb-backup", "--no-defaults", "--copy-back", f"--target-dir={copy}", f"--datadir={server.data}"],
                   check=True, capture_output=True, timeout=120)
    stack.start("mariadb")
    restored = stack.db.value("SELECT COUNT(*) FROM message_status")
    assert 0 < restored < SENDS
    restore_mode(stack, "on")
    start_daemons(stack)
    assert restore_mode(stack, "resume")[0] == 0
    quiesce(stack, 180)
    status, text = audit(stack)
    assert status == 0, text
    assert sum(len(o.ledger()) for o in stack.operators) == SENDS
