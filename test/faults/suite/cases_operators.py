"""Operators on their bad days."""

import time

from .cases import case
from .check import Judge, Result
from .load import Load
from .site import REJECTED, Site

ONE_BAD = {
    "operator A slow": ("operator A, and what it is asked, answers after 5 s", {"latency_ms": 5000}),
    "operator A resets": ("operator A resets connections", {"reset_share": 0.7}),
    "operator A 500": ("operator A answers 500", {"status": 500, "status_share": 0.7}),
    "operator A 429": ("operator A answers 429", {"status": 429, "status_share": 0.5, "retry_after": 1}),
    "operator A accepts and hangs": ("operator A accepts and never answers; it can be asked",
                                     {"accept_then_hang_share": 0.5}),
    "operator A accepts and resets": ("operator A accepts and cuts the connection; it can be asked",
                                      {"accept_then_reset_share": 0.7}),
}


def one_bad(name, title, faults):
    @case(name, title, short=name == "operator A accepts and resets")
    def bad(run):
        result = Result(name, title, unit="times")
        with Site("operator", run.servers, replicas=1, DELIVERY_RETRY_WINDOW_SEC=300) as site:
            site.up()
            judge = Judge(site)
            a = site.operators[0]
            with Load(site, run.new_seed(), rate=80) as load:
                for _ in range(run.times(2)):
                    time.sleep(1)
                    a.faults(reject_prefix=REJECTED, **faults)
                    time.sleep(2 if run.short else 12)
                    a.faults(reject_prefix=REJECTED)
                    lifted = time.monotonic()
                    result.repetitions += 1
                load.end()
                judge.judge(result, load, lifted, deadline=90)
        yield result


for _name, (_title, _faults) in ONE_BAD.items():
    one_bad(_name, _title, _faults)


@case("operator A unknown", "operator A accepts, does not answer and cannot be asked")
def cannot_be_asked(run):
    result = Result("operator A unknown", "operator A accepts, does not answer and cannot be asked",
                    unit="times")
    with Site("operator", run.servers, replicas=1, DELIVERY_RETRY_WINDOW_SEC=300) as site:
        site.up()
        judge = Judge(site)
        a = site.operators[0]
        with Load(site, run.new_seed(), rate=40) as load:
            a.faults(reject_prefix=REJECTED, accept_then_hang_share=0.5, lookup_status=503,
                     lookup_status_share=1)
            time.sleep(15)
            a.faults(reject_prefix=REJECTED)
            lifted = time.monotonic()
            result.repetitions = 1
            load.end()
            judge.judge(result, load, lifted, deadline=90, unknown=True)
    yield result


@case("both operators down, window longer", "both operators down, the retry window longer than that")
def both_down(run):
    outage = 120 if run.repeat >= 30 else 15
    title = f"both operators down for {outage} s, the retry window 300 s: nothing fails"
    result = Result("both operators down, window longer", title, unit="times")
    with Site("operators", run.servers, replicas=1, DELIVERY_RETRY_WINDOW_SEC=300) as site:
        site.up()
        judge = Judge(site)
        with Load(site, run.new_seed(), rate=40) as load:
            site.operators_do(refuse=True)
            time.sleep(outage)
            site.operators_do()
            lifted = time.monotonic()
            result.repetitions = 1
            load.end()
            # A retry may be due 30 s later, and a breaker may be open when it comes.
            judge.judge(result, load, lifted, deadline=120)
    yield result


@case("both operators down, no window", "both operators down, no retry window: all fail and are refunded",
      short=True)
def both_down_no_window(run):
    result = Result("both operators down, no window",
                    "both operators down, no retry window: all fail and are refunded", unit="times")
    with Site("operators", run.servers, replicas=1, DELIVERY_RETRY_WINDOW_SEC=0) as site:
        site.up()
        judge = Judge(site)
        site.operators_do(status=500, status_share=1)
        with Load(site, run.new_seed(), rate=40) as load:
            time.sleep(4 if run.short else 10)
            lifted = time.monotonic()
            result.repetitions = 1
            load.end()
            judge.judge(result, load, lifted, may_fail=True)
        done = site.db.value("SELECT COUNT(*) FROM message_status WHERE status<>'failed'")
        if done:
            result.violate(f"{done} recipients did not fail")
        left = site.db.value("SELECT SUM(balance) FROM user_balances")
        if left != 50 * 1_000_000:
            result.violate(f"balances are {left} in the end")
    yield result


@case("both operators reject", "both operators reject every second recipient")
def both_reject(run):
    result = Result("both operators reject", "both operators reject every second recipient", unit="times")
    with Site("operators", run.servers, replicas=2) as site:
        site.up()
        judge = Judge(site)
        with Load(site, run.new_seed(), rate=150, rejected_share=0.5) as load:
            time.sleep(run.times(8, 2))
            lifted = time.monotonic()
            result.repetitions = 1
            load.end()
            judge.judge(result, load, lifted)
    yield result
