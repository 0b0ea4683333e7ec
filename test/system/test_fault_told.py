"""The fault suite's look at what operators and customers were told sees what it is there for."""

import json
import sys
from types import SimpleNamespace

import pytest
from harness.receiver import Request, signature
from harness.stack import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "test" / "faults"))
from suite.check import Result  # noqa: E402
from suite.told import DELIVERED, NONE, SHOWN, UNDELIVERED, WAITING, Told  # noqa: E402

CUSTOMER = 5


def recipient(delivery=DELIVERED, status="done", provider="operatorA", unknown="", refunded=0):
    return {"m": "m", "p": 0, "user_id": CUSTOMER, "status": status, "delivery": delivery, "provider": provider,
            "u": unknown, "refunded": refunded}


def request(*kinds, customer=CUSTOMER, of=CUSTOMER, text="hi", signed=True):
    events = [{"id": f"m-0-{kind}", "type": f"message.{kind}", "data": {"user_id": of, "text": text}} for kind in kinds]
    whole = events[0] if len(events) == 1 else {"type": "batch", "data": events}
    r = Request(0, f"/hook/{customer}", {"webhook-id": "x", "webhook-timestamp": "1"}, json.dumps(whole).encode(), 1, 200)
    r.headers["webhook-signature"] = "v1,else " + (signature(SHOWN, r) if signed else "")
    return r


@pytest.fixture
def told():
    """told(rows, requests, written kinds, {operator: what it said}): what is wrong, as sentences."""
    made = []

    def judge(rows, requests=(), written=(), said=None):
        operators = [SimpleNamespace(name=name, receipt_counts=lambda: {"given_up": 0, "forged_taken": 0})
                     for name in ("operatorA", "operatorB")]
        db = SimpleNamespace(rows=lambda sql, *_: [("m-0", kind, CUSTOMER) for kind in written])
        told = Told(SimpleNamespace(operators=operators, db=db), receipts=said is not None)
        made.append(told)
        told.receiver.requests.extend(requests)
        result = Result("case", "title")
        ledgers = [{"m-0": {"receipt": said[o.name]}} if said and o.name in said else {} for o in operators]
        told.judge(result, rows, ledgers)
        return result.violations

    yield judge
    for told in made:
        told.close()


@pytest.mark.parametrize("row,said", [
    (recipient(), {"operatorA": "delivered"}),
    (recipient(WAITING), {"operatorA": None}),
    (recipient(NONE, "failed"), {"operatorA": "delivered"}),
    (recipient(UNDELIVERED, refunded=1), {"operatorA": "undelivered"}),
    (recipient(WAITING, unknown="operatorB"), {"operatorA": "undelivered"}),  # the other has not said so
    (recipient(unknown="operatorB"), {"operatorA": "undelivered", "operatorB": "delivered"}),
    (recipient(WAITING, unknown="*"), {"operatorA": "undelivered"}),
])
def test_what_is_as_operators_said(told, row, said):
    assert [v for v in told([row], said=said) if "operators said" in v] == []


@pytest.mark.parametrize("row,said", [
    (recipient(WAITING), {"operatorA": "delivered"}),
    (recipient(WAITING), {"operatorA": "undelivered"}),
    (recipient(), {"operatorA": "undelivered"}),
    (recipient(), {"operatorA": None}),
    (recipient(WAITING, "failed"), {"operatorA": None}),
    (recipient(UNDELIVERED), {"operatorA": "undelivered"}),  # and its price is kept
    (recipient(refunded=1), {"operatorA": "delivered"}),
    (recipient(UNDELIVERED, unknown="operatorB", refunded=1), {"operatorA": "undelivered", "operatorB": None}),
])
def test_what_is_not_as_operators_said(told, row, said):
    assert [v for v in told([row], said=said) if "operators said" in v]


DONE, TOLD = 0, 2  # kinds
BOTH = [request("done"), request("delivered")]


@pytest.mark.parametrize("requests,written,words", [
    (BOTH, [DONE, TOLD], None),
    ([request("done", "delivered"), *BOTH], [DONE, TOLD], None),
    (BOTH[:1], [DONE, TOLD], "m-0-delivered: its endpoint was never told"),
    (BOTH, [DONE], "m-0-delivered: there is no such event"),
    ([*BOTH, request("failed")], [DONE, TOLD], "m-0-failed: an endpoint was told, and no event is written down"),
    ([*BOTH, request("failed")], [DONE, 1, TOLD], "m-0-failed: an event of what has not happened"),
    (BOTH[::-1], [DONE, TOLD], "told what became of it before it was done"),
    ([*BOTH, request("done", text="ho")], [DONE, TOLD], "m-0-done: told with 2 different bodies"),
    ([*BOTH, request("done", signed=False)], [DONE, TOLD], "signed wrongly"),
    ([*BOTH, request("done", of=6)], [DONE, TOLD], "told to {"),
])
def test_what_endpoints_were_told(told, requests, written, words):
    found = told([recipient()], requests, written)
    assert (not found) if words is None else any(words in f for f in found), found
