"""What running daemons say and use, read while something is wrong."""

import contextlib
import time
from pathlib import Path

import pymysql
import requests
from harness.metrics import Metrics
from harness.wait import Timeout, wait_until


def cpu_sec(daemon):
    """What all its threads have run, in nanoseconds' resolution."""
    threads = Path(f"/proc/{daemon.process.pid}/task").glob("*/schedstat")
    return sum(int(t.read_text().split()[0]) for t in threads) / 1e9


def total(daemons, name, **labels):
    """The sum of a metric over daemons."""
    return sum(Metrics.of(d.url).sum(name, **labels) for d in daemons)


def finished(site):
    """Recipients that are final."""
    return site.db.value("SELECT COUNT(*) FROM message_status WHERE status IN ('done','failed')")


def until(result, condition, deadline, what, pause=0.05):
    """Seconds until the condition holds; a violation when that is not within the deadline."""
    began = time.monotonic()
    try:
        wait_until(condition, deadline, what, pause=pause)
    except Timeout as e:
        result.violate(str(e)[:500])
    return time.monotonic() - began


def resumed(site, load, result, deadline, what):
    """Everybody is ready, sends are accepted and messages become final again; returns the seconds."""
    began = time.monotonic()
    before = []

    def again():
        with contextlib.suppress(requests.RequestException, pymysql.Error):
            if not all(d.ready() for d in site.daemons.values()):
                return False
            before.append(finished(site))
            return load.accepted_since(began) and before[-1] > before[0]
        return False

    return until(result, again, deadline, f"work goes on after {what}")
