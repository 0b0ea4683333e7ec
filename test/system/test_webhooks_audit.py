"""msg-api audit over endpoints and their events: it names what does not fit, and finds nothing while all of it moves."""

import json
import os
import subprocess
import threading

import pytest
from harness.audit import audit, quiesce
from harness.client import recipient
from harness.metrics import Metrics
from harness.receipts import KEY, SIGNING, Bringer, section, simulated
from harness.receiver import Hooks, Receiver, wait_known
from harness.carrier import Carrier
from harness.simulator import Sim
from harness.stack import binary
from harness.wait import wait_until

WEBHOOKS = {"WEBHOOK_ALLOW_PRIVATE": "127.0.0.1", "WEBHOOK_SCHEDULE_SEC": "1,2,2,2,2", "REFUND_UNDELIVERED": "on",
            "RECEIPT_REFERENCE_KEY": KEY}


def found_by(stack, *words):
    """[what a check says] of `msg-api audit`."""
    done = subprocess.run([binary("api"), "audit", "--json", *words], capture_output=True, text=True, timeout=120,
                          env={**os.environ, **stack.values})
    report = json.loads(done.stdout)
    assert done.returncode == bool(report["violations"]), done.stderr
    return [f"{check['name']}: {example}" for check in report["checks"] for example in check["examples"]]


def over(stack):
    return not stack.db.value("SELECT COUNT(*) FROM webhook_events WHERE next_at IS NOT NULL")


@pytest.fixture
def receiver():
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def told(world, tmp_path, receiver):
    """(stack, hooks, message): twenty recipients that are done, of whose operator nothing has been heard; all is told."""
    with Carrier("operatorA") as carrier:
        file = tmp_path / "operators.ini"
        file.write_text(section(carrier.name, carrier.url))
        stack = world(carriers=[carrier], OPERATORS_FILE=file, RECEIPTS_PUBLIC_URL="http://127.0.0.1:1", **WEBHOOKS)
        hooks = Hooks(stack.api(), stack.api().funded(1000))
        hooks.create(receiver.url)
        wait_known(stack)
        message = hooks.api.sent(hooks.customer, [recipient(i) for i in range(20)])["message_identifier"]
        receiver.wait_events(20)
        wait_until(lambda: over(stack), 20, "all is written down")
        yield stack, hooks, message


# What is done to the event of the recipient of that number: what the audit says of it.
EVENTS = [
    ("webhook_id=webhook_id+1000000", "its endpoint is gone"),
    ("data=JSON_REPLACE(data,'$.user_id',77)", "the endpoint is another customer's"),
    ("data='nothing'", "the endpoint is another customer's"),
    ("webhook_id={narrow}", "the endpoint has not asked for it"),
    ("data=JSON_REPLACE(data,'$.recipient','0')", "there is no such recipient"),
    ("subject=CONCAT(subject,'9')", "there is no such recipient"),
    ("kind=1", "the recipient is done, delivery 1"),
    ("kind=2", "the recipient is done, delivery 1"),
    ("kind=3", "the recipient is done, delivery 1"),
    ("next_at=NOW(6)+INTERVAL 1 DAY", "delivered, and to be sent"),
    ("delivered_at=NULL,attempts=0", "over, and never sent"),
    ("last_status=500", "delivered, with the answer 500"),
    ("delivered_at=NULL,next_at=NOW(6)+INTERVAL 9 DAY", "waits for too long"),
]


def test_damage_to_events_is_named(told):
    stack, hooks, message = told
    assert found_by(stack, "--quiesced") == []
    narrow = hooks.create("http://127.0.0.1:1/", events=["message.failed"])["id"]
    for position, (change, _) in enumerate(EVENTS):
        stack.db.execute(f"UPDATE webhook_events SET {change.format(narrow=narrow)} WHERE subject='{message}-{position}'")
    found = found_by(stack)
    for position, (change, words) in enumerate(EVENTS):
        mine = [f for f in found if f.startswith(f"event_has_cause: {message}-{position}") and words in f
                and f[len(f"event_has_cause: {message}-{position}")] in "-9"]
        assert mine, (change, found)
    assert len(found) == len(EVENTS), found


def test_a_recipient_that_has_changed_behind_its_event_is_named(told):
    stack, hooks, message = told
    bring = Bringer(stack.url("api-1"), "operatorA")
    bring.tell("delivered", message, 0)
    bring.tell("undelivered", message, 1)
    wait_until(lambda: stack.db.value("SELECT COUNT(*) FROM webhook_events") == 22 and over(stack), 20, "both are told")
    assert found_by(stack) == []
    for position, delivery in ((0, 1), (1, 2)):
        stack.db.execute("UPDATE message_status SET delivery=%s WHERE message_identifier=%s AND position=%s", delivery,
                         message, position)
    found = [f for f in found_by(stack) if f.startswith("event_has_cause")]
    assert found == [f"event_has_cause: {message}-0-delivered for endpoint 1: the recipient is done, delivery 1",
                     f"event_has_cause: {message}-1-undelivered for endpoint 1: the recipient is done, delivery 2"]


ENDPOINTS = [
    ("disabled_at=NOW(6)", "disabled, or the reason for it, alone"),
    ("disabled_for='gone'", "disabled, or the reason for it, alone"),
    ("failures=3", "failing, or since when, alone"),
    ("failing_since=NOW(6)", "failing, or since when, alone"),
    ("owner=7", "a lease, or its owner, alone"),
    ("leased_until=NOW(6)", "a lease, or its owner, alone"),
    ("owner=7,leased_until=NOW(6)+INTERVAL 1 HOUR", "leased for too long"),
    ("paused_until=NOW(6)+INTERVAL 9 DAY", "rests for too long"),
    ("secret=''", "nothing to sign with"),
    ("deleted_at=NOW(6)", "deleted, and its secret is not"),
    ("deleted_at=NOW(6),secret='',old_secret='x'", "deleted, and its secret is not"),
]


def test_damage_to_endpoints_and_calls_is_named(told):
    stack, hooks, _ = told
    for i, (change, _) in enumerate(ENDPOINTS):
        stack.db.execute("INSERT INTO webhooks(id,customer_id,url,kinds,secret) VALUES (%s,%s,'http://x/',31,'s')",
                         100 + i, hooks.customer)
        stack.db.execute(f"UPDATE webhooks SET {change} WHERE id={100 + i}")
    stack.db.execute("UPDATE webhook_attempts SET webhook_id=999 WHERE call_no=2")
    assert found_by(stack) == [
        *(f"endpoint_stands_right: endpoint {100 + i}: {words}" for i, (_, words) in enumerate(ENDPOINTS)),
        "calls_have_endpoints: call 2 of endpoint 999: there is no such endpoint"]


# What else is so where an event is due: whether its endpoint is stuck.
DUE = [
    ("failures=0", True),
    ("owner=7,leased_until=NOW(6)-INTERVAL 1 HOUR", True),  # who had it has died, and nobody has come
    ("owner=7,leased_until=NOW(6)+INTERVAL 50 SECOND", False),
    ("failures=1,failing_since=NOW(6)", False),
    ("paused_until=NOW(6)+INTERVAL 1 MINUTE", False),
    ("disabled_at=NOW(6),disabled_for='gone'", False),
]


def test_an_endpoint_that_nobody_calls_is_named(told):
    stack, hooks, message = told
    stack.stop("consumerd-1")
    for i, (change, _) in enumerate(DUE):
        stack.db.execute("INSERT INTO webhooks(id,customer_id,url,kinds,secret) VALUES (%s,%s,'http://x/',31,'s')",
                         100 + i, hooks.customer)
        stack.db.execute(f"UPDATE webhooks SET {change} WHERE id={100 + i}")
        stack.db.execute("INSERT INTO webhook_events(webhook_id,subject,kind,data,next_at) SELECT %s,subject,kind,data,"
                         "NOW(6)-INTERVAL 2 HOUR FROM webhook_events WHERE webhook_id=1 AND subject=%s", 100 + i, f"{message}-0")
    wanted = [f"endpoint_is_not_stuck: endpoint {100 + i}: has events that are due, and nobody calls it"
              for i, (_, stuck) in enumerate(DUE) if stuck]
    assert found_by(stack, "--stuck-after=3600") == wanted
    assert found_by(stack, "--stuck-after=9000") == []
    # What waits for an earlier event of its recipient is not due.
    stack.db.execute("UPDATE webhook_events SET next_at=NOW(6)+INTERVAL 1 MINUTE WHERE webhook_id=100")
    stack.db.execute("UPDATE message_status SET delivery=2 WHERE position=0")
    stack.db.execute("UPDATE deliveries SET state=2,reported_at=NOW(6)")
    stack.db.execute("INSERT INTO webhook_events(webhook_id,subject,kind,data,next_at) SELECT 100,subject,2,data,"
                     "NOW(6)-INTERVAL 2 HOUR FROM webhook_events WHERE webhook_id=100")
    assert [f for f in found_by(stack) if "stuck" in f] == wanted[1:]


def test_nothing_is_found_while_all_of_it_moves(world, tmp_path, receiver):
    """Sends, receipts early, late and twice, refunds, calls that fail, and replays; audits all the while."""
    sim = Sim("operatorA", SIM_RECEIPT_KEY=SIGNING)
    try:
        file = tmp_path / "operators.ini"
        file.write_text(simulated(sim))
        stack = world(carriers=[sim], OPERATORS_FILE=file, AUDIT_LOAD_PCT=50, RECEIPTS_PUBLIC_URL="http://127.0.0.1:1",
                      **WEBHOOKS)
        sim.faults(reject_prefix="0999")
        sim.receipts(url=f"{stack.url('api-1')}/operators/{sim.name}/receipts", delivered_share=0.6, duplicate_share=0.3,
                     reorder_share=0.3, sent_share=0.3, before_answer_share=0.1, answer_after_ms=100, delay_max_ms=500)
        api = stack.api()
        all_hooks = [Hooks(api, api.funded(10_000)) for _ in range(4)]
        made = [(hooks, hooks.create(receiver.url, batch=1 + 9 * (i % 2))) for i, hooks in enumerate(all_hooks)]
        wait_known(stack, 4)
        receiver.answer(status=500, when=lambda request: hash(request.headers["webhook-id"]) % 10 == 0, first=40)
        stop, found = threading.Event(), []

        def audits():
            while not stop.is_set():
                found.extend(found_by(stack))

        auditor = threading.Thread(target=audits)
        auditor.start()
        try:
            for i in range(60):
                hooks = all_hooks[i % 4]
                api.sent(hooks.customer, [recipient(10 * i + j) if j % 5 else f"0999{j}" for j in range(10)])
                if i % 20 == 10:
                    for hooks, hook in made:
                        hooks.done("POST", f"{hook['id']}/replay", **{"from": "2026-01-01T00:00:00Z"})
            quiesce(stack)
            sim.settled()
            wait_until(lambda: not stack.db.value("SELECT COUNT(*) FROM receipts_early") and over(stack), 60,
                       "all has been told")
        finally:
            stop.set()
            auditor.join()
        assert found == [] and found_by(stack, "--quiesced") == [] and audit(stack) == []
        assert Metrics.of(stack.url("api-1")).value("msg_ledger_mismatch") == 0
        told = {e["id"] for e in receiver.events}
        assert len(told) == stack.db.value("SELECT COUNT(*) FROM webhook_events") > 1000
    finally:
        sim.stop()
