"""What a fault has cost: counted from the database and the simulators' ledgers by the harness, by
`msg-api audit`, and by what the senders were told.
"""

import json
import os
import subprocess
import time
from dataclasses import asdict, dataclass, field

from harness.audit import accepted_references, audit, quiesce, take_ghosts
from harness.stack import binary
from harness.wait import Timeout

from .logs import LogCheck
from .site import REJECTED


@dataclass
class Result:
    name: str
    title: str
    unit: str = "repetitions"
    repetitions: int = 0
    messages: int = 0
    lost: int = 0
    stuck: int = 0
    double_charged: int = 0
    double_refunded: int = 0
    both: int = 0          # accepted by both operators though no answer was missing
    both_unknown: int = 0  # the same where an operator's answer was unknown and it could not be asked
    repeats: int = 0       # requests an operator had accepted already
    receipts: int = 0      # recipients that an operator has told of afterwards
    events: int = 0        # that customers' endpoints were told
    recovery_sec: float = 0.0
    seconds: float = 0.0
    seed: int = 0
    skipped: str = ""
    notes: list = field(default_factory=list)
    violations: list = field(default_factory=list)

    @property
    def ok(self):
        return not self.violations and not (self.lost or self.stuck or self.double_charged
                                            or self.double_refunded or self.both)

    def violate(self, *sentences):
        self.violations += sentences

    def record(self):
        return asdict(self)


def product_audit(stack):
    """(violations as sentences, exit code) of `msg-api audit --quiesced --json --operators …`."""
    values = {k: v for k, v in stack.values.items() if k.startswith(("DB_", "RABBIT_URI"))}
    done = subprocess.run([binary("api"), "audit", "--quiesced", "--json", "--operators",
                           ",".join(o.url for o in stack.operators)], timeout=300, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **values})
    if not done.stdout:
        return [f"msg-api audit: {done.stderr.strip()}"], done.returncode
    report = json.loads(done.stdout)
    sentences = [f"msg-api audit, {c['name']}: {e}" for c in report["checks"] for e in c["examples"]]
    if bool(report["violations"]) != (done.returncode == 1):
        sentences.append(f"msg-api audit: {report['violations']} violations, exit {done.returncode}")
    return sentences, done.returncode


def repeats_of(site):
    return sum(o.counts()["duplicates"] for o in site.operators)


class Judge:
    """Judges one site after each fault; what was wrong before is not counted again."""

    def __init__(self, site, torn_logs=False):
        self.site = site
        self.logs = LogCheck(site.daemons.values, torn_logs)
        self.known, self.repeats, self.both, self.earlier = set(), 0, set(), set()
        self.stuck = set()

    def judge(self, result, load, lifted, deadline=60, may_fail=False, unknown=False, dead=0,
              replays=100, ghosts=False):
        """`lifted`: when the fault ended. may_fail: recipients nobody rejected may fail. unknown: an
        operator could not be asked, so both may have accepted. ghosts: the database was killed."""
        try:
            quiesce(self.site.stack, deadline)
        except Timeout as e:
            result.violate(str(e)[:2000])
        result.recovery_sec = max(result.recovery_sec, time.monotonic() - lifted)
        if ghosts and (letters := take_ghosts(self.site.stack)):
            result.notes.append(f"{letters} dead letters of commits that the killed database had shown and not kept")
        if self.site.told:
            self.site.told.wait(result)
        sentences = set(audit(self.site.stack, dead=dead)) | set(product_audit(self.site.stack)[0])
        result.violate(*sorted(sentences - self.known)[:20])
        self.known |= sentences
        self._count(result, load, may_fail, unknown)
        result.violate(*(f"{d.name} ended by itself with {d.process.returncode}"
                         for d in self.site.daemons.values() if d.process and not d.alive))
        if replays:
            result.violate(*load.replay(replays)[:5])
        wrong = self.logs.check(load)
        result.violate(*wrong[:5], *([f"… and {len(wrong) - 5} more of the logs"] if len(wrong) > 5 else []))
        repeats = repeats_of(self.site)
        result.repeats += repeats - self.repeats
        self.repeats = repeats
        return result

    def _count(self, result, load, may_fail, unknown):
        rows = self.site.db.records(
            "SELECT message_identifier AS m, position AS p, status, recipient, user_id, provider,"
            " unknown_operators AS u, delivery, delivery_refunded AS refunded FROM message_status"
            " WHERE user_id BETWEEN %s AND %s",
            load.customers[0], load.customers[-1])
        charges = [t for (t,) in self.site.db.rows(
            "SELECT transaction_id FROM user_transactions WHERE transaction_type='withdrawal'"
            " AND user_id BETWEEN %s AND %s", load.customers[0], load.customers[-1])]
        accepted = list(load.accepted.values())
        present = {r["m"] for r in rows}
        result.messages += len(accepted)
        result.lost += len(set(accepted) - present)
        result.double_charged += len(charges) - len(set(accepted)) if not load.unanswered else 0
        result.double_charged += len(accepted) - len(set(accepted))
        stuck = {f"{r['m']}-{r['p']}" for r in rows if r["status"] not in ("done", "failed")}
        result.stuck += len(stuck)
        ledgers = [accepted_references(o, []) for o in self.site.operators]
        taken = set().union(*ledgers)
        done = {f"{r['m']}-{r['p']}" for r in rows if r["status"] == "done"}
        result.lost += len(done - taken)
        failed = [r for r in rows if r["status"] == "failed"]
        early = [r for r in failed if not r["recipient"].startswith(REJECTED)]
        if early and not may_fail:
            result.violate(f"{len(early)} recipients failed that an operator would have taken, "
                           f"{early[0]['m']}")
        refunds = self.site.db.value(
            "SELECT COUNT(*) FROM user_transactions WHERE transaction_type='refund'"
            " AND user_id BETWEEN %s AND %s", load.customers[0], load.customers[-1])
        result.double_refunded += max(0, refunds - len(failed) - sum(r["refunded"] for r in rows))
        both = set(ledgers[0]) & set(ledgers[1])
        told = {f"{r['m']}-{r['p']}" for r in rows if r["u"]}
        for reference in both - self.both:
            if unknown or reference in told:
                result.both_unknown += 1
            else:
                result.both += 1
                result.violate(f"accepted by both operators: {reference}")
        self.both |= both
        if self.site.told:
            self.site.told.judge(result, rows, ledgers)
        if load.unanswered:
            result.violate(f"{len(load.unanswered)} sends were never answered")
        if load.refused:
            result.violate(f"{len(load.refused)} sends were refused, {load.refused[0]}")
        if load.impolite:
            result.violate(f"{len(load.impolite)} answers without Retry-After, {load.impolite[0]}")
