"""Customers' endpoints that are away."""

import time

from harness.receiver import Receiver
from harness.wait import wait_until

from .cases import case
from .check import Judge, Result
from .load import Load
from .site import Site

# An hour and a day in short; all waits together are longer than any absence here.
SCHEDULE = "1,2,4,8,8,8,8,8,8,8"
MANNERS = {"refuse connections": None, "answer 503": {"status": 503}, "hang": {"hangs": True},
           "ask for time": {"status": 429, "headers": {"Retry-After": "2"}}}


def away(told, manner, seconds):
    """What was told before is kept."""
    if manner:
        told.receiver.answer(**manner)
        time.sleep(seconds)
        told.receiver.heal()
        return
    told.receiver.close()
    time.sleep(seconds)
    back = Receiver(port=told.receiver.port)
    back.requests = told.receiver.requests
    told.receiver = back


def told_of_all(site):
    """What waited for them to come back is told before they are away again."""
    back = site.db.value("SELECT NOW(6)")
    wait_until(lambda: not site.db.value(
        "SELECT COUNT(*) FROM webhook_events WHERE delivered_at IS NULL AND created_at<%s", back), 60,
        "the endpoints have been told of what waited for them", pause=0.2)


@case("endpoints away", "all endpoints of customers away")
def endpoints_away(run):
    seconds = run.times(20, 5)
    result = Result("endpoints away", f"all endpoints of customers refuse connections, answer 503 or 429, or hang for"
                    f" {seconds} s: every event reaches them afterwards", unit="times")
    with Site("endpoints", run.servers, told=1, WEBHOOK_SCHEDULE_SEC=SCHEDULE, WEBHOOK_TIMEOUT_MS=1000) as site:
        site.up()
        judge = Judge(site)
        with Load(site, run.new_seed(), rate=60) as load:
            for how in run.rng.sample(sorted(MANNERS), len(MANNERS)):
                time.sleep(1)
                before = len(site.told.receiver.requests)
                away(site.told, MANNERS[how], seconds)
                told_of_all(site)
                if MANNERS[how] and len(site.told.receiver.requests) == before:
                    result.violate(f"nobody was called while endpoints {how}")
                result.repetitions += 1
            lifted = time.monotonic()
            load.end()
            judge.judge(result, load, lifted)
        if given_up := site.db.value("SELECT COUNT(*) FROM webhook_events WHERE delivered_at IS NULL"):
            result.violate(f"{given_up} events were given up")
    yield result
