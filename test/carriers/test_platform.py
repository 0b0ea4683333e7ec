"""The whole platform with Kannel as its only operator: from a send to the handset's receipt in the history."""

import json
import os
import re
import time
from collections import Counter
from pathlib import Path

import pytest

from harness.client import Load, recipient
from harness.metrics import Metrics
from harness.stack import REPOSITORY, Stack
from harness.wait import wait_until

FILE = REPOSITORY / "consumerd" / "operators.d" / "kannel.ini"
MESSAGES = int(os.environ.get("CARRIERS_MESSAGES", 2000))
# What is under way when Kannel is killed has an unknown outcome, and more at a time makes it no faster.
FEW = ("in_flight_normal = 32", "in_flight_express = 16")
SOON = {("smsbox", "http-queue-delay"): 1}
SECONDS = 60 + MESSAGES // 20  # as long as anything may take


@pytest.fixture
def platform(request, tmp_path, make_kannel):
    """make(lines more for the operator's file, SETTING=…) -> (stack, kannel)"""
    made = []

    def make(*lines, **settings):
        kannel = make_kannel(SOON)
        stack = Stack(f"carriers-{len(made)}", settings={
            "OPERATORS_FILE": tmp_path / "operators.ini", "RECEIPT_REFERENCE_KEY": "a key for the references of tests",
            "KANNEL_PASSWORD": "CHANGE-send", "KANNEL_RECEIPT_SECRET": "of-the-path", **settings})
        stack.settings["RECEIPTS_PUBLIC_URL"] = stack.url("api-1")
        text, n = re.subn(r"127\.0\.0\.1:13013", f"127.0.0.1:{kannel.sendsms}", FILE.read_text())
        assert n, "the file does not send to the example's port"
        lines = [line for line in (*FEW, *lines) if line.split()[0] not in text]
        Path(tmp_path / "operators.ini").write_text("\n".join([text, *lines, ""]))
        made.append(stack)
        return stack.up(), kannel

    yield make
    for stack in made:
        stack.purge()


def states(stack):
    """{(status, delivery): recipients}"""
    names = {0: "none", 1: "waiting", 2: "delivered", 3: "undelivered", 4: "unreported"}
    return {(status, names[delivery]): n for status, delivery, n in stack.db.rows(
        "SELECT status, delivery, COUNT(*) FROM message_status GROUP BY status, delivery")}


def send(stack, count, during=lambda load: None):
    customers = stack.db.seed_customers(50, 100_000)
    with Load(stack.apis(), customers, count, express_share=0.2) as load:
        during(load)
        load.finish(SECONDS)
    return load


def wait_all(stack, count, state=("done", "delivered")):
    wait_until(lambda: states(stack).get(state) == count, SECONDS, lambda: f"{count} are {state}: {states(stack)}")


def times(centre):
    """{recipient as it was sent: how often the centre has it}"""
    return Counter({to.lstrip("+"): n for to, n in centre.times().items()})


def unknown_calls(stack):
    return Metrics.of(stack.url("consumerd-1")).sum("operator_calls_total", result="unknown")


def test_each_is_delivered_and_arrives_once(platform, centre, receiver):
    """And a customer with an endpoint is told."""
    stack, kannel = platform(WEBHOOK_ALLOW_PRIVATE="127.0.0.1")
    api = stack.api()
    customer = api.funded()
    made = api.post("/webhooks", {"user_id": customer, "url": receiver.url + "/hook", "events": ["message.delivered"]})
    assert made.status_code == 200, made.text
    began = time.monotonic()
    send(stack, MESSAGES)
    wait_all(stack, MESSAGES)
    arrived = times(centre)
    assert set(arrived) == {recipient(i) for i in range(MESSAGES)} and set(arrived.values()) == {1}
    assert not kannel.outstanding()
    print(f"\n{MESSAGES} messages, each delivered and once at the centre, {time.monotonic() - began:.0f} s")
    message = api.sent(customer, ["+491700000001"], text="für dich: 1 € und سلام")["message_identifier"]
    wait_until(lambda: api.history(user_id=customer)[0]["delivery"] == "delivered", 30)
    shown, = api.history(user_id=customer, message_identifier=message)
    assert (shown["status"], shown["provider"]) == ("done", "kannel")
    assert shown["delivery_report"]["operator"] == "kannel"
    wait_until(receiver.requests, 30, "the customer is told")
    told = json.loads(receiver.requests()[0].body)
    assert told["type"] == "message.delivered" and told["data"]["message_identifier"] == message
    assert [s["text"] for s in centre.submits() if s["to"].endswith("491700000001")] == ["für dich: 1 € und سلام"]


def test_what_is_not_delivered_says_why(platform, centre):
    centre.manner(undelivered="7", refused="8")
    stack, _ = platform()
    api = stack.api()
    customer = api.funded()
    api.sent(customer, ["+491700000001", "+491700000007", "+491700000008"])
    wait_until(lambda: "waiting" not in (seen := {r["delivery"] for r in api.history(user_id=customer)})
               and "none" not in seen, 30)
    reports = {row["recipient"][-1]: (row["delivery"], row["delivery_report"]) for row in api.history(user_id=customer)}
    assert {end: delivery for end, (delivery, _) in reports.items()} == {
        "1": "delivered", "7": "undelivered", "8": "undelivered"}
    assert reports["8"][1]["reason"] and reports["7"][1]["reason"]


@pytest.mark.parametrize("repeats", [False, True])
def test_kannel_is_killed_twice(platform, centre, repeats):
    """What was accepted reaches the centre, or its price goes back; with repeat_is_safe all of it reaches the centre.
    How many came twice, and whose doing it was, is shown with -s.
    """
    stack, kannel = platform(f"repeat_is_safe = {str(repeats).lower()}", DELIVERY_RETRY_WINDOW_SEC=120)

    def kill(load):
        for share in (3, 2):
            load.wait_accepted(MESSAGES // share, SECONDS)
            kannel.kill()
            kannel.start()

    send(stack, MESSAGES, kill)
    wait_until(lambda: not {"pending", "sending"} & {status for status, _ in states(stack)}, SECONDS,
               lambda: f"all are final: {states(stack)}")
    wait_until(lambda: not kannel.queued() and not centre.count()["waiting"], SECONDS)
    failed = {row[0] for row in stack.db.rows("SELECT recipient FROM message_status WHERE status='failed'")}
    everybody = {recipient(i) for i in range(MESSAGES)}
    wait_until(lambda: set(times(centre)) >= everybody - failed, SECONDS,
               lambda: f"all are there: {everybody - failed - set(times(centre))}")
    arrived, before = times(centre), states(stack)
    stack.db.execute("UPDATE deliveries SET look_at = NOW(6) WHERE state = 1")  # RECEIPT_WAIT_HOURS later
    wait_until(lambda: "waiting" not in {delivery for _, delivery in states(stack)}, 60)
    lost = states(stack).get(("done", "unreported"), 0)
    print(f"\n{MESSAGES} messages; {sum(arrived.values()) - len(arrived)} came again, at most {unknown_calls(stack):.0f} "
          f"by us after an unknown outcome, the others from Kannel's spool; {len(failed)} failed, of which "
          f"{len(failed & set(arrived))} arrived; {lost} receipts were lost in Kannel ({100 * lost / MESSAGES:.1f} %); {before}")
    assert sum(arrived.values()) - len(arrived) < MESSAGES // 5
    assert lost < MESSAGES // 4
    assert not repeats or not failed
    assert stack.db.value("SELECT COUNT(*) FROM user_transactions WHERE transaction_type='refund'") == len(failed)


def test_msg_api_is_away_for_a_while(platform, centre):
    """Receipts wait in Kannel, and none is lost."""
    stack, _ = platform()
    send(stack, MESSAGES // 2)
    centre.manner(hold=True)
    customers = stack.db.seed_customers(10, 100_000, first=1000)
    with Load(stack.apis(), customers, MESSAGES // 2, seed=2) as load:
        load.finish(SECONDS)
    wait_until(lambda: ("done", "waiting") in states(stack) and not {"pending", "sending"} & {
        status for status, _ in states(stack)}, SECONDS)
    stack.kill("api-1")
    centre.manner()
    wait_until(lambda: not centre.count()["waiting"], SECONDS)
    stack.start("api-1")
    wait_all(stack, MESSAGES // 2 * 2)
