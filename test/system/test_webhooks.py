"""Customers' endpoints are told what happened, once at least and under the same id, signed as the specification of
Standard Webhooks says; whoever is slow, dead or inside harms nobody else.
"""

import json
import subprocess
import time

import pytest
from harness.client import assert_error, new_customer, recipient
from harness.receiver import Hooks, Receiver, signature, wait_known
from harness.stack import REPOSITORY
from harness.wait import wait_until

VERIFIER = REPOSITORY / "test" / "webhooks"
SCHEDULE = {"WEBHOOK_SCHEDULE_SEC": "1,2,2,2,2,2,2,2", "WEBHOOK_TIMEOUT_MS": 1000,
            "WEBHOOK_ALLOW_PRIVATE": "127.0.0.1"}


@pytest.fixture(scope="module")
def stack(module_world):
    return module_world(BALANCE_LOW_DEFAULT=50, **SCHEDULE)


@pytest.fixture
def receiver():
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def hooked(stack, receiver):
    """make(**fields of the endpoint) -> (api, customer with money, hooks, endpoint), known to all processes."""
    made = []

    def make(amount=1000, url=None, **fields):
        api = stack.api()
        customer = api.funded(amount)
        hooks = Hooks(api, customer)
        hook = hooks.create(url or receiver.url, **fields)
        made.append((hooks, hook))
        wait_known(stack, len({h.customer for h, _ in made}))
        return api, customer, hooks, hook

    yield make
    for hooks, hook in made:
        hooks.call("DELETE", hook["id"])
    wait_known(stack, 0)


def test_an_event_for_each_recipient(hooked, receiver):
    api, customer, hooks, hook = hooked()
    sent = api.sent(customer, [recipient(1), recipient(2)])
    api.wait_final(customer, sent["message_identifier"])
    events = receiver.wait_events(2)
    history = {r["position"]: r for r in api.history(user_id=customer)}
    assert sorted(e["id"] for e in events) == [f"{sent['message_identifier']}-{i}-done" for i in range(2)]
    for event in events:
        data = event["data"]
        row = history[data["position"]]
        assert event["type"] == "message.done"
        assert {k: row[k] for k in data if k != "created_at"} == {k: v for k, v in data.items() if k != "created_at"}
        assert data["created_at"] == row["created_at"]
    for request in receiver.taken:
        assert request.headers["webhook-id"] == request.json["id"]
        assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 60
        assert request.headers["webhook-signature"] == signature(hook["secret"], request)
        assert request.headers["content-type"] == "application/json"


def test_a_refund_and_a_low_balance(stack, hooked, receiver):
    api, customer, hooks, hook = hooked(amount=51)
    for operator in stack.operators:
        operator.faults(status=422, status_share=1)
    try:
        sent = api.sent(customer, [recipient(1)])
        assert list(api.wait_final(customer, sent["message_identifier"]).values()) == ["failed"]
    finally:
        for operator in stack.operators:
            operator.heal()
    failed = receiver.wait_events(1)
    assert [e["type"] for e in failed] == ["message.failed"]
    assert failed[0]["data"]["status"] == "failed" and failed[0]["data"]["last_error"]
    # 51 again: at 50 it is not below the threshold, at 49 it is, and then it has been told.
    for balance in (50, 49, 48):
        api.sent(customer, [recipient(1)])
        assert api.balance(customer) == balance
    events = receiver.wait_events(5)
    low = [e for e in events if e["type"] == "balance.low"]
    assert [e["data"] for e in low] == [{"user_id": customer, "balance": 49, "threshold": 50}]
    api.top_up(customer, 10)
    api.sent(customer, [recipient(i) for i in range(20)])
    events = receiver.wait_events(26)
    assert [e["data"]["balance"] for e in events if e["type"] == "balance.low"] == [49, 38]
