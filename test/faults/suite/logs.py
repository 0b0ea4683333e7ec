"""The daemons' logs after a fault: each line one JSON object with its fields, about a message with the
trace that its sender gave it, and nothing that a customer would not want to read there.
"""

import json
import re

from .load import TEXT
from .site import REJECTED, TAKEN

TS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
EVENT = re.compile(r"[a-z_]+(\.[a-z_]+)?")
LEVELS = ("debug", "info", "warn", "error")
# A recipient stands alone: the hexadecimal digits of ids may look like one.
SECRET = re.compile(rb"(?<![\w-])(?:%s|%s)\d{8}(?![\w-])|%s" % (TAKEN.encode(), REJECTED.encode(), TEXT.encode()))
# About messages whose rows were read, so that their trace is known.
TRACED = ("delivery.done", "delivery.failed", "delivery.retry", "delivery.lost", "delivery.put_off",
          "delivery.taken_over")
START = b'{"ts":"'


def _once(pairs):
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


class LogCheck:
    """torn: a full disk may have cut lines off."""

    def __init__(self, daemons, torn=False):
        self.daemons, self.torn = daemons, torn
        self.read = {}    # file -> bytes of it that were looked at
        self.traces = {}  # message -> trace
        self.lines = self.traced = 0

    def check(self, load):
        """What is wrong with the lines since the last check, as sentences."""
        self.traces.update({m: load.traces[key] for key, m in load.accepted.items()})
        wrong = []
        before = self.lines, self.traced
        for daemon in self.daemons():
            if daemon.log.exists():
                wrong += [f"log of {daemon.name}: {sentence}" for sentence in self._file(daemon)]
        if self.lines > before[0] and load.accepted and self.traced == before[1]:
            wrong.append("logs: no line is about a message that was sent")
        return wrong

    def _file(self, daemon):
        with open(daemon.log, "rb") as log:
            log.seek(self.read.get(daemon.log, 0))
            data = log.read()
        data = data[:data.rfind(b"\n") + 1]  # the rest is still being written
        self.read[daemon.log] = self.read.get(daemon.log, 0) + len(data)
        for line in data.splitlines():
            self.lines += 1
            for part in self._whole(line):
                if sentence := self._line(part, f"msg-{daemon.kind}"):
                    yield f"{sentence}: {part[:300].decode(errors='replace')}"

    def _whole(self, line):
        """Without what a death in mid-line has left before the next process's first line."""
        start = line.rfind(START)
        if start > 0 and b'"event":"start"' in line[start:] and not SECRET.search(line[:start]):
            return [line[start:]]
        if self.torn and line.startswith(START) and not line.endswith(b"}") and not SECRET.search(line):
            return []
        return [line]

    def _line(self, line, service):
        if SECRET.search(line):
            return "a recipient or a text"
        try:
            entry = json.loads(line, object_pairs_hook=_once)
        except ValueError as e:
            return f"no JSON object ({e})"
        if not isinstance(entry, dict):
            return "no JSON object"
        if not TS.fullmatch(str(entry.get("ts"))) or entry.get("level") not in LEVELS \
                or entry.get("service") != service or not entry.get("version") \
                or not EVENT.fullmatch(str(entry.get("event"))):
            return "not the fields of every line"
        return self._trace(entry)

    def _trace(self, entry):
        trace, span = entry.get("trace_id"), entry.get("span_id")
        if (trace, span) != (None, None) and not (re.fullmatch("[0-9a-f]{32}", str(trace))
                                                  and re.fullmatch("[0-9a-f]{16}", str(span))):
            return "not the ids of a trace"
        wanted = self.traces.get(entry.get("message_id"))
        if wanted is None or (trace is None and entry["event"] not in TRACED):
            return None
        self.traced += trace == wanted
        return None if trace == wanted else f"not the trace that was sent, {wanted}"
