"""Wall clocks that are wrong, and that jump."""

import http.client
import json
import re
import subprocess
import sys
import time
import uuid
from datetime import datetime, timezone
from pathlib import Path

from .cases import case
from .cases_stopped import AS_SHIPPED
from .check import Judge, Result
from .load import FUNDS, Load
from .site import Background, Site
from .watch import total

HOUR = 3600
RPS, BURST = 5, 20  # of one customer
GREEDY = 10_000_001  # the first customer that takes all it can get


class Clocks:
    """Two groups of daemons, each with an offset of its wall clock that can be changed at any time.
    Monotonic clocks are left alone."""

    def __init__(self, site):
        folder = Path(site.stack.directory)
        library = folder / "wallclock.so"
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library,
                        Path(__file__).with_name("wallclock.c")], check=True)
        self.files = [folder / "clock-0", folder / "clock-1"]
        self.set(-HOUR, HOUR)
        for n, daemon in enumerate(site.daemons.values()):
            daemon.settings.update(LD_PRELOAD=str(library), WALLCLOCK_FILE=str(self.files[n % 2]))

    def set(self, *offsets_sec):
        for file, offset in zip(self.files, offsets_sec):
            with open(file, "r+b" if file.exists() else "wb") as f:
                f.write(offset.to_bytes(8, sys.byteorder, signed=True))


def offset_in_log(daemon):
    """How far the clock of the last line is from ours, in seconds."""
    stamps = re.findall(r'"ts":"([^"]+)Z"', daemon.log.read_text())
    then = datetime.fromisoformat(stamps[-1]).replace(tzinfo=timezone.utc)
    return then.timestamp() - time.time()


class Greedy:
    """Sends of one customer to one msg-api, as fast as it answers; when each was asked and let through."""

    def __init__(self, address, headers, customer):
        self.address, self.customer = address, customer
        self.headers = {**headers, "Content-Type": "application/json"}
        self.passed = []  # (asked, answered)

    def __call__(self, stop):
        connection = http.client.HTTPConnection(self.address, timeout=20)
        body = json.dumps({"customer_id": self.customer, "text": "hi", "recipients": ["0912"],
                           "type": "normal"})
        while not stop.wait(0.004):
            asked = time.monotonic()
            connection.request("POST", "/messages/send", body, self.headers)
            response = connection.getresponse()
            response.read()
            if response.status == 200:
                self.passed.append((asked, time.monotonic()))
            elif response.status != 429:
                raise AssertionError(f"answered with {response.status}")
        connection.close()


def excess(passed):
    """The most that any stretch of time let through above a bucket and its refill."""
    worst, lowest = 0.0, float("inf")
    for n, (asked, answered) in enumerate(passed):
        lowest = min(lowest, n - RPS * asked)
        worst = max(worst, n + 1 - RPS * answered - lowest - BURST)
    return worst


@case("clock", "the daemons' wall clocks an hour off, and jumping")
def clock(run):
    result = Result("clock", "the wall clocks of half of the daemons an hour ahead, of the others an hour"
                    " behind, and jumping by one or two hours under load", unit="jumps")
    with Site("clock", run.servers, USER_RATE_LIMIT_RPS=RPS, USER_RATE_LIMIT_BURST=BURST,
              **AS_SHIPPED) as site:
        clocks = Clocks(site)
        site.up()
        for n, daemon in enumerate(site.daemons.values()):
            offset = offset_in_log(daemon)
            if abs(offset - (-HOUR, HOUR)[n % 2]) > 60:
                result.violate(f"the clock of {daemon.name} is {offset:.0f} s off: it was not set")
        judge = Judge(site)
        jumping(run, site, clocks, judge, result)
        deaths(run, site, clocks, judge, result)
    yield result


def jumping(run, site, clocks, judge, result):
    """Nobody dies, so nothing may be taken over, come twice, or be let through early."""
    site.db.seed_customers(2, FUNDS, first=GREEDY)
    with Load(site, run.new_seed(), rate=60) as load:
        greedy = [Greedy(address, site.headers, GREEDY + i) for i, address in enumerate(load.addresses)]
        with Background(greedy[0]), Background(greedy[1]):
            time.sleep(2)
            for n in range(run.times(20, 4)):
                offset = (0, HOUR, -HOUR, HOUR)[n % 4]
                clocks.set(offset, -offset)
                result.repetitions += 1
                time.sleep(run.rng.uniform(1.5, 2.5))
        lifted = time.monotonic()
        load.end()
        judge.judge(result, load, lifted)
        seen = {round((uuid.UUID(m).int >> 80) / 1000 / HOUR - time.time() / HOUR)
                for m in load.accepted.values()}
        if seen != {-1, 0, 1}:
            result.violate(f"identifiers were made {sorted(seen)} hours off: the clocks did not jump")
    taken = total(site.of("consumerd"), "msg_takeovers_total")
    repaired = total(site.of("consumerd"), "msg_repaired_total")
    if taken or repaired or result.repeats:
        result.violate(f"{taken:.0f} recipients taken over, {repaired:.0f} messages repaired,"
                       f" {result.repeats} repeats at the operators")
    for g in greedy:
        if excess(g.passed) > 1:
            result.violate(f"{excess(g.passed):.0f} sends of one customer passed above one bucket")
    result.notes.append("at its limit, a customer was let through "
                        + " and ".join(f"{len(g.passed)} times in {g.passed[-1][1] - g.passed[0][0]:.1f} s"
                                       for g in greedy))


def deaths(run, site, clocks, judge, result):
    """Under clocks two hours apart what the dead held is taken over as ever."""
    clocks.set(-HOUR, HOUR)
    with Load(site, run.new_seed(), rate=80) as load:
        for name in ("consumerd-1", "outboxd-1", "api-1", "consumerd-2"):
            time.sleep(2)
            site[name].kill()
            site[name].start()
        lifted = time.monotonic()
        site.up()
        load.end()
        judge.judge(result, load, lifted)
