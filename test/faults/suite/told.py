"""What is told beside every fault: by operators, whose simulators send receipts of most messages, late, twice, in
another order, before their answer and forged; and to customers, of whom some have an endpoint, in this process.
"""

import base64
import contextlib
import json
from collections import defaultdict
from types import SimpleNamespace

import requests
from harness.receipts import KEY, simulated
from harness.receiver import Receiver, signature
from harness.wait import Timeout, wait_until

SECRET = b"the secret of all these endpoints"
SHOWN = "whsec_" + base64.b64encode(SECRET).decode()
ENDPOINTS = 500  # of customers to come, too: processes know of them when they begin
BATCH = 20       # of every second endpoint
KINDS = ("done", "failed", "delivered", "undelivered")
NONE, WAITING, DELIVERED, UNDELIVERED = range(4)
# What fails is tried again soon, and for longer than a fault lasts.
SETTINGS = {"RECEIPT_REFERENCE_KEY": KEY, "REFUND_UNDELIVERED": "on", "WEBHOOK_ALLOW_PRIVATE": "127.0.0.1",
            "WEBHOOK_SCHEDULE_SEC": "1,1,2,2,5,5,10,10,20,30,60,60"}
# An operator's receipts. Some messages get none.
RECEIPTS = {"delivered_share": 0.9, "silent_share": 0.1, "sent_share": 0.3, "reorder_share": 0.2,
            "duplicate_share": 0.2, "before_answer_share": 0.02, "answer_after_ms": 50, "forged_share": 0.05,
            "delay_max_ms": 300, "retry_ms": 100, "tries": 1000}
# A receipt that comes too early is looked at again after as long as it has waited, and a dead process has its leases
# for ten seconds.
DEADLINE_SEC = 120


class Told:
    """share: one customer in so many has an endpoint. receipts: whether the site's operators are simulators, which
    send them."""

    def __init__(self, site, share=5, receipts=True):
        self.site, self.share, self.receipts = site, share, receipts
        self.receiver = Receiver()

    def settings(self):
        return {**SETTINGS, **(self.operators_file("operators") if self.receipts else {})}

    def operators_file(self, name, **urls):
        """A file of the operators, some behind other addresses; the settings that name it."""
        path = f"{self.site.stack.directory}/{name}.ini"
        with open(path, "w") as file:
            for operator in self._simulators(urls):
                file.write(simulated(operator))
        return {"OPERATORS_FILE": path, "RECEIPTS_PUBLIC_URL": self.site.stack.url("api-1")}

    def _simulators(self, urls):
        values = self.site.stack.values
        return [SimpleNamespace(name=o.name, url=urls.get(o.name, values[f"OPERATOR_{o.name[-1]}_URL"]))
                for o in self.site.operators]

    def begin(self):
        """Before the daemons."""
        if self.receipts:
            self.operators_tell()
        customers = [c for c in range(1, ENDPOINTS * self.share) if self.has_endpoint(c)]
        self.site.db.seed_endpoints([(c, f"{self.receiver.url}/{c}", BATCH if c % 2 else 1) for c in customers], SECRET)

    def operators_tell(self, **changes):
        for operator in self.site.operators:
            operator.receipts(url=f"{self.site.stack.url('api-1')}/operators/{operator.name}/receipts",
                              **{**RECEIPTS, **changes})

    def has_endpoint(self, customer):
        return customer % self.share == 0 and customer < ENDPOINTS * self.share

    def close(self):
        self.receiver.close()

    # -- afterwards -------------------------------------------------------------------------------

    def wait(self, result):
        """Until operators have told all, and customers have been."""
        state = {}

        def over():
            with contextlib.suppress(requests.RequestException):
                state.update(self._open())
                return not any(state.values())
            return False

        try:
            wait_until(over, DEADLINE_SEC, lambda: f"all receipts and events have come: {state}", pause=0.1)
        except Timeout as e:
            result.violate(str(e)[:500])

    def _open(self):
        db = self.site.db
        counts = [o.receipt_counts() for o in self.site.operators] if self.receipts else []
        return {"receipts to come": sum(c["waiting"] + c["in_flight"] for c in counts),
                "early ones": db.value("SELECT COUNT(*) FROM receipts_early"),
                "endpoints with events": db.value(
                    "SELECT COUNT(*) FROM webhooks w WHERE EXISTS (SELECT 1 FROM webhook_events e FORCE INDEX("
                    "idx_webhook_events_due) WHERE e.webhook_id=w.id AND e.next_at>'1000-01-01')")}

    def judge(self, result, rows, ledgers):
        """rows: recipients of this load; ledgers: {reference: entry} of each operator."""
        if self.receipts:
            names = [o.name for o in self.site.operators]
            wrong = [w for r in rows if (w := self._delivery_fault(r, dict(zip(names, ledgers))))]
            result.violate(*wrong[:5], *more(wrong))
            if given_up := sum(o.receipt_counts()["given_up"] for o in self.site.operators):
                result.violate(f"operators gave up {given_up} receipts")
            if taken := sum(o.receipt_counts()["forged_taken"] for o in self.site.operators):
                result.violate(f"{taken} forged receipts were taken")
            result.receipts += sum(r["delivery"] in (DELIVERED, UNDELIVERED) for r in rows)
        wrong = list(self._event_faults(result, rows))
        result.violate(*wrong[:5], *more(wrong))

    def _delivery_fault(self, r, ledgers):
        reference = f"{r['m']}-{r['p']}"
        said = {name: entries[reference]["receipt"] for name, entries in ledgers.items() if reference in entries}
        deciding = [r["provider"], *filter(None, r["u"].split(","))]
        may_be = {WAITING}
        if r["status"] != "done":
            may_be = {NONE}
        elif all(said.get(name) == "undelivered" for name in deciding):
            # Somebody who is not among them may have said delivered, before or after.
            may_be = {UNDELIVERED, DELIVERED} if "delivered" in said.values() else {UNDELIVERED}
        elif "delivered" in said.values():
            may_be = {DELIVERED}
        if r["delivery"] not in may_be or bool(r["refunded"]) != (r["delivery"] == UNDELIVERED):
            return (f"{reference}: {r['status']}, delivery {r['delivery']}, refunded {r['refunded']}, but operators"
                    f" said {said}, {deciding} having it")
        return None

    # -- events -----------------------------------------------------------------------------------

    def _event_faults(self, result, rows):
        """What customers should know, what is written down for them, and what their endpoints were told: the same."""
        customers = {r["user_id"] for r in rows}
        wanted = {f"{r['m']}-{r['p']}-{kind}": r["user_id"] for r in rows if self.has_endpoint(r["user_id"])
                  for kind in kinds_of(r)}
        written = {f"{subject}-{KINDS[kind]}": customer for subject, kind, customer in self.site.db.rows(
            "SELECT e.subject,e.kind,w.customer_id FROM webhook_events e JOIN webhooks w ON w.id=e.webhook_id"
            " WHERE w.customer_id BETWEEN %s AND %s", min(customers, default=0), max(customers, default=0))}
        told, faults = self._told(customers)
        result.events += len(told)
        yield from faults
        for event in sorted(set(wanted) ^ set(written)):
            yield f"{event}: {'there is no such event' if event in wanted else 'an event of what has not happened'}"
        for event in sorted(set(told) - set(written)):
            yield f"{event}: an endpoint was told, and no event is written down"
        for event in sorted(set(written) - set(told)):
            yield f"{event}: its endpoint was never told"
        for event, customer in written.items():
            if event in told and told[event].customers != {customer}:
                yield f"{event}: of customer {customer}, told to {told[event].customers}"
        yield from disorder(told)

    def _told(self, customers):
        """{event: what was told of it}, and what is wrong with the requests."""
        told, faults = {}, []
        for n, request in enumerate(self.receiver.taken):
            customer = int(request.path.rpartition("/")[2])
            if customer not in customers:
                continue
            if signature(SHOWN, request) not in request.headers["webhook-signature"].split(" "):
                faults.append(f"{request.headers['webhook-id']}: signed wrongly")
            for event in request.events:
                seen = told.setdefault(event["id"], SimpleNamespace(first=n, bodies=set(), customers=set()))
                seen.bodies.add(json.dumps(event))
                seen.customers |= {customer, event["data"]["user_id"]}
        faults += [f"{event}: told with {len(seen.bodies)} different bodies" for event, seen in told.items()
                   if len(seen.bodies) > 1]
        return told, faults


def kinds_of(r):
    if r["status"] in ("done", "failed"):
        yield r["status"]
    if r["delivery"] in (DELIVERED, UNDELIVERED):
        yield KINDS[r["delivery"]]


def disorder(told):
    """An event that came before the one that precedes it."""
    of = defaultdict(dict)
    for event, seen in told.items():
        subject, _, word = event.rpartition("-")
        of[subject][word] = seen.first
    for subject, first in of.items():
        later = first.get("delivered", first.get("undelivered"))
        if later is not None and "done" in first and later < first["done"]:
            yield f"{subject}: told what became of it before it was done"


def more(wrong):
    return [f"… and {len(wrong) - 5} more like that"] if len(wrong) > 5 else []
