"""msg-api audit, against the operators' ledgers too, and the audit that runs all the time."""

import json
import os
import subprocess

import pytest
import requests
from harness.audit import quiesce
from harness.client import recipient
from harness.metrics import Metrics
from harness.stack import binary
from harness.wait import wait_until
from harness.witness import numbers

REJECTED = "0999"


def run_audit(stack, *words):
    values = stack.values
    return subprocess.run([binary("api"), "audit", *words], capture_output=True, text=True, timeout=120,
                          env={**os.environ, **values})


def audit(stack, *words):
    """{check: examples} of those that found something, and {check: rows it looked at}."""
    urls = ",".join(o.url for o in stack.operators)
    done = run_audit(stack, "--quiesced", "--json", "--operators", urls, *words)
    report = json.loads(done.stdout)
    assert done.returncode == (1 if report["violations"] else 0), done.stderr
    return {c["name"]: c["examples"] for c in report["checks"] if c["violations"]}, {
        c["name"]: c["checked"] for c in report["checks"]}


@pytest.fixture
def settled(world):
    """(stack, references of done recipients, of failed ones)"""
    stack = world(REPAIR_AFTER_SEC="0")
    for operator in stack.operators:
        operator.faults(reject_prefix=REJECTED)
    api = stack.api()
    for customer in stack.db.seed_customers(5, 100):
        api.sent(customer, ["0912", "0913", REJECTED], type="express")
    quiesce(stack)
    rows = stack.db.records("SELECT CONCAT(message_identifier,'-',position) r, status, id"
                            " FROM message_status ORDER BY id")
    return stack, *([r for r in rows if r["status"] == s] for s in ("done", "failed"))


def test_the_ledgers_agree(settled):
    stack, done, failed = settled
    assert len(done) == 10 and len(failed) == 5
    found, checked = audit(stack)
    assert found == {}
    empty = ("outbox_is_empty", "receipts_have_recipients", "endpoint_stands_right", "calls_have_endpoints",
             "endpoint_is_not_stuck", "event_has_cause")
    assert [checked.pop(check) for check in empty] == [0] * len(empty)
    assert all(checked.values()) and checked["accepted_was_sent"] == 10, checked


def test_every_disagreement_is_named(settled):
    stack, done, failed = settled
    values = stack.values
    operators = {"A": values["OPERATOR_A_URL"], "B": values["OPERATOR_B_URL"]}

    def accepted(operator, reference, to):
        stack.operator_a.heal(), stack.operator_b.heal()
        answer = requests.post(operators[operator] + "/messages", timeout=10, json={
            "reference": reference, "to": to, "text": "x", "type": "normal"})
        assert answer.ok, answer.text

    accepted("B", done[0]["r"], "0912")     # by both
    accepted("A", failed[0]["r"], REJECTED)  # and it was refunded
    accepted("A", "nobody-0", "0912")       # what nobody sent
    stack.db.execute("UPDATE message_status SET provider_message_id='x' WHERE id=%s", done[1]["id"])
    found, _ = audit(stack)
    assert {check: len(examples) for check, examples in found.items()} == {
        "done_was_accepted": 1, "failed_was_not_accepted": 1, "accepted_by_one_operator": 1,
        "accepted_was_sent": 1}, found
    assert done[0]["r"] in found["accepted_by_one_operator"][0]
    assert done[1]["r"] in found["done_was_accepted"][0]
    assert failed[0]["r"] in found["failed_was_not_accepted"][0]
    assert "nobody-0" in found["accepted_was_sent"][0]
    # An answer that was unknown explains that both have it, and no refund of what one of them has.
    stack.db.execute("UPDATE message_status SET unknown_operators='operatorA'"
                     " WHERE id IN (%s,%s)", done[0]["id"], failed[0]["id"])
    found, _ = audit(stack)
    assert set(found) == {"done_was_accepted", "failed_was_not_accepted", "accepted_was_sent"}
    assert failed[0]["r"] in found["failed_was_not_accepted"][0]


def doubts(stack, *words):
    """{class: examples} of what is no violation."""
    report = json.loads(run_audit(stack, "--json", *words).stdout)
    assert all(d["recipients"] == len(d["examples"]) for d in report["doubts"])
    return {d["name"]: d["examples"] for d in report["doubts"] if d["recipients"]}


def test_what_is_in_doubt_is_listed(settled):
    """Damage put in by hand: refunds that an operator may contradict, and names of operators that are gone."""
    stack, done, failed = settled
    assert doubts(stack, "--operator-names", "operatorA,operatorB") == {}
    stack.db.execute("UPDATE message_status SET unknown_operators='operatorB' WHERE id=%s", failed[0]["id"])
    stack.db.execute("UPDATE message_status SET unknown_operators='operatorA' WHERE id=%s", done[0]["id"])
    found = doubts(stack)
    assert set(found) == {"refunded_in_doubt"} and len(found["refunded_in_doubt"]) == 1
    assert failed[0]["r"] in found["refunded_in_doubt"][0] and "operatorB" in found["refunded_in_doubt"][0]
    text = run_audit(stack).stdout
    assert failed[0]["r"] in text and "0 violations" in text

    stack.stop("consumerd-1")
    api = stack.api()
    customer = api.funded(10)
    identifier = api.sent(customer, ["0912", "0913", "0914", "0915"])["message_identifier"]
    for position, names in enumerate(["operatorA,old", "operatorA", "*,?", "*"]):
        stack.db.execute("UPDATE message_status SET unknown_operators=%s WHERE message_identifier=%s AND"
                         " position=%s", names, identifier, position)
    found = doubts(stack, "--operator-names=operatorA,operatorB")
    assert set(found) == {"refunded_in_doubt", "operator_is_gone"}
    assert [e.split(":")[0] for e in found["operator_is_gone"]] == [f"{identifier}-0", f"{identifier}-2"]
    assert "old" in found["operator_is_gone"][0]


def test_what_is_held_is_counted_apart(world):
    """Neither stuck nor left over in the outbox, and named."""
    stack = world(REPAIR_AFTER_SEC=0, DELIVERY_RETRY_WINDOW_SEC=0, OPERATOR_TIMEOUT_MS=300,
                  OPERATOR_UNKNOWN_POLICY="hold", DELIVERY_RETRY_BASE_MS=60000, DELIVERY_RETRY_MAX_MS=60000)
    stack.operator_a.faults(accept_then_hang_share=1, lookup_status=503, lookup_status_share=1)
    api = stack.api()
    customer = api.funded(10)
    identifier = api.sent(customer, ["0912", "0913"])["message_identifier"]
    wait_until(lambda: stack.db.value("SELECT COUNT(*) FROM outbox_events WHERE kind=2") == 1, 30, "held")
    assert audit(stack)[0] == {}
    found = doubts(stack, "--quiesced")
    assert [e.split(":")[0] for e in found["held"]] == [f"{identifier}-0", f"{identifier}-1"]
    stack.db.execute("UPDATE message_status SET unknown_operators='' WHERE position=1")
    found = audit(stack)[0]
    assert [e.split(":")[0] for e in found["recipient_is_not_stuck"]] == [f"{identifier}-1"]


def test_operators_that_cannot_be_asked(settled):
    stack, _, _ = settled
    away = run_audit(stack, "--operators=http://127.0.0.1:1")
    assert away.returncode == 1 and "ledger" in away.stderr
    no_ledger = run_audit(stack, "--operators", stack.url("api-1"))
    assert no_ledger.returncode == 1 and "no ledger" in no_ledger.stderr


def test_a_failed_recipient_remembers_who_may_have_it(world):
    """Operator A takes it, its answer is lost, nobody can ask: refunded, and the row says why."""
    stack = world(DELIVERY_RETRY_WINDOW_SEC="0", OPERATOR_TIMEOUT_MS="300")
    stack.operator_a.faults(accept_then_hang_share=1, lookup_hang_share=1)
    stack.operator_b.faults(status=503, status_share=1)
    api = stack.api()
    customer = api.funded(10)
    identifier = api.sent(customer, ["0912"])["message_identifier"]
    assert set(api.wait_final(customer, identifier).values()) == {"failed"}
    assert stack.db.value("SELECT unknown_operators FROM message_status") == "operatorA"
    quiesce(stack)
    assert doubts(stack) == {"refunded_in_doubt": [f"{identifier}-0: refunded, and may be with operatorA"]}
    assert audit(stack)[0] == {"failed_was_not_accepted": [
        f"{identifier}-0: refunded, and an operator that it was in doubt with accepted it"]}


def test_totals_near_the_limits(world):
    """Sums that no 64 bits hold are added up right, and a difference of five shows in them."""
    stack = world("api")
    near, customers = 2**62, range(1, 6)
    for customer in customers:
        stack.db.execute("INSERT INTO user_balances(user_id,balance) VALUES (%s,%s)", customer, near)
        stack.db.execute("INSERT INTO user_transactions(user_id,amount,transaction_type,transaction_id)"
                         " VALUES (%s,%s,'deposit',%s)", customer, near, f"d-{customer}")

    def report():
        done = run_audit(stack, "--quiesced", "--json")
        parsed = json.loads(done.stdout)
        return parsed["totals"], {c["name"]: c["examples"] for c in parsed["checks"] if c["violations"]}

    totals, found = report()
    assert totals["deposits"] == totals["balances"] == 5 * near
    assert set(found) == {"balance_is_ledger_sum"}
    assert len(found["balance_is_ledger_sum"]) == 5  # more than a balance may be
    assert all("more than a balance may be" in e for e in found["balance_is_ledger_sum"])
    stack.db.execute("UPDATE user_balances SET balance=balance-5 WHERE user_id=3")
    totals, found = report()
    assert totals["balances"] == 5 * near - 5
    assert "differ from deposits by -5" in found["deposits_are_accounted_for"][0]
    assert str(5 * near - 5) in run_audit(stack, "--quiesced").stdout


def mismatches(stack):
    return Metrics.of(stack.url("api-1")).value("msg_ledger_mismatch")


def rounds(stack):
    return Metrics.of(stack.url("api-1")).value("msg_audit_rounds_total")


def test_the_running_audit(world):
    stack = world("api", AUDIT_LOAD_PCT=50)
    api = stack.api()
    customer = api.funded(10)
    api.sent(customer)
    seen = rounds(stack)
    wait_until(lambda: rounds(stack) >= seen + 2, 30, "a whole round since the send")
    assert mismatches(stack) == 0
    stack.db.execute("UPDATE user_balances SET balance=balance+1 WHERE user_id=%s", customer)
    wait_until(lambda: mismatches(stack) == 1, 30, "the mismatch is seen")
    wait_until(lambda: f"customer {customer}" in stack.log_text("api-1"), 30, "the log names the row")
    stack.db.execute("UPDATE user_balances SET balance=balance-1 WHERE user_id=%s", customer)
    wait_until(lambda: mismatches(stack) == 0, 30, "it is mended")


MANY = 20_000
MOST_ROWS = 10_000  # that one statement of the audit may read


def long_statements(stack, log):
    """What read more rows than it may, of the statements of this stack's daemons."""
    with open(log, errors="replace") as file:
        entries = file.read().split("# User@Host: ")
    return [e for e in entries if "# Query_time" in e and f"Schema: {stack.values['DB_NAME']} " in e
            and "INSERT INTO" not in e]


def many_events(stack, customer):
    """An endpoint that was told of very many things, of a message with a thousand recipients among them."""
    stack.api().sent(customer, [recipient(i) for i in range(1000)])
    stack.db.execute("UPDATE message_status SET status='done',provider='operatorA'")
    stack.db.execute("INSERT INTO webhooks(customer_id,url,kinds,secret) VALUES (%s,'http://x/',31,'s')", customer)
    over = "NOW(6),NOW(6),1,200 FROM"
    stack.db.execute("INSERT INTO webhook_events(webhook_id,subject,kind,data,created_at,delivered_at,attempts,last_status)"
                     " SELECT 1,CONCAT(message_identifier,'-',position),0,JSON_OBJECT('user_id',user_id,"
                     f"'message_identifier',message_identifier,'recipient',recipient),{over} message_status")
    stack.db.execute("INSERT INTO webhook_events(webhook_id,subject,kind,data,created_at,delivered_at,attempts,last_status)"
                     f" SELECT 1,CONCAT('low-',seq),4,JSON_OBJECT('user_id',{customer}),{over} {numbers(3000)}")


def test_a_customer_with_very_many_entries_keeps_nothing_from_being_seen(world, servers):
    """Nor is any statement long: it would be cut off at its limit, and the audit stand still."""
    stack = world("api", AUDIT_LOAD_PCT=50)
    log = os.path.join(servers.directory, "slow.log")
    first, large, last = stack.db.seed_customers(3, 1010)
    stack.db.execute("INSERT INTO user_transactions(user_id,amount,transaction_type,transaction_id) "
                     f"SELECT %s,1,'deposit',CONCAT('d-many-',seq) FROM {numbers(MANY)}", large)
    stack.db.execute("UPDATE user_balances SET balance=balance+%s WHERE user_id=%s", MANY, large)
    many_events(stack, first)
    stack.database_root(f"SET GLOBAL slow_query_log_file='{log}'; SET GLOBAL long_query_time=0;"
                        f"SET GLOBAL min_examined_row_limit={MOST_ROWS}; SET GLOBAL slow_query_log=ON")
    try:
        stack.restart("api-1")
        wait_until(lambda: rounds(stack) >= 1, 120, "a whole round")
        assert mismatches(stack) == 0
        stack.db.execute("UPDATE user_balances SET balance=balance+1 WHERE user_id IN (%s,%s)", large, last)
        wait_until(lambda: mismatches(stack) == 2, 120, "both mismatches are seen")
        done = run_audit(stack)
        assert done.returncode == 1 and f"customer {large}: balance {MANY + 1011}, ledger {MANY + 1010}" in done.stdout
        assert f"customer {first}:" not in done.stdout
    finally:
        stack.database_root("SET GLOBAL slow_query_log=OFF")
    assert long_statements(stack, log) == []
