"""Receipts at volume: from the simulators, which know what they have said of each message, to the recipients.

What a receipt costs is the processor time beside that of the same sends without receipts, a moment before.
"""

import time
from pathlib import Path
from types import SimpleNamespace

import requests

from harness.metrics import Metrics
from harness.receipts import KEY, SIGNING, simulated
from harness.wait import wait_until

from .platform import LIFTED
from .rows import KEEPS_UP, row

SIMULATORS = ("A", "B")
MIXED = {"delivered_share": 0.9, "duplicate_share": 0.1, "forged_share": 0.01}
HELD = 300_000
RATE = 5000
BATCH = 50
STATES = {1: None, 2: "delivered", 3: "undelivered"}  # message_status.delivery, as the simulators' ledgers have it


class Carriers:
    """The simulators of a platform as operators that give receipts. each: in lists."""

    def __init__(self, platform, each=False):
        self.p = platform
        self.session = requests.Session()
        stack = platform.stack
        file = Path(stack.directory, "operators.ini")
        stack.settings |= {"OPERATORS_FILE": str(file), "RECEIPT_REFERENCE_KEY": KEY,
                           "RECEIPTS_PUBLIC_URL": stack.url("api-1"), "SIM_RECEIPT_KEY": SIGNING}
        platform.up("operators")
        file.write_text("".join(self._section(name) + ("receipt.each = receipts\n" if each else "") for name in SIMULATORS))
        platform.up().seed()

    def _section(self, name):
        sim = SimpleNamespace(name=f"operator{name}", url=self.p.stack.values[f"OPERATOR_{name}_URL"])
        return simulated(sim, reference=False)

    def _call(self, method, name, path, **more):
        answer = self.session.request(method, self.p.stack.values[f"OPERATOR_{name}_CONTROL_URL"] + path, timeout=60,
                                      **more)
        answer.raise_for_status()
        return answer.json()

    def tell(self, **fields):
        """What they send from now on."""
        for name in SIMULATORS:
            url = f"{self.p.stack.url('api-1')}/operators/operator{name}/receipts"
            self._call("PUT", name, "/receipts", json={"url": url, **MIXED, **fields})

    def counts(self):
        found = [self._call("GET", name, "/receipts/count") for name in SIMULATORS]
        return {what: sum(counts[what] for counts in found) for what in found[0]}

    def wait_told(self):
        """However long that takes, as long as it goes on."""
        def left():
            counts = self.counts()
            return counts["waiting"] + counts["in_flight"]

        while before := left():
            wait_until(lambda: left() < before, 60, f"{before} receipts are brought", pause=1)

    def said(self):
        """{reference: what the last receipt that was taken said}"""
        told = {}
        for name in SIMULATORS:
            cursor = 0
            while cursor is not None:
                page = self._call("GET", name, "/ledger", params={"cursor": cursor, "limit": 5000})
                told |= {entry["reference"]: entry["receipt"] for entry in page["ledger"]}
                cursor = page["next_cursor"]
        return told


def deadlocks(p):
    return int(p.db.rows("SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'")[0][1])


def results(p):
    """{result: receipts}"""
    found = {}
    for labels, n in Metrics.of(p.stack.url("api-1")).series("msg_receipt_results_total"):
        found[labels["result"]] = found.get(labels["result"], 0) + n
    return found


def judge(p, carriers, result, loads, deadlocked, most=1):
    """Every recipient as its operator says, nothing answered with an error, forged ones refused and counted: requests,
    of at most so many."""
    carriers.wait_told()
    counts, said = carriers.counts(), carriers.said()

    def wrong():
        told = {f"{message}-{position}": STATES.get(delivery, "?") for message, position, delivery in p.db.rows(
            "SELECT message_identifier,position,delivery FROM message_status")}
        return sum(told.get(reference) != word for reference, word in said.items()) + len(told.keys() - said.keys())

    wait_until(lambda: not wrong(), 120, lambda: f"{wrong()} recipients of {len(said)} are not what was told of them",
               pause=2)
    forged = Metrics.of(p.stack.url("api-1")).sum("msg_receipts_refused_total", reason="forged")
    result.require(counts["again"] == counts["given_up"] == counts["dropped"] == 0, f"not taken at once: {counts}")
    result.require(counts["forged_taken"] == 0 and forged <= counts["forged_refused"] <= most * forged,
                   f"forged: {forged} refused, {counts}")
    result.require(all(load["non2xx"] == load["http_err"] == 0 for load in loads), "sends were refused")
    violations = p.audit()
    result.require(not violations, f"{violations} violations")
    result.rss_mib = p.peaks_mib()
    result.notes.append(f"{len(said):,} recipients right; receipts " + ", ".join(
        f"{name} {n:,.0f}" for name, n in results(p).items()) + f"; forged {forged:,.0f}, all refused; "
        f"{deadlocks(p) - deadlocked} deadlocks inside, none answered")


class Spell:
    """What a while has cost, and how many receipts were taken in it."""

    def __init__(self, p, carriers):
        self.p, self.carriers = p, carriers
        self.before, self.began, self.meter = carriers.counts()["taken"], time.monotonic(), p.meter()

    def end(self):
        self.spent = self.meter.stop()
        self.seconds = time.monotonic() - self.began
        self.receipts = self.carriers.counts()["taken"] - self.before
        self.rate = self.receipts / self.seconds
        return self

    def cost(self, beside):
        """{process: µs a receipt} over what `beside`, a spell without receipts, has cost a second."""
        return {name: 1e6 * (sec - beside.spent[name] / beside.seconds * self.seconds) / self.receipts
                for name, sec in self.spent.items() if name in ("mariadbd", "msg-api", "operator-sims")}


def said_cost(us):
    return ", ".join(f"{name} {n:.0f}" for name, n in us.items()) + " µs a receipt"


def sending(p, carriers, rps, seconds):
    """(load, spell)"""
    spell = Spell(p, carriers)
    load = p.load(rps, seconds, verify=False)
    return load, spell.end()


def full_speed(p, carriers, count, **fields):
    """As fast as they are taken, with nothing else to do."""
    p.wait_purged(20)
    before = carriers.counts()["taken"]
    carriers.tell(**fields)
    spell = Spell(p, carriers)
    wait_until(lambda: (c := carriers.counts())["taken"] >= before + count or not c["waiting"], 120, "many are taken",
               pause=0.05)
    spell.end()
    carriers.tell(hold=True)
    nothing = Spell(p, carriers)
    time.sleep(2)
    return spell, spell.cost(nothing.end())


@row("receipts", f"{RATE:,} receipts/s for a minute, a request each, for {HELD:,} messages sent before, beside 200 "
     "sends/s; one in ten twice, order mixed, one in a hundred forged",
     f"{RATE:,} receipts/s are taken, every recipient right, no deadlock answered, no forged one taken")
def receipts(bench, result):
    with bench.platform("receipts", **LIFTED) as p:
        carriers, deadlocked, loads = Carriers(p), deadlocks(p), []
        carriers.tell(hold=True, delay_max_ms=60_000)
        while carriers.counts()["waiting"] < 1.3 * HELD:
            loads.append(p.load(0, 10, verify=False))
        p.wait_drained()
        p.wait_purged()
        load, quiet = sending(p, carriers, 200, 15)
        carriers.tell(delay_max_ms=60_000, per_second=int(1.02 * RATE))
        beside, busy = sending(p, carriers, 200, 60)
        carriers.tell(hold=True)
        single, single_us = full_speed(p, carriers, 40_000)
        carriers.tell()
        judge(p, carriers, result, [*loads, load, beside], deadlocked)
    us = busy.cost(quiet)
    result.measured = (f"{busy.rate:,.0f}/s: {said_cost(us)}; sends beside them p50 {beside['latency_ms']['p50']:.1f} ms, "
                       f"p99 {beside['latency_ms']['p99']:.1f} ms")
    result.notes.append(f"without receipts p50 {load['latency_ms']['p50']:.1f} ms, p99 {load['latency_ms']['p99']:.1f} ms")
    result.notes.append(f"as fast as they are taken, nothing beside: {single.rate:,.0f}/s, {said_cost(single_us)}")
    result.require(busy.rate >= KEEPS_UP * RATE, "below target")


@row("receipts-lists", f"receipts for 100,000 messages, {BATCH} in a request, as fast as they are taken",
     f"≥ {2 * RATE:,} receipts/s, every recipient right")
def lists(bench, result):
    with bench.platform("lists", **LIFTED) as p:
        carriers, deadlocked, loads = Carriers(p, each=True), deadlocks(p), []
        carriers.tell(hold=True, batch=BATCH, delay_max_ms=20_000)
        while carriers.counts()["waiting"] < 100_000:
            loads.append(p.load(0, 10, verify=False))
        p.wait_drained()
        time.sleep(20)  # all are due
        spell, us = full_speed(p, carriers, 100_000, batch=BATCH)
        carriers.tell(batch=BATCH)
        judge(p, carriers, result, loads, deadlocked, BATCH)
    result.measured = f"{spell.rate:,.0f}/s: {said_cost(us)}"
    result.require(spell.rate >= 2 * RATE, "below target")


@row("receipts-early", "500 sends/s for a minute, a third of the receipts before their settle, one in ten twice, order "
     "mixed, one in a hundred forged", "every recipient right, no deadlock answered, no forged one taken")
def early(bench, result):
    with bench.platform("early") as p:
        carriers, deadlocked = Carriers(p), deadlocks(p)
        carriers.tell(silent_share=1)
        load, quiet = sending(p, carriers, 500, 15)
        carriers.tell(before_answer_share=0.33, answer_after_ms=400, sent_share=0.3, reorder_share=0.5,
                      delay_max_ms=2000)
        beside, busy = sending(p, carriers, 500, 60)
        judge(p, carriers, result, [load, beside], deadlocked)
        of = results(p)
    result.measured = (f"{of['early']:,.0f} of {sum(of.values()):,.0f} came early: {said_cost(busy.cost(quiet))}; sends "
                       f"beside them p50 {beside['latency_ms']['p50']:.1f} ms, p99 {beside['latency_ms']['p99']:.1f} ms")
    result.require(of["early"] > 0.2 * beside["sent"], "they did not come early")
