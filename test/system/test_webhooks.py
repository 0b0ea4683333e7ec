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


@pytest.mark.skipif(not (VERIFIER / "node_modules").exists(), reason="no standardwebhooks (make webhooks-test)")
def test_signatures_are_the_specifications(hooked, receiver):
    """By its own library: with the first secret, with both while a rotation lasts, and with no other."""
    api, customer, hooks, hook = hooked()
    api.sent(customer)
    receiver.wait_events(1)
    rotated = hooks.done("POST", f"{hook['id']}/rotate")
    assert rotated["secret"] != hook["secret"] and rotated["old_secret_until"]
    api.sent(customer)
    receiver.wait_events(2)
    first, second = receiver.taken
    secrets = {"old": hook["secret"], "new": rotated["secret"], "no": "whsec_" + "A" * 44}
    lines = [{"secret": secrets[name], "headers": request.headers, "body": request.body.decode()}
             for request in (first, second) for name in secrets]
    done = subprocess.run(["node", "verify.js"], cwd=VERIFIER, input="".join(json.dumps(line) + "\n" for line in lines),
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [line == "ok" for line in done.stdout.splitlines()] == [True, False, False, True, True, False], done.stdout


def test_what_was_due_before_is_not_passed_by(stack, hooked, receiver):
    """An endpoint's page begins where the one before it did; what was committed late is found all the same."""
    api, customer, hooks, hook = hooked(amount=2000)
    receiver.answer(delay=0.1)
    for _ in range(2):
        api.sent(customer, [recipient(i) for i in range(600)])
    receiver.wait_events(100)
    stack.db.execute("INSERT INTO webhook_events(webhook_id,subject,kind,data,next_at) SELECT id,'late-0',0,'{}',"
                     "NOW(6)-INTERVAL 1 HOUR FROM webhooks WHERE customer_id=%s", customer)
    ids = [e["id"] for e in receiver.wait_events(1201, 60)]
    assert len(set(ids)) == 1201 and ids.index("late-0-done") < 1100, ids.index("late-0-done")


def test_batches(hooked, receiver):
    api, customer, hooks, hook = hooked(batch=100)
    sent = [api.sent(customer, [recipient(i) for i in range(50)]) for _ in range(4)]
    events = receiver.wait_events(200)
    assert len({e["id"] for e in events}) == len(events) == 200
    assert {e["data"]["message_identifier"] for e in events} == {s["message_identifier"] for s in sent}
    sizes = [len(r.events) for r in receiver.taken]
    assert max(sizes) <= 100 and len(sizes) < 100, sizes
    assert all(r.headers["webhook-signature"] == signature(hook["secret"], r) for r in receiver.taken)
    assert all(r.headers["webhook-id"].startswith("batch-") for r in receiver.taken)


@pytest.mark.parametrize("batch", (1, 10))
def test_what_fails_is_told_again_under_its_id(hooked, receiver, batch):
    api, customer, hooks, hook = hooked(batch=batch)
    receiver.answer(status=500, first=2)
    api.sent(customer)
    events = receiver.wait_events(1)
    assert [r.status for r in receiver.requests] == [500, 500, 200]
    assert len({r.headers["webhook-id"] for r in receiver.requests}) == 1
    waits = [b.at - a.at for a, b in zip(receiver.requests, receiver.requests[1:])]
    assert waits[0] >= 1 and waits[1] >= 2, waits
    wait_until(lambda: len(hooks.attempts(hook)) == 3, 5, "the calls are written down")
    attempts = hooks.attempts(hook)
    assert [(a["number"], a["result"], a["status"]) for a in attempts] == [
        (3, "delivered", 200), (2, "error", 500), (1, "error", 500)]
    assert {a["event_id"] for a in attempts} == {events[0]["id"]}
    page = hooks.done("GET", f"{hook['id']}/attempts", limit=2)
    assert [a["number"] for a in page["attempts"]] == [3, 2] and page["next_cursor"]
    rest = hooks.attempts(hook, limit=2, cursor=page["next_cursor"])
    assert [a["number"] for a in rest] == [1]


def test_an_endpoint_that_asks_for_time_gets_it(hooked, receiver):
    api, customer, hooks, hook = hooked()
    receiver.answer(status=429, headers={"Retry-After": "3"}, first=1)
    api.sent(customer)
    receiver.wait_requests(1)
    api.sent(customer)
    receiver.wait_events(2)
    asked, *after = receiver.requests
    assert min(r.at for r in after) - asked.at >= 2.9


def test_one_that_is_gone_is_called_no_more(stack, hooked, receiver):
    """And the customer's other endpoints hear of it, whatever they have asked for."""
    with Receiver() as other:
        api, customer, hooks, hook = hooked(events=["message.done"])
        left = hooks.create(other.url, events=["message.undelivered"])
        receiver.answer(status=410)
        api.sent(customer)
        told = other.wait_events(1)
        assert told[0]["type"] == "webhook.disabled"
        assert told[0]["data"] == {"user_id": customer, "webhook_id": hook["id"], "url": receiver.url,
                                   "reason": "gone"}
        assert '"webhook.disabled"' in stack.log_text("consumerd-1")
        shown = hooks.show(hook)
        assert shown["status"] == "disabled" and shown["disabled_for"] == "gone" and shown["disabled_at"]
        calls = len(receiver.requests)
        receiver.heal()
        hooks.done("POST", f"{hook['id']}/enable")
        events = receiver.wait_events(1)
        assert len(receiver.requests) == calls + 1 and events[0]["type"] == "message.done"
        assert hooks.show(hook)["status"] == "enabled"
        hooks.call("DELETE", left["id"])


def test_redirects_are_not_followed_and_addresses_inside_not_reached(stack, hooked, receiver):
    with Receiver("127.0.0.2") as inside:
        receiver.answer(status=302, headers={"Location": inside.url})
        api, customer, hooks, hook = hooked()
        port = inside.port
        others = [hooks.create(url) for url in (
            inside.url, f"http://2130706434:{port}/", f"http://[::ffff:127.0.0.2]:{port}/", f"http://[::1]:{port}/")]
        api.sent(customer)
        for other in others:
            wait_until(lambda: hooks.attempts(other), 15, f"a call of {other['url']}")
            assert {(a["result"], a["status"]) for a in hooks.attempts(other)} == {("blocked", None)}
        wait_until(lambda: hooks.attempts(hook), 15, "a call that is redirected")
        assert {(a["result"], a["status"]) for a in hooks.attempts(hook)} == {("redirect", 302)}
        assert inside.connections == 0
        for other in others:
            hooks.call("DELETE", other["id"])


def test_an_answer_without_end(hooked, receiver):
    """What counts is the status; of the rest nobody reads more than a little."""
    receiver.answer(body=b"x" * (8 << 20))
    api, customer, hooks, hook = hooked()
    api.sent(customer)
    wait_until(lambda: hooks.attempts(hook), 15, "a call")
    assert [(a["result"], a["status"]) for a in hooks.attempts(hook)] == [("delivered", 200)]
    wait_until(lambda: hooks.done("POST", f"{hook['id']}/replay", **{"from": "2020-01-01T00:00:00Z"})["replayed"], 5,
               "it is over")
    wait_until(lambda: len(hooks.attempts(hook)) == 2, 15, "another call, on a connection of its own")
    assert receiver.connections == 2


def test_replay(hooked, receiver):
    api, customer, hooks, hook = hooked()
    sent = [api.sent(customer) for _ in range(3)]
    first = [e["id"] for e in receiver.wait_events(3)]
    wait_until(lambda: len(hooks.attempts(hook)) == 3, 5, "the calls are written down")
    done = hooks.done("POST", f"{hook['id']}/replay", **{"from": "2020-01-01T00:00:00Z"})
    assert done == {"id": hook["id"], "replayed": 3, "complete": True}
    events = receiver.wait_events(6)
    assert sorted(e["id"] for e in events[3:]) == sorted(first)
    later = hooks.done("POST", f"{hook['id']}/replay", **{"from": "2999-01-01T00:00:00+02:00"})
    assert later["replayed"] == 0
    shown = api.get(f"/messages/{sent[0]['message_identifier']}", user_id=customer).json()
    assert [r["status"] for r in shown["recipients"]] == ["done"]
    told = shown["events"]
    assert [(e["id"], e["type"], e["position"], e["webhook_id"]) for e in told] == [
        (f"{sent[0]['message_identifier']}-0-done", "message.done", 0, hook["id"])]


def test_an_event_is_given_up_when_its_schedule_is_over(stack, world, receiver):
    own = world(**{**SCHEDULE, "WEBHOOK_SCHEDULE_SEC": "1,1", "WEBHOOK_DISABLE_AFTER_SEC": 600})
    api = own.api()
    hooks = Hooks(api, api.funded())
    hook = hooks.create(receiver.url)
    wait_known(own)
    receiver.answer(status=400)
    sent = api.sent(hooks.customer)
    wait_until(lambda: own.db.value("SELECT COUNT(*) FROM webhook_events WHERE attempts=3 AND next_at IS NULL AND "
                                    "delivered_at IS NULL AND last_status=400"), 30, "three tries, and an end")
    assert len(receiver.requests) == 3
    told = api.get(f"/messages/{sent['message_identifier']}", user_id=hooks.customer).json()["events"]
    assert [(e["attempts"], e["delivered_at"], e["next_attempt_at"]) for e in told] == [(3, None, None)]
    receiver.heal()
    assert hooks.done("POST", f"{hook['id']}/replay", **{"from": "2020-01-01T00:00:00Z"})["replayed"] == 1
    receiver.wait_events(1)


def test_what_is_asked_wrong(stack, receiver):
    api = stack.api()
    customer = new_customer()
    hooks = Hooks(api, customer)
    for body, field in (({"url": receiver.url}, "user_id"), ({"user_id": customer}, "url"),
                        ({"user_id": customer, "url": "ftp://example.com"}, "url"),
                        ({"user_id": customer, "url": "http://a:b@example.com/"}, "url"),
                        ({"user_id": customer, "url": "https://example.com/#x"}, "url"),
                        ({"user_id": customer, "url": "https://example.com/ x"}, "url"),
                        ({"user_id": customer, "url": "https://example.com/", "events": []}, "events"),
                        ({"user_id": customer, "url": "https://example.com/", "events": ["x"]}, "events"),
                        ({"user_id": customer, "url": "https://example.com/", "batch": 101}, "batch")):
        assert assert_error(api.post("/webhooks", body), 400, "invalid_input")["field"] == field
    assert_error(api.post("/webhooks", b"nonsense"), 400, "invalid_json")
    made = [hooks.create(receiver.url) for _ in range(5)]
    assert_error(api.post("/webhooks", {"user_id": customer, "url": receiver.url}), 409, "too_many_webhooks")
    listed = api.get("/webhooks", user_id=customer).json()["webhooks"]
    assert [h["id"] for h in listed] == [h["id"] for h in made]
    assert all("secret" not in h for h in listed) and all(h["secret"].startswith("whsec_") for h in made)
    assert_error(Hooks(api, new_customer()).call("GET", made[0]["id"]), 404, "not_found")
    assert_error(Hooks(api, new_customer()).call("DELETE", made[0]["id"]), 404, "not_found")
    assert_error(hooks.call("GET", f"{made[0]['id']}/nothing"), 404, "not_found")
    assert_error(hooks.call("GET", "nothing"), 404, "not_found")
    answer = hooks.call("GET", f"{made[0]['id']}/replay")
    assert_error(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "POST"
    for wrong in ({}, {"from": "yesterday"}, {"from": "2026-02-30T00:00:00Z"}):
        assert assert_error(hooks.call("POST", f"{made[0]['id']}/replay", **wrong), 400, "invalid_input")[
            "field"] == "from"
    for hook in made:
        assert hooks.done("DELETE", hook["id"]) == {"id": hook["id"], "status": "deleted"}
    assert_error(hooks.call("DELETE", made[0]["id"]), 404, "not_found")
    wait_known(stack, 0)
