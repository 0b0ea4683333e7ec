"""Processes that outlive the call that started them.

A process is known by its pid together with its start time and the boot it belongs to: a pid that was
given to somebody else meanwhile is never signalled.
"""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from .config import StackError

POLL = 0.02


def _boot_id():
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _stat(pid):
    """(state, parent, start time) of a pid, or None."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2:].split()  # the name before it may hold spaces and brackets
    return fields[0], int(fields[1]), int(fields[19])


def wait_until(condition, deadline):
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL)
    return True


class Process:
    def __init__(self, config, name):
        self.config = config
        self.name = name
        self.record_file = config.state_dir / "run" / f"{name}.json"
        self._child = None

    def pid(self):
        """The pid of the running process, else None."""
        record = self._record()
        if record and self._alive(record["pid"], record["start"]) and record["boot"] == _boot_id():
            return record["pid"]
        return None

    def _record(self):
        try:
            return json.loads(self.record_file.read_text())
        except FileNotFoundError:
            return None

    def _alive(self, pid, start):
        if self._child:
            self._child.poll()  # reaps it, if it is ours and has ended
        return _runs(pid, start)

    def spawn(self, command, env, cwd):
        self.record_file.parent.mkdir(parents=True, exist_ok=True)
        log = self.config.log_file(self.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as output:
            try:
                self._child = subprocess.Popen(command, env=env, cwd=cwd, stdin=subprocess.DEVNULL,
                                               stdout=output, stderr=subprocess.STDOUT,
                                               start_new_session=True)
            except OSError as e:
                raise StackError(f"{self.name}: cannot start {command[0]}: {e.strerror}") from e
        stat = _stat(self._child.pid)
        self.record_file.write_text(json.dumps(
            {"pid": self._child.pid, "start": stat[2] if stat else 0, "boot": _boot_id()}))

    def signal(self, number):
        pid = self.pid()
        if pid:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
        return pid is not None

    def kill(self):
        """SIGKILL to the process and whatever it has started; returns when all of it is gone."""
        pid = self.pid()
        if not pid:
            return
        family = _descendants(pid)
        self.signal(signal.SIGKILL)
        deadline = time.monotonic() + 10
        wait_until(lambda: not self.pid(), deadline)
        # Helpers normally end with their parent; those that do not are ended here.
        wait_until(lambda: not _living(family), time.monotonic() + 1)
        for child, start in _living(family):
            os.kill(child, signal.SIGKILL)
        if not wait_until(lambda: not self.pid() and not _living(family), deadline):
            raise StackError(f"{self.name}: pid {pid} cannot be ended")

    def await_end(self, timeout):
        """After a SIGTERM: waits, then kills. False when it had to be killed. No second SIGTERM is
        sent, since a daemon takes that for impatience and leaves at once."""
        if wait_until(lambda: not self.pid(), time.monotonic() + timeout):
            return True
        self.kill()
        return False

    def forget(self):
        self.record_file.unlink(missing_ok=True)

    def log_tail(self, lines=25):
        try:
            with open(self.config.log_file(self.name), "rb") as f:
                f.seek(0, os.SEEK_END)
                f.seek(max(0, f.tell() - 65536))
                text = f.read().decode(errors="replace")
        except FileNotFoundError:
            return "(no log)"
        return "\n".join(text.splitlines()[-lines:]) or "(empty log)"


def _descendants(root):
    """All processes below a pid as (pid, start time)."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            stat = _stat(int(entry))
            if stat:
                children.setdefault(stat[1], []).append((int(entry), stat[2]))
    found, queue = [], [root]
    while queue:
        for child in children.get(queue.pop(), ()):
            found.append(child)
            queue.append(child[0])
    return found


def _runs(pid, start):
    """Whether anything of that process is left. Its first thread may have ended before the others, which hold
    files and sockets until they have ended as well."""
    stat = _stat(pid)
    if not stat or stat[2] != start:
        return False
    try:
        return stat[0] not in "ZX" or len(os.listdir(f"/proc/{pid}/task")) > 1
    except OSError:
        return False


def _living(family):
    return [(pid, start) for pid, start in family if _runs(pid, start)]
