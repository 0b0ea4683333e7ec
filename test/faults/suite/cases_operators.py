"""Operators on their bad days."""

import time

from harness.metrics import Metrics

from .cases import case
from .check import Judge, Result
from .load import Load
from .site import REJECTED, Site
from .watch import total, until

# Name: title, faults, and whether A can be asked afterwards what it has.
ONE_BAD = {
    "operator A slow": ("operator A, and what it is asked, answers after 5 s", {"latency_ms": 5000}, False),
    "operator A resets": ("operator A resets connections", {"reset_share": 0.7}, True),
    "operator A 500": ("operator A answers 500", {"status": 500, "status_share": 0.7}, True),
    "operator A 429": ("operator A answers 429", {"status": 429, "status_share": 0.5, "retry_after": 1},
                       True),
    "operator A accepts and hangs": ("operator A accepts and never answers; it can be asked",
                                     {"accept_then_hang_share": 0.5}, True),
    "operator A accepts and resets": ("operator A accepts and cuts the connection; it can be asked",
                                      {"accept_then_reset_share": 0.7}, True),
}


def one_bad(name, title, faults, can_be_asked):
    @case(name, title, short=name == "operator A accepts and resets")
    def bad(run):
        result = Result(name, title, unit="times")
        with Site("operator", run.servers, replicas=1, DELIVERY_RETRY_WINDOW_SEC=300) as site:
            site.up()
            judge = Judge(site)
            a = site.operators[0]
            with Load(site, run.new_seed(), rate=80) as load:
                for _ in range(run.times(10)):
                    time.sleep(run.rng.uniform(0.5, 1.5))
                    a.faults(reject_prefix=REJECTED, **faults)
                    time.sleep(2 if run.short else run.rng.uniform(3, 5))
                    a.faults(reject_prefix=REJECTED)
                    lifted = time.monotonic()
                    result.repetitions += 1
                load.end()
                judge.judge(result, load, lifted, deadline=90)
            if can_be_asked and result.both_unknown:
                result.violate(f"{result.both_unknown} accepted by both though A could be asked")
        yield result


for _name, (_title, _faults, _can_be_asked) in ONE_BAD.items():
    one_bad(_name, _title, _faults, _can_be_asked)


# What A does to everybody, so that its breaker opens.
DEAD = {"30 s slow": {"latency_ms": 30000}, "resets": {"reset_share": 1},
        "500s": {"status": 500, "status_share": 1}, "hangs": {"hang_share": 1}}
OPEN_SEC = 10
PROBES_MAX = 5


@case("operator A dead", "operator A takes nothing: its breaker opens, all goes to B")
def dead(run):
    result = Result("operator A dead", "operator A 30 s slow, resetting, hanging or answering 500 to all:"
                    " its breaker opens within 10 s and everything goes to B", unit="times")
    with Site("operator", run.servers, replicas=1, DELIVERY_RETRY_WINDOW_SEC=300) as site:
        site.up()
        judge = Judge(site)
        with Load(site, run.new_seed(), rate=80, rejected_share=0) as load:
            for how in run.rng.sample(sorted(DEAD), len(DEAD)):
                time.sleep(1)
                a_is_dead(site, how, run.times(20, 8), result)
                lifted = time.monotonic()
                result.repetitions += 1
                # The next kind finds a closed breaker.
                until(result, lambda: breaker(site, "closed"), 20, "the breaker closes again")
            load.end()
            judge.judge(result, load, lifted, deadline=90)
    yield result


def breaker(site, state):
    return total(site.of("consumerd"), "msg_breaker_state", operator="operatorA", state=state)


def a_is_dead(site, how, seconds, result):
    a, (consumer,) = site.operators[0], site.of("consumerd")
    a.faults(reject_prefix=REJECTED, **DEAD[how])
    opened = until(result, lambda: breaker(site, "open"), OPEN_SEC, f"the breaker opens ({how})")
    time.sleep(2)  # calls that were under way end
    before = Metrics.of(consumer.url)
    time.sleep(seconds)
    now = Metrics.of(consumer.url)

    def grown(name, **labels):
        return now.sum(name, **labels) - before.sum(name, **labels)

    done = grown("msg_final_total", status="done")
    by_b = grown("msg_final_total", status="done", operator="operatorB")
    halves = grown("msg_breaker_transitions_total", operator="operatorA", state="half_open")
    probes = grown("operator_calls_total", operator="operatorA")
    result.notes.append(f"{how}: open after {opened:.1f} s, then {by_b:.0f} of {done:.0f} by B,"
                        f" {probes:.0f} probes in {halves:.0f} half-open times")
    if done < 40 * seconds or by_b < 0.99 * done:
        result.violate(f"{how}: {by_b:.0f} of {done:.0f} were done by B in {seconds} s of 80 a second")
    if probes > PROBES_MAX * (halves + 1):  # those of the time before may end in this one
        result.violate(f"{how}: {probes:.0f} probes in {halves:.0f} half-open times")
    a.faults(reject_prefix=REJECTED)


@case("operator A slow and held", "operator A and what it is asked slow; what is unknown is held")
def slow_and_held(run):
    """The other policy: rather late than by both."""
    result = Result("operator A slow and held", "operator A and what it is asked slow, under"
                    " `OPERATOR_UNKNOWN_POLICY=hold`: nothing is accepted by both", unit="times")
    with Site("operator", run.servers, replicas=1, DELIVERY_RETRY_WINDOW_SEC=300,
              OPERATOR_UNKNOWN_POLICY="hold") as site:
        site.up()
        judge = Judge(site)
        a = site.operators[0]
        with Load(site, run.new_seed(), rate=80) as load:
            for _ in range(run.times(10)):
                time.sleep(run.rng.uniform(0.5, 1.5))
                a.faults(reject_prefix=REJECTED, latency_ms=5000)
                time.sleep(run.rng.uniform(3, 5))
                a.faults(reject_prefix=REJECTED)
                lifted = time.monotonic()
                result.repetitions += 1
            load.end()
            # A retry may be due 30 s later.
            judge.judge(result, load, lifted, deadline=120)
        if result.both_unknown:
            result.violate(f"{result.both_unknown} accepted by both")
    yield result


def mute(run, operator, result, *seconds):
    """It takes half of what it gets without a word and cannot be asked, for between so many seconds, again and
    again. Returns when it was last well again."""
    for _ in range(run.times(6)):
        operator.faults(reject_prefix=REJECTED, accept_then_hang_share=0.5, lookup_status=503, lookup_status_share=1)
        time.sleep(run.rng.uniform(*seconds))
        operator.faults(reject_prefix=REJECTED)
        lifted = time.monotonic()
        result.repetitions += 1
        time.sleep(1)
    return lifted


@case("operator A unknown", "operator A accepts, does not answer and cannot be asked")
def cannot_be_asked(run):
    result = Result("operator A unknown", "operator A accepts, does not answer and cannot be asked",
                    unit="times")
    with Site("operator", run.servers, replicas=1, DELIVERY_RETRY_WINDOW_SEC=300) as site:
        site.up()
        judge = Judge(site)
        a = site.operators[0]
        site.told.operators_tell(silent_share=0.5)  # the others are proven by their receipts
        with Load(site, run.new_seed(), rate=40) as load:
            lifted = mute(run, a, result, 3, 5)
            load.end()
            judge.judge(result, load, lifted, deadline=90, unknown=True)
    yield result


@case("operator A unknown, held", "operator A accepts, does not answer and cannot be asked; what is"
      " unknown is held beyond its retry window")
def held(run):
    """Nothing fails, and nothing goes to B, without A's word for it."""
    result = Result("operator A unknown, held", "operator A accepts, does not answer and cannot be asked,"
                    " under `OPERATOR_UNKNOWN_POLICY=hold`, beyond the retry window: nothing is refunded"
                    " that A has, nothing is accepted by both", unit="times")
    with Site("operator", run.servers, replicas=1, DELIVERY_RETRY_WINDOW_SEC=1,
              OPERATOR_UNKNOWN_POLICY="hold", HELD_ASK_MAX_SEC=5) as site:
        site.up()
        judge = Judge(site)
        a = site.operators[0]
        site.told.operators_tell(silent_share=0.5)  # the others are proven by their receipts
        with Load(site, run.new_seed(), rate=40) as load:
            lifted = mute(run, a, result, 5, 8)
            load.end()
            judge.judge(result, load, lifted, deadline=90)
        holds = sum(Metrics.of(c.url).sum("msg_holds_total") for c in site.of("consumerd"))
        if not holds:
            result.violate("nothing was held")
        if result.both_unknown:
            result.violate(f"{result.both_unknown} accepted by both")
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
