"""Processes that stand still or lose one of their connections while they have work in hand, with a
second one that has to take it over."""

import time

from harness.wait import Timeout, wait_until

from .cases import case
from .check import Judge, Result
from .load import Load
from .site import Site

# As shipped: a silence of ten seconds is a death.
AS_SHIPPED = {"WORKER_DEAD_SEC": "10", "WORKER_HEARTBEAT_MS": "2000", "DELIVERY_TAKEOVERS_MAX": "5"}
CARRY_ON_SEC = 30


def carried_on(site, before, result):
    """Everything accepted before that moment (database time) becomes final without the victim; returns
    the seconds."""
    began = time.monotonic()
    try:
        wait_until(lambda: not site.db.value(
            "SELECT COUNT(*) FROM message_status WHERE status IN ('pending','sending')"
            " AND created_at < %s", before), CARRY_ON_SEC, "the others carry on", pause=0.2)
    except Timeout as e:
        rows = site.db.rows("SELECT message_identifier, status, owner, attempt FROM message_status WHERE"
                            " status IN ('pending','sending') AND created_at < %s LIMIT 3", before)
        result.violate(f"{e}: {rows}")
    return time.monotonic() - began


@case("consumer stopped", "a msg-consumerd stopped with SIGSTOP in mid-delivery")
def consumer_stopped(run):
    """RabbitMQ looks every heartbeat whether anything has come, and gives a connection up at the second
    look in vain: what a stopped consumer holds comes back after two to three heartbeats."""
    result = Result("consumer stopped", "a msg-consumerd stopped with SIGSTOP for 15–60 s in mid-delivery,"
                    " continued after another has settled its work; the others carry on within 30 s",
                    unit="stops")
    with Site("stopped", run.servers, replicas={"api": 1, "outboxd": 1, "consumerd": 2},
              **AS_SHIPPED) as site:
        site.up()
        judge = Judge(site)
        site.operators_do(latency_ms=100, latency_max_ms=800)
        waits = []
        with Load(site, run.new_seed(), rate=60) as load:
            for n in range(run.times(8)):
                time.sleep(run.rng.uniform(1, 3))
                victim = site[f"consumerd-{n % 2 + 1}"]
                length = 60 if n == 0 and run.repeat >= 30 else run.rng.uniform(15, 25)
                with victim.paused():
                    began = time.monotonic()
                    before = site.db.value("SELECT NOW(6)")
                    waits.append(carried_on(site, before, result))
                    time.sleep(max(0, length - (time.monotonic() - began)))
                result.repetitions += 1
            lifted = time.monotonic()
            load.end()
            judge.judge(result, load, lifted)
        result.notes.append("the other carried on after " + ", ".join(f"{w:.1f}" for w in waits) + " s")
    yield result


@case("outboxd stopped", "a msg-outboxd stopped with SIGSTOP while it holds claims")
def outboxd_stopped(run):
    result = Result("outboxd stopped", "a msg-outboxd stopped with SIGSTOP while it holds claims;"
                    " the others carry on within 30 s", unit="stops")
    with Site("stopped", run.servers, replicas={"api": 1, "outboxd": 2, "consumerd": 1},
              **AS_SHIPPED) as site:
        # It dwells where it has published and not deleted, so that a stop finds claims in its hands.
        site["outboxd-1"].settings["MSG_FAILPOINT"] = "outbox.after_publish:delay=1000"
        site.up()
        judge = Judge(site)
        with Load(site, run.new_seed(), rate=60) as load:
            for _ in range(run.times(3)):
                time.sleep(2)
                with site["outboxd-1"].paused():
                    before = site.db.value("SELECT NOW(6)")
                    carried_on(site, before, result)
                result.repetitions += 1
            lifted = time.monotonic()
            load.end()
            judge.judge(result, load, lifted)
    yield result


@case("consumer without database", "a msg-consumerd cut off from the database alone")
def consumer_without_database(run):
    result = Result("consumer without database", "a msg-consumerd alive but cut off from the database"
                    " for 25 s; the others carry on within 30 s", unit="cuts")
    with Site("cut", run.servers, replicas={"api": 1, "outboxd": 1, "consumerd": 2},
              links=["consumerd-1:db"], **AS_SHIPPED) as site:
        site.up()
        judge = Judge(site)
        site.operators_do(latency_ms=100, latency_max_ms=800)
        proxy = site.proxies["consumerd-1:db"]
        with Load(site, run.new_seed(), rate=60) as load:
            for how in ("both", "down", "up", "refuse")[:run.times(4)]:
                time.sleep(3)
                if how == "refuse":
                    proxy.refuse()
                else:
                    proxy.stall(how)
                began = time.monotonic()
                carried_on(site, site.db.value("SELECT NOW(6)"), result)
                time.sleep(max(0, 25 - (time.monotonic() - began)))
                proxy.heal()
                lifted = time.monotonic()
                result.repetitions += 1
            load.end()
            judge.judge(result, load, lifted)
    yield result


@case("channel lost", "delivery channels lost while their sends are in flight")
def channel_lost(run):
    result = Result("channel lost", "delivery channels lost while their sends are in flight",
                    unit="losses")
    with Site("channel", run.servers, replicas={"api": 1, "outboxd": 1, "consumerd": 2},
              links=["consumerd-1:broker", "consumerd-2:broker"]) as site:
        site.up()
        judge = Judge(site)
        site.operators_do(latency_ms=100, latency_max_ms=600)
        with Load(site, run.new_seed(), rate=80) as load:
            for _ in range(run.times(30)):
                time.sleep(run.rng.uniform(0.3, 1))
                run.rng.choice(list(site.proxies.values())).reset()
                result.repetitions += 1
            lifted = time.monotonic()
            load.end()
            judge.judge(result, load, lifted)
    yield result
