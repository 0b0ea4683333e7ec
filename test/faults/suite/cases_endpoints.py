"""Customers' endpoints that are away."""

import time

from harness.receiver import Receiver

from .cases import case
from .check import Judge, Result
from .load import Load
from .site import Site

# An hour and a day in short; all waits together are longer than any absence here.
SCHEDULE = "1,2,4,8,15,15,15,15"
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
                if MANNERS[how] and len(site.told.receiver.requests) == before:
                    result.violate(f"nobody was called while endpoints {how}")
                result.repetitions += 1
            lifted = time.monotonic()
            load.end()
            judge.judge(result, load, lifted)
        if given_up := site.db.value("SELECT COUNT(*) FROM webhook_events WHERE delivered_at IS NULL"):
            result.violate(f"{given_up} events were given up")
    yield result
