"""Who is the primary. Both servers start read-only; a server takes writes only because `promote` said so, and it says
so after the other one can take none.

durable     a commit is answered when the replica has it, however long that takes
available   … for SEMISYNC_TIMEOUT_MS at most; after that commits are answered with one copy, until the replica is back

A primary whose replica is gone for good goes on alone, in both modes: that is what a promotion decides. Until
`rebuild` has made a replica there is one copy.
"""

import shutil
import subprocess
import time

from localstack.config import DAEMONS, DB_USER_NAME, StackError
from localstack.process import wait_until
from localstack.services import base_environment, find_program

from .config import DATABASES, DBA, MACHINES, PASSWORD, REPLICATOR

FOREVER_MS = 2**32 - 1  # 49 days
CONNECT_SEC = 2
FENCE_SEC = 4    # how long a primary may take to become read-only before its power is cut
APPLY_SEC = 120  # … and a replica to apply what it has received
FOLLOW_SEC = 60


class Unreachable(StackError):
    pass


class Server:
    def __init__(self, config, machine):
        self.config, self.machine = config, machine
        self.address = config.address(machine)
        self.service = MACHINES[machine].services[0]

    def run(self, sql, *options, timeout=15):
        command = [find_program("mariadb"), "--no-defaults", f"--host={self.address}", "--protocol=tcp",
                   f"--port={self.config.port('mariadb')}", f"--user={DBA}", "--batch",
                   f"--connect-timeout={CONNECT_SEC}", *options, f"--execute={sql}"]
        try:
            done = subprocess.run(command, env=dict(base_environment(), MYSQL_PWD=PASSWORD), text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout)
        except subprocess.TimeoutExpired as e:
            raise Unreachable(f"{self.machine} did not answer within {timeout} s: {sql}") from e
        if done.returncode:
            kind = Unreachable if "ERROR 20" in done.stderr else StackError
            raise kind(f"{self.machine}: {done.stderr.strip()}")
        return done.stdout

    def values(self, *expressions):
        return self.run("SELECT " + ",".join(expressions), "--skip-column-names").rstrip("\n").split("\t")

    def value(self, expression):
        return self.values(expression)[0]

    def status(self, name):
        return self.value("(SELECT variable_value FROM information_schema.global_status"
                          f" WHERE variable_name='{name}')")

    def reachable(self):
        try:
            self.value("1")
            return True
        except Unreachable:
            return False

    def writable(self):
        try:
            return self.value("@@read_only") == "0"
        except Unreachable:
            return False

    def replication(self):
        """SHOW SLAVE STATUS; {} of a server that follows nobody."""
        lines = self.run("SHOW SLAVE STATUS\\G").splitlines()
        return {k.strip(): v.strip() for k, colon, v in (line.partition(":") for line in lines) if colon}

    def follows(self, primary):
        try:
            return self.replication().get("Master_Host") == primary.address
        except Unreachable:
            return False


def sequence(position):
    """'0-1-5000' -> (1, 5000): who made the last transaction, and its number."""
    if not position:
        return 0, 0
    _, server, number = position.split(",")[-1].split("-")
    return int(server), int(number)


class Databases:
    """`power_off(service)`, `power_on(service)`: how the machine under a server is switched. `say`: where what a person
    should know goes."""

    def __init__(self, config, power_off, power_on, say=print):
        self.config, self.power_off, self.power_on, self.say = config, power_off, power_on, say
        self.servers = {m: Server(config, m) for m in DATABASES}

    def server(self, machine):
        if machine not in self.servers:
            raise StackError(f"{machine} is none of {' '.join(DATABASES)}")
        return self.servers[machine]

    def other(self, server):
        return next(s for s in self.servers.values() if s is not server)

    def primary(self):
        """The writable server, or None."""
        return next((s for s in self.servers.values() if s.writable()), None)

    # -- promotion -----------------------------------------------------------------------------------

    def promote(self, machine, force=False):
        """force: without fencing the other one; whoever does that knows that it is dead."""
        target = self.server(machine)
        old = self.other(target)
        if target.writable():
            self.say(f"{machine} is the primary already")
            return
        if not target.reachable():
            raise StackError(f"{machine} does not answer")
        replica = bool(target.replication())
        if not replica and self.config.primary not in ("", machine):
            raise StackError(f"{machine} is no replica of {self.config.primary}: rebuild it first")
        fenced = "nobody" if force else self.fence(old)
        if replica:
            self._take_over(target, old, fenced)
        self.config.primary = machine
        self.config.save()
        self._open(target, None if replica or fenced == "power" else old)

    def fence(self, server):
        """After this it can take no write; how."""
        try:
            server.run("SET GLOBAL read_only=1", timeout=FENCE_SEC)
        except StackError:
            # Dead, out of reach, or full of commits that wait for a replica: whatever it is, its machine goes.
            self.power_off(server.service)
            return "power"
        for user in (DB_USER_NAME, *(f"msg_{kind}" for kind in DAEMONS)):
            server.run(f"KILL CONNECTION USER '{user}'")
        server.run("SET GLOBAL rpl_semi_sync_master_enabled=0")
        return "read-only"

    def _take_over(self, target, old, fenced):
        if fenced == "read-only":
            # It is well: the replica gets the rest of it, too.
            last = old.value("@@gtid_binlog_pos")
            if not wait_until(lambda: self._has(target, last), time.monotonic() + FOLLOW_SEC):
                raise StackError(f"{target.machine} does not get to {last} of {old.machine}, which is read-only now;"
                                 f" promote {old.machine} again, or cut its power and promote {target.machine}")
        elif not self.config.durable:
            self.say(f"{target.machine} may lack what {old.machine} has answered while it waited for no replica;"
                  f" `rebuild {old.machine}` will tell")
        received = self._stop_receiving(target)
        if not wait_until(lambda: self._has(target, received), time.monotonic() + APPLY_SEC):
            raise StackError(f"{target.machine} has not applied its relay log after {APPLY_SEC} s; it is not promoted")
        self.config.takeover = target.value("@@gtid_slave_pos")
        target.run("STOP SLAVE; RESET SLAVE ALL")

    @staticmethod
    def _stop_receiving(target):
        """The last transaction that it has received, which it goes on to apply. At no time may both of its threads be
        stopped: the next start throws the relay log away, with what was answered and not applied."""
        state = target.replication()
        if state["Slave_SQL_Running"] != "Yes":
            if state["Slave_IO_Running"] == "No":
                raise StackError(f"{target.machine} has stopped to receive and to apply, and would forget what it has"
                                 f" received ({state['Gtid_IO_Pos']}) when it is started")
            target.run("START SLAVE SQL_THREAD")
        target.run("STOP SLAVE IO_THREAD")
        return target.replication()["Gtid_IO_Pos"]

    @staticmethod
    def _has(target, position):
        return sequence(target.value("@@gtid_slave_pos"))[1] >= sequence(position)[1]

    def _open(self, server, replica):
        """Writes are taken from here on; by a server with a replica not before that is asked."""
        if replica and replica.follows(server):
            self.ask_replica(server, replica)
        else:
            server.run("SET GLOBAL rpl_semi_sync_master_enabled=0")
            self.say(f"{server.machine} has no replica: there is one copy until `rebuild {self.other(server).machine}`")
        server.run("SET GLOBAL read_only=0")

    def ask_replica(self, server, replica):
        """From here on commits wait for the replica, which has all that there was before. It has to connect again to
        be asked."""
        server.run("SET GLOBAL rpl_semi_sync_master_timeout="
                   f"{FOREVER_MS if self.config.durable else self.config.settings['SEMISYNC_TIMEOUT_MS']};"
                   "SET GLOBAL rpl_semi_sync_master_enabled=1")
        replica.run("STOP SLAVE IO_THREAD; START SLAVE")
        last = server.value("@@gtid_current_pos")
        if not wait_until(lambda: server.status("Rpl_semi_sync_master_clients") != "0" and self._has(replica, last),
                          time.monotonic() + FOLLOW_SEC):
            raise StackError(f"{replica.machine} does not follow {server.machine}: {replica.replication()}")

    def set_mode(self):
        """Of the primary that there is, if its commits wait for a replica at all."""
        server = self.primary()
        if server and server.value("@@rpl_semi_sync_master_enabled") == "1":
            server.run("SET GLOBAL rpl_semi_sync_master_timeout="
                       f"{FOREVER_MS if self.config.durable else self.config.settings['SEMISYNC_TIMEOUT_MS']}")

    # -- replicas ------------------------------------------------------------------------------------

    def begin(self):
        """Two new servers, or the two of before."""
        first = self.server(self.config.primary or DATABASES[0])
        if self.primary():
            return
        second = self.other(first)
        if not self.config.primary:
            self.follow(second, first)
        self.promote(first.machine)

    def follow(self, replica, primary):
        replica.run("STOP SLAVE; RESET SLAVE ALL; SET GLOBAL gtid_slave_pos=@@gtid_current_pos;"
                    f"CHANGE MASTER TO MASTER_HOST='{primary.address}', MASTER_PORT={self.config.port('mariadb')},"
                    f" MASTER_USER='{REPLICATOR}', MASTER_PASSWORD='{PASSWORD}', MASTER_USE_GTID=slave_pos,"
                    " MASTER_CONNECT_RETRY=1, MASTER_HEARTBEAT_PERIOD=1; START SLAVE")

    def rebuild(self, machine, copy=False):
        """A replica again, of the primary that there is: as it is when it has nothing of its own, else from a copy."""
        server = self.server(machine)
        primary = self.primary()
        if primary in (None, server):
            raise StackError(f"there is no other primary than {machine}" if primary else "there is no primary")
        self.power_on(server.service)
        if server.follows(primary) and not copy:
            server.run("START SLAVE")
        else:
            own = self._own(server)
            if own:
                self.say(f"{machine} has {own} transactions of its own, after {self.config.takeover or 'none'};"
                      " what was answered of them is lost")
            elif not copy:
                self.say(f"{machine} has no transaction of its own")
            if own or copy:
                self._copy(server, primary)
            self.follow(server, primary)
        last = primary.value("@@gtid_current_pos")
        if not wait_until(lambda: self._has(server, last), time.monotonic() + APPLY_SEC):
            raise StackError(f"{machine} does not catch up: {server.replication()}")
        self.ask_replica(primary, server)

    def _own(self, server):
        """How many transactions it made that the primary did not have when it took over."""
        maker, number = sequence(server.value("@@gtid_current_pos"))
        mine = int(server.value("@@server_id"))
        return max(0, number - sequence(self.config.takeover)[1]) if maker == mine else 0

    def _copy(self, server, primary):
        # Commits that wait for a replica would keep the copy from its end.
        primary.run("SET GLOBAL rpl_semi_sync_master_enabled=0")
        self.power_off(server.service)
        folder = self.config.state_dir / server.service
        fresh = folder / "fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        source = self.config.state_dir / primary.service / "data"
        backup = [find_program("mariabackup"), "--no-defaults", f"--target-dir={fresh}"]
        account = [f"--host={primary.address}", f"--user={DBA}", f"--password={PASSWORD}", "--protocol=tcp"]
        for command in ([*backup, "--backup", f"--datadir={source}", *account], [*backup, "--prepare"]):
            done = subprocess.run(command, env=base_environment(), stdout=subprocess.PIPE, cwd=source,
                                  stderr=subprocess.STDOUT, text=True)
            if done.returncode:
                raise StackError(f"mariabackup failed:\n{done.stdout[-2000:]}")
        position = (fresh / "xtrabackup_binlog_info").read_text().split()[2]
        shutil.rmtree(folder / "data")
        fresh.rename(folder / "data")
        self.power_on(server.service)
        server.run(f"SET GLOBAL gtid_slave_pos='{position}'")
        self.say(f"{server.machine} is a copy of {primary.machine} at {position}")

    # -- looking -------------------------------------------------------------------------------------

    def describe(self, machine):
        server = self.server(machine)
        try:
            read_only, asks = server.values("@@read_only", "@@rpl_semi_sync_master_enabled")
            if read_only == "0":
                if asks == "0":
                    return "primary, alone"
                waits = server.status("Rpl_semi_sync_master_status") == "ON"
                return f"primary, {self.config.settings['CLUSTER_MODE']}" + ("" if waits else ", without its replica")
            state = server.replication()
            if not state:
                return "read-only, of nobody"
            lag = state["Seconds_Behind_Master"]
            problem = state["Last_IO_Error"] or state["Last_SQL_Error"]
            return f"replica, {lag} s behind" if not problem else f"replica: {problem[:120]}"
        except StackError:
            return "silent"
