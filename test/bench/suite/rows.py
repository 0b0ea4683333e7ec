"""What is measured, and what is promised of it. Each row has a platform of its own, on servers that
all share.

A rate end to end is done rows by their updated_at, the database's clock. "Steady" is a rate of sends
at which the backlog (accepted and not final, from the rows' times once all is final) grows by less
than 2 % of what is sent, and nothing waits to be sent: found by an open loop of ten seconds at a time, faster after each that was
steady and slower after each that was not, then held for the whole row.
"""

import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path

from harness.authority import Authority
from harness.metrics import Metrics

from . import fill
from .platform import DAEMONS, LIFTED, Platform, Receiver

ROWS = {}
USERS = 5000
MEMORY_MIB = 48
MILLION = 1_000_000


@dataclass
class Result:
    name: str
    title: str
    target: str
    measured: str = ""
    ok: bool = True
    cpu_us: dict = field(default_factory=dict)  # a message (recipient), by process
    old_us: dict = field(default_factory=dict)  # the other build's, where two are compared
    rss_mib: dict = field(default_factory=dict)  # highest, by daemon
    notes: list = field(default_factory=list)
    seconds: float = 0.0

    def require(self, condition, otherwise):
        if not condition:
            self.ok = False
            self.notes.append(otherwise)

    def cost(self, spent, messages):
        self.cpu_us = {name: round(1e6 * s / messages, 1) for name, s in spent.items()}

    def record(self):
        return asdict(self)


def row(name, title, target):
    def register(function):
        ROWS[name] = (Result(name, title, target), function)
        return function
    return register


class Bench:
    def __init__(self, servers, options):
        self.servers, self.options = servers, options

    def platform(self, name, **settings):
        return Platform(f"bench-{name}", self.servers, **settings)


def run(name, bench):
    result, function = ROWS[name]
    began = time.monotonic()
    function(bench, result)
    for daemon, mib in result.rss_mib.items():
        result.require(mib <= MEMORY_MIB, f"{daemon}: {mib:.1f} MiB")
    result.seconds = round(time.monotonic() - began, 1)
    return result


def clean(result, load):
    audit = load["audit"]
    result.require(load["passed"], f"not as it should be: {audit}")


def note_load(result, load):
    result.notes.append(
        f"sent {load['sent']}, non2xx {load['non2xx']}, http_err {load['http_err']}, "
        f"latency p50 {load['latency_ms']['p50']:.2f} ms, p99 {load['latency_ms']['p99']:.2f} ms")


# -- the ancestor's benchmark -------------------------------------------------------------------------


LINE = {"p50": 4.33, "p99": 26.02}  # its own, from another machine, with 995 sends/s


@row("ancestor", "{rps:g} sends/s, {concurrency} workers, {users} customers, {express:.0%} express, "
     "{seconds:g} s",
     "no errors, p50 ≤ 2 ms, p99 ≤ 10 ms, accepted to done p99 ≤ 300 ms")
def ancestor(bench, result):
    o = bench.options
    result.title = result.title.format(**o)
    with bench.platform("ancestor").up() as p:
        p.seed(o["users"], balance=o["seed_balance"])
        load = p.load(o["rps"], o["seconds"], o["concurrency"], o["users"],
                      recipients=o["recipients"], express=o["express"])
        result.cost(load.cpu_sec, load.recipients)
        result.rss_mib = p.peaks_mib()
    judge_ancestor(result, load)


def judge_ancestor(result, load):
    latency, errors = load["latency_ms"], load["non2xx"] + load["http_err"]
    ends = [lane["p99"] for lane in load["lanes"].values() if lane["done"]]
    result.measured = (f"{load['achieved_rps']:.0f}/s, {errors} errors, p50 {latency['p50']:.2f} ms, "
                       f"p99 {latency['p99']:.2f} ms ({latency['p50'] / LINE['p50']:.2f} and "
                       f"{latency['p99'] / LINE['p99']:.2f} of the ancestor's), done p99 {max(ends):.0f} ms")
    result.require(errors == 0 and latency["p50"] <= 2 and latency["p99"] <= 10 and max(ends) <= 300,
                   "below target")
    clean(result, load)


# -- accepting alone ----------------------------------------------------------------------------------


def accepting(p, seconds, users):
    """A closed loop with msg-outboxd stopped, which starts when all is sent: (load, cpu of accepting)."""
    spent = {}

    def then(so_far):
        spent.update(so_far())
        p.stack.up("outboxd")

    return p.load(0, seconds, users=users, meanwhile=then), spent


@row("accept", "accepting alone (msg-outboxd stopped), 200 workers in a closed loop, 10 s",
     "≥ 15,000 sends/s and ≥ 3 × one transaction a send at its best")
def accept(bench, result):
    with bench.platform("accept", **LIFTED).up("operators", "api", "consumerd") as p:
        ceilings = p.ceiling(5, (1, 8, 32))
        p.wait_purged()
        p.seed()
        load, spent = accepting(p, 10, USERS)
        result.cost(spent, load["ok"])
        result.rss_mib = p.peaks_mib()
    best = max(ceilings.values())
    result.measured = f"{load['achieved_rps']:,.0f}/s, {load['achieved_rps'] / best:.1f} × {best:,.0f}/s"
    result.notes.append("one transaction a send: " + ", ".join(
        f"{rate:,.0f}/s with {n} connections" for n, rate in ceilings.items()))
    note_load(result, load)
    result.require(load["achieved_rps"] >= max(15_000, 3 * best), "below target")
    clean(result, load)


@row("one-customer", "one customer sends everything (msg-outboxd stopped), 10 s",
     "≥ 50 % of the rate with 5,000 customers")
def one_customer(bench, result):
    with bench.platform("one", **LIFTED).up("operators", "api", "consumerd") as p:
        p.seed()
        many, _ = accepting(p, 10, USERS)
        p.stack.stop("outboxd-1")
        p.wait_purged()
        one, spent = accepting(p, 10, 1)
        result.cost(spent, one["ok"])
        result.rss_mib = p.peaks_mib()
    share = one["achieved_rps"] / many["achieved_rps"]
    result.measured = f"{share:.0%}: {one['achieved_rps']:,.0f}/s of {many['achieved_rps']:,.0f}/s"
    result.require(share >= 0.5, "below target")
    clean(result, many)
    clean(result, one)


# -- end to end ---------------------------------------------------------------------------------------

PROBE_SEC = 10
PROBES = 6
GROWTH = 0.02
KEEPS_UP = 0.98  # of the offered rate: else the backlog grows in the load tool


def window(p, load, begin, skip_sec):
    """(done a second, growth of the backlog as a share of what was sent, backlog at the end)."""
    end = begin + timedelta(seconds=load["elapsed_sec"])
    start = begin + timedelta(seconds=skip_sec)
    seconds = (end - start).total_seconds()
    before, after = p.backlog(start), p.backlog(end)
    return (p.done_between(start, end) / seconds,
            (after - before) / (load.recipients / load["elapsed_sec"] * seconds), before, after)


def hold(p, rate, seconds, recipients, skip_sec):
    p.wait_purged(10)
    begin = p.now()
    load = p.load(rate, seconds, recipients=recipients)
    done, growth, before, after = window(p, load, begin, skip_sec)
    ok = (growth < GROWTH and not load["non2xx"] and not load["http_err"]
          and load["achieved_rps"] > KEEPS_UP * rate)
    print(f"      {rate:.0f} sends/s for {seconds} s: {done:.0f} done/s, backlog {before} → {after}, "
          f"{load['non2xx']} refused{'' if ok else ': not steady'}", flush=True)
    return load, done, (before, after), ok


def steady(p, result, first_rate, seconds, recipients=1):
    """Finds the highest steady rate and holds it."""
    low = high = None
    rate = first_rate
    for _ in range(PROBES):
        ok = hold(p, rate, PROBE_SEC, recipients, 3)[3]
        low, high = (rate, high) if ok else (low, rate)
        if low and high and high / low < 1.08:
            break
        rate = (low * high) ** 0.5 if low and high else rate * 1.25 if low else rate * 0.75
    rate = low or rate
    for _ in range(3):
        load, done, backlog, ok = hold(p, rate, seconds, recipients, 5)
        if ok:
            break
        rate *= 0.94
    result.cost(load.cpu_sec, load.recipients)
    result.require(ok, "no steady rate was found")
    clean(result, load)
    note_load(result, load)
    result.notes.append(f"backlog {backlog[0]} → {backlog[1]}, done p99 "
                        f"{load.lane('normal', 'p99'):.0f} ms")
    return done


@row("end-to-end", "end to end, steady for 60 s", "≥ 6,000 messages/s, the backlog not growing")
def end_to_end(bench, result):
    with bench.platform("steady").up() as p:
        p.seed()
        rate = steady(p, result, 6000, 60)
        result.rss_mib = p.peaks_mib()
    result.measured = f"{rate:,.0f} messages/s"
    result.require(rate >= 6000, "below target")


@row("recipients", "100 recipients a request, end to end, steady for 30 s", "≥ 12,000 recipients/s")
def recipients(bench, result):
    with bench.platform("recipients").up() as p:
        p.seed()
        rate = steady(p, result, 120, 30, 100)
        result.rss_mib = p.peaks_mib()
    result.measured = f"{rate:,.0f} recipients/s"
    result.require(rate >= 12_000, "below target")


# -- waits --------------------------------------------------------------------------------------------


def quantiles(lane):
    return "/".join(f"{lane[q]:.0f}" if lane[q] >= 100 else f"{lane[q]:.1f}" for q in ("p50", "p99", "p99.9"))


def waits_of(load):
    return "; ".join(f"{lane}: handed over {quantiles(load['handed'][lane])}, done {quantiles(load['lanes'][lane])} ms"
                     for lane in ("express", "normal"))


# {sends/s: ([lane, quantile, at most ms], share of express, seconds)}
WAITS = {50: ([("express", "p50", 10), ("express", "p99", 50), ("normal", "p50", 15)], 0.5, 40),
         1000: ([("express", "p99", 50)], 0.2, 20),
         3000: ([], 0.2, 20)}


def waits_row(rate):
    bounds, share, seconds = WAITS[rate]

    @row(f"waits-{rate}", f"from accepted to handed to an operator, and to done, p50/p99/p99.9; {rate:,} sends/s, "
         f"{share:.0%} express, {seconds} s",
         ", ".join([f"{rate:,}/s are taken"] + [f"{lane} done {q} ≤ {ms} ms" for lane, q, ms in bounds]))
    def waits(bench, result):
        with bench.platform("waits").up() as p:
            p.seed()
            p.load(min(rate, 1000), 3, express=share)  # caches, connections
            p.wait_purged(20)
            load = p.load(rate, seconds, express=share)
            result.cost(load.cpu_sec, load.recipients)
            result.rss_mib = p.peaks_mib()
        result.measured = waits_of(load)
        result.require(all(load.lane(lane, q) <= ms for lane, q, ms in bounds), "below target")
        result.require(not load["non2xx"] and load["achieved_rps"] > KEEPS_UP * rate,
                       f"{load['achieved_rps']:.0f} sends/s, {load['non2xx']} refused")
        clean(result, load)


for each in WAITS:
    waits_row(each)


# -- a day --------------------------------------------------------------------------------------------

DAY_RPS = 1160  # 100 million in 24 hours
DAY_USERS = 50_000
# By the hour, from midnight; five times the mean at nine in the morning and at seven in the evening.
DAY_CURVE = (.1, .1, .1, .1, .1, .2, .4, .8, 1.2, 5, 1.3, 1, .8, .7, .7, .7, .8, .9, 1.3, 5, 1.2, .8, .4, .3)


@row("day", f"a day of 100 million in short: {DAY_RPS:,} sends/s in the mean, {max(DAY_CURVE):g} times that at two "
     f"peaks, {DAY_USERS:,} customers by Zipf's law, one in five express, {{day_seconds:g}} s",
     "nothing lost, nothing doubled")
def day(bench, result):
    seconds = bench.options["day_seconds"]
    result.title = result.title.format(**bench.options)
    with bench.platform("day").up() as p:
        p.seed(DAY_USERS)
        load = p.load(DAY_RPS, seconds, users=DAY_USERS, express=0.2,
                      more=("-users-zipf", "1", "-rate-curve", ",".join(map(str, DAY_CURVE))))
        result.cost(load.cpu_sec, load.recipients)
        result.rss_mib = p.peaks_mib()
    unanswered = f", {load['http_err']} without an answer" if load["http_err"] else ""
    result.measured = (f"{load['sent']:,} sent, {load['non2xx']:,} refused{unanswered}; p50/p99/p99.9 from due to "
                       f"accepted {quantiles(load['latency_ms'])} ms; from accepted on {waits_of(load)}")
    clean(result, load)


# -- tracing ------------------------------------------------------------------------------------------

TRACED_SHARE = 0.1


def spans_of(p):
    """How many, by what became of them."""
    counts = {}
    for name in DAEMONS.values():
        for labels, n in Metrics.of(p.stack.url(name)).series("msg_trace_spans_total"):
            counts[labels["result"]] = counts.get(labels["result"], 0) + int(n)
    return counts


def all_done_rate(bench, result, **settings):
    """(messages a second from the first accepted to the last done, spans by result): as many sends at
    once as are answered, for a while, and the end of what they leave."""
    with bench.platform("tracing", **LIFTED, **settings).up() as p:
        p.seed()
        p.load(0, 3)  # caches, connections
        p.wait_purged()
        begin = p.now()
        load = p.load(0, 20)
        count, seconds = p.db.rows(
            "SELECT COUNT(*),TIMESTAMPDIFF(MICROSECOND,MIN(created_at),MAX(updated_at))/1e6"
            " FROM message_status WHERE created_at>=%s", begin)[0]
        result.cost(load.cpu_sec, load.recipients)
        clean(result, load)
        result.rss_mib = p.peaks_mib()
        return count / float(seconds), spans_of(p)


@row("tracing", f"{TRACED_SHARE:.0%} of all messages traced, spans taken by a receiver beside everything"
     " else; all at once, end to end, in turn with tracing off", "≥ 95 % of the rate with tracing off")
def tracing(bench, result):
    off, on = [], []
    with Receiver() as receiver:
        traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
                  "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
                  "OTEL_TRACES_SAMPLER_ARG": str(TRACED_SHARE)}
        for turn in ([(off, {}), (on, traced)], [(on, traced), (off, {})]):  # what drifts, drifts for both
            for rates, settings in turn:
                rate, spans = all_done_rate(bench, result, **settings)
                rates.append(rate)
                print(f"      {'traced' if settings else 'off'}: {rate:,.0f}/s, spans {spans}", flush=True)
                lost = sum(n for what, n in spans.items() if what != "exported")
                result.require(not lost, f"spans were lost: {spans}")
                result.require(bool(spans["exported"]) == bool(settings), f"not as was asked for: {spans}")
    ratio = statistics.mean(on) / statistics.mean(off)
    result.measured = f"{ratio:.1%}: {statistics.mean(on):,.0f}/s of {statistics.mean(off):,.0f}/s"
    result.notes.append("off {:,.0f}, traced {:,.0f}, traced {:,.0f}, off {:,.0f}/s".format(
        off[0], *on, off[1]) + f"; receiver: {receiver.said}")
    result.require(ratio >= 0.95, "below target")


# -- at the door --------------------------------------------------------------------------------------


GUARDS = ("neither", "keys", "both")


def guarded_us(bench, result, authority, guard):
    """Processor time a message of everything, and of msg-api."""
    with bench.platform("guards", **LIFTED, API_AUTH="off" if guard == "neither" else "required").up() as p:
        if guard == "both":
            p.secure(authority)
        p.seed()
        p.load(0, 2)  # caches, connections, handshakes
        p.wait_purged()
        load = p.load(0, 5)
        result.cost(load.cpu_sec, load.recipients)
        clean(result, load)
        result.rss_mib = p.peaks_mib()
    return sum(result.cpu_us.values()), result.cpu_us["msg-api"]


@row("guards", "what API keys cost, and HTTPS on top of them: 200 workers in a closed loop, end to end, 5 s, in turn "
     "with neither", "keys: processor time a message ≤ 1.03")
def guards(bench, result):
    runs = {guard: [] for guard in GUARDS}
    with tempfile.TemporaryDirectory() as folder:
        authority = Authority(Path(folder), "bench")
        for turn in (GUARDS, GUARDS[::-1]) * 2:  # what drifts, drifts for all
            for guard in turn:
                runs[guard].append(guarded_us(bench, result, authority, guard))
                print("      {}: {:.0f} µs, msg-api {:.0f}".format(guard, *runs[guard][-1]), flush=True)
    us = {guard: [statistics.median(kind) for kind in zip(*found)] for guard, found in runs.items()}
    ratio = {guard: us[guard][0] / us["neither"][0] for guard in GUARDS}
    result.measured = (f"keys {ratio['keys']:.2f}, with HTTPS {ratio['both']:.2f}; of msg-api " + ", ".join(
        f"{us[guard][1]:.0f}" for guard in GUARDS) + " µs a message without, with keys, with both")
    result.notes.append("; ".join(f"{guard} " + " ".join(f"{all_us:.0f}" for all_us, _ in found)
                                  for guard, found in runs.items()) + " µs a message")
    result.require(ratio["keys"] <= 1.03, "above what is promised")


# -- backlogs -----------------------------------------------------------------------------------------


@row("express", "express (50 a second) while 100,000 normal messages wait in the outbox",
     "accepted to done p50 ≤ 25 ms, p99 ≤ 80 ms")
def express(bench, result):
    first = 100_001  # customers of their own
    with bench.platform("express", **LIFTED).up("operators", "api", "consumerd") as p:
        p.seed(100, first)
        fill.messages(p.stack, 100_000, USERS)
        p.wait_purged()
        p.stack.up("outboxd")
        load = p.load(50, 15, 50, 100, first, express=1.0)
        p.wait_drained()
        drained = p.db.value("SELECT MAX(updated_at) FROM message_status WHERE type='normal'")
        waits = sorted(us for us, in p.db.rows(
            "SELECT TIMESTAMPDIFF(MICROSECOND,created_at,updated_at) FROM message_status WHERE"
            " type='express' AND created_at<=%s", drained))
        result.cost(load.cpu_sec, load.recipients + 100_000)
        result.rss_mib = p.peaks_mib()
        violations = p.audit()
    p50, p99 = (waits[max(0, -(-share * len(waits) // 100) - 1)] / 1000 for share in (50, 99))
    result.measured = f"p50 {p50:.0f} ms, p99 {p99:.0f} ms ({len(waits)} sent)"
    result.require(p50 <= 25 and p99 <= 80, "below target")
    result.require(len(waits) >= 100, f"only {len(waits)} were sent while the backlog lasted")
    result.require(not violations, f"{violations} violations")
    clean(result, load)


def pile_up(p, count):
    """Messages that wait for a publisher, before a consumer that is warm. Returns the moment before them."""
    p.up().seed(100)
    p.load(500, 2, 50, 100)
    p.stack.stop("outboxd-1")
    begin = p.now()
    fill.messages(p.stack, count, USERS)
    p.wait_purged()
    return begin


def drain_rate(p, begin):
    """Done a second from the first that a consumer took to the last: publishing goes on meanwhile."""
    count, first, last = p.db.rows("SELECT COUNT(*),MIN(first_claimed_at),MAX(updated_at) FROM message_status"
                                   " WHERE created_at>=%s", begin)[0]
    return count / (last - first).total_seconds()


@row("drain", "drain of 1,000,000 messages that wait in the outbox",
     "≥ 90 % of the rate at 10,000 waiting")
def drain(bench, result):
    small = []
    for _ in range(5):
        with bench.platform("drain-small", **LIFTED) as p:
            begin = pile_up(p, 10_000)
            p.stack.up("outboxd")
            p.wait_drained()
            small.append(drain_rate(p, begin))
    with bench.platform("drain", **LIFTED) as p:
        begin = pile_up(p, MILLION)
        p.stack.up("outboxd")
        meter = p.meter()
        p.wait_drained(1200)
        result.cost(meter.stop(), MILLION)
        result.rss_mib = p.peaks_mib()
        large = drain_rate(p, begin)
        violations = p.audit()
    base = statistics.median(small)
    result.measured = f"{large / base:.0%}: {large:,.0f}/s of {base:,.0f}/s"
    result.notes.append("at 10,000 waiting: " + ", ".join(f"{r:,.0f}" for r in sorted(small)) + "/s")
    result.require(large >= 0.9 * base, "below target")
    result.require(not violations, f"{violations} violations")


def cost_of(p, rate=1000, seconds=20):
    p.load(rate, 5, verify=False)  # a sum over full tables may outlive who asked for it, into what is measured
    p.wait_drained()
    p.wait_purged()
    load = p.load(rate, seconds)
    return load, sum(load.cpu_sec.values()) * 1e6 / load.recipients


@row("full-tables", "1,000 sends/s with 5,000,000 old messages in the tables",
     "processor time a message ≤ +10 % of that with none")
def full_tables(bench, result):
    with bench.platform("empty").up() as p:
        p.seed()
        empty, empty_us = cost_of(p)
    with bench.platform("full").up() as p:
        p.seed()
        fill.messages(p.stack, 5_000_000, USERS, done=True)
        p.wait_purged(300)
        full, full_us = cost_of(p)
        result.cost(full.cpu_sec, full.recipients)
        result.rss_mib = p.peaks_mib()
    result.measured = f"{full_us / empty_us - 1:+.0%}: {full_us:.0f} µs, {empty_us:.0f} µs with none"
    result.notes.append("with none: " + ", ".join(
        f"{n} {1e6 * s / empty.recipients:.0f} µs" for n, s in empty.cpu_sec.items()))
    result.require(full_us <= 1.1 * empty_us, "below target")
    clean(result, empty)
    clean(result, full)


# -- at rest ------------------------------------------------------------------------------------------


@row("idle", "nothing to do, 30 s", "the three daemons together ≤ 0.3 % of a core")
def idle(bench, result):
    with bench.platform("idle").up() as p:
        p.seed(100)
        p.load(100, 2, 10, 100)  # every connection has been used
        time.sleep(5)
        meter = p.meter()
        time.sleep(30)
        spent = meter.stop()
        result.rss_mib = p.peaks_mib()
    daemons = {n: s for n, s in spent.items() if n.startswith("msg-")}
    share = sum(daemons.values()) / 30
    result.measured = f"{share:.2%}"
    result.notes.append(", ".join(f"{n} {s / 30:.2%}" for n, s in daemons.items()))
    result.require(share <= 0.003, "below target")
