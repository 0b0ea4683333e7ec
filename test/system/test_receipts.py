"""Receipts: what operators tell of recipients they were given, whatever the order, however often, and
whoever else may have them.
"""

import json
import os
import random
import re
import signal
import socket
import subprocess
import threading

import pytest
from harness.audit import audit, quiesce
from harness.carrier import Carrier
from harness.client import recipient
from harness.metrics import Metrics
from harness.openapi import Document
from harness.receipts import KEY, Bringer, reference, section
from harness.stack import REPOSITORY, binary
from harness.wait import wait_until

QUICK = {"OPERATOR_TIMEOUT_MS": 300, "OPERATOR_LOOKUP_TRIES": 1, "DELIVERY_RETRY_WINDOW_SEC": 1,
         "DELIVERY_RETRY_BASE_MS": 100, "BREAKER_FAILURES": 1000, "BREAKER_FAILURE_PCT": 101,
         "BREAKER_SLOW_PCT": 101}
PATH = "/operators/{name}/receipts"
NAMES = {1: "waiting", 2: "delivered", 3: "undelivered", 4: "unreported", 0: "none"}


def make(world, carriers, folder, *lines, **settings):
    """A stack whose operators give receipts."""
    file = folder / "operators.ini"
    file.write_text("".join(section(c.name, c.url, *lines) for c in carriers))
    return world(carriers=carriers, OPERATORS_FILE=file, RECEIPT_REFERENCE_KEY=KEY,
                 RECEIPTS_PUBLIC_URL="http://127.0.0.1:1", **{**QUICK, **settings})


def bringer(stack, carrier):
    return Bringer(stack.url("api-1"), carrier.name)


def send(stack, count=1, money=100):
    api = stack.api()
    customer = api.funded(money)
    return customer, api.sent(customer, [recipient(i) for i in range(count)])["message_identifier"]


def sent(stack, count=1, money=100):
    """(customer, identifier) of a message whose recipients are final."""
    customer, message = send(stack, count, money)
    wait_until(lambda: not stack.db.value("SELECT COUNT(*) FROM message_status WHERE status IN "
                                          "('pending','sending')"), 30, "all are final")
    return customer, message


def state(stack, message, position=0):
    """(status, delivery) of a recipient."""
    status, delivery = stack.db.rows("SELECT status,delivery FROM message_status WHERE message_identifier="
                                    f"'{message}' AND position={position}")[0]
    return status, NAMES[delivery]


def results(stack, carrier):
    """{result: count} of its receipts."""
    series = Metrics.of(stack.url("api-1")).series("msg_receipt_results_total", operator=carrier.name)
    return {labels["result"]: value for labels, value in series}


def balance(stack, customer):
    return stack.db.balance(customer)


def money(stack, customer):
    """(balance, refunds)"""
    refunds = [row for row in stack.db.ledger(customer) if row[0] == "refund"]
    return stack.db.balance(customer), len(refunds)


def doubts(stack):
    done = subprocess.run([binary("api"), "audit", "--json", "--quiesced"], capture_output=True, text=True,
                          timeout=120, env={**os.environ, **stack.values})
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["violations"] == 0, done.stdout
    return {c["name"]: c["examples"] for c in report["doubts"] if c["recipients"]}


@pytest.fixture(scope="module")
def lasting():
    with Carrier("operatorA") as a, Carrier("operatorB") as b:
        yield a, b


@pytest.fixture(scope="module")
def others():
    """For stacks beside `refunding`, whose audit looks at all that its carriers got."""
    with Carrier("operatorA") as a, Carrier("operatorB") as b:
        yield a, b


@pytest.fixture(scope="module")
def refunding(module_world, lasting, tmp_path_factory):
    """One for all who harm nothing: both operators give receipts, undelivered is refunded."""
    return make(module_world, lasting, tmp_path_factory.mktemp("operators"), REFUND_UNDELIVERED="on")


def settled(stack):
    quiesce(stack)
    assert audit(stack) == []


def test_what_an_operator_tells_is_kept_and_shown(refunding, lasting):
    stack, a = refunding, lasting[0]
    customer, message = sent(stack, 3)
    bring = bringer(stack, a)
    bring.tell("delivered", message, 0, code="000")
    bring.tell("undelivered", message, 1, code=27, text="absent\tsubscriber \u0416")
    bring.tell("buffered", message, 2)
    rows = sorted(stack.api().history(user_id=customer), key=lambda row: row["position"])
    assert [row["delivery"] for row in rows] == ["delivered", "undelivered", "waiting"]
    assert [row["status"] for row in rows] == ["done"] * 3
    report = rows[1]["delivery_report"]
    assert (report["operator"], report["code"], report["words"], report["reason"]) == \
        ("operatorA", "27", "absent subscriber \u0416", "expired")
    assert rows[0]["delivery_report"]["reason"] == "" and rows[2]["delivery_report"] is None
    assert money(stack, customer) == (98, 1)  # the undelivered one's
    settled(stack)


def test_late_and_repeated_receipts_change_nothing(refunding, lasting):
    stack, a = refunding, lasting[0]
    customer, message = sent(stack, 2)
    bring = bringer(stack, a)
    for status in ("delivered", "delivered", "undelivered"):
        bring.tell(status, message, 0)
    for status in ("undelivered", "undelivered"):
        bring.tell(status, message, 1)
    assert [state(stack, message, i)[1] for i in (0, 1)] == ["delivered", "undelivered"]
    assert money(stack, customer) == (99, 1)
    assert not Metrics.of(stack.url("api-1")).sum("db_queries_total", query="receipt_traces"), "nobody collects spans"
    settled(stack)


def test_delivered_after_the_price_has_gone_back_is_listed(refunding, lasting):
    stack, a = refunding, lasting[0]
    customer, message = sent(stack)
    bring = bringer(stack, a)
    before = results(stack, a)["late"]
    for status in ("undelivered", "delivered", "delivered"):
        bring.tell(status, message)
    assert state(stack, message) == ("done", "undelivered") and money(stack, customer) == (100, 1)
    assert results(stack, a)["late"] == before + 1
    assert any(example.startswith(f"{message}-0: refunded, and operatorA has delivered it")
               for example in doubts(stack)["delivered_and_refunded"])
    assert "receipt.after_refund" in stack.log_text("api-1")
    settled(stack)


def test_delivered_after_all_where_nothing_was_refunded_is_nobodys_loss(world, others, tmp_path):
    stack, a = make(world, others, tmp_path), others[0]
    customer, message = sent(stack)
    bring = bringer(stack, a)
    for status in ("undelivered", "delivered"):
        bring.tell(status, message)
    assert state(stack, message) == ("done", "undelivered") and money(stack, customer) == (99, 0)
    counted = results(stack, a)
    assert counted["late"] == 0 and counted["noted"] == 1 and counted["changed"] == 1
    assert doubts(stack) == {}
    assert "receipt.after_refund" not in stack.log_text("api-1")


def test_many_in_one_request_and_by_the_operators_own_identifier(refunding, lasting):
    stack, a = refunding, lasting[0]
    _, message = sent(stack, 40)
    ids = dict(stack.db.rows("SELECT position,provider_message_id FROM message_status WHERE "
                             "message_identifier=%s", message))
    bring = bringer(stack, a)
    response = bring.bring([{"status": "delivered", "id": ids[i]} for i in range(0, 40, 2)] +
                           [{"status": "undelivered", "reference": reference(a.name, message, i), "code": i}
                            for i in range(1, 40, 2)])
    assert response.status_code == 200, response.text
    assert [state(stack, message, i)[1] for i in range(40)] == ["delivered", "undelivered"] * 20
    settled(stack)


def refused(stack, carrier, reason):
    return Metrics.of(stack.url("api-1")).value("msg_receipts_refused_total", operator=carrier.name, reason=reason)


def test_what_is_not_from_the_operator_is_refused_and_counted(refunding, lasting):
    stack, (a, b) = refunding, lasting
    _, message = sent(stack)
    bring = bringer(stack, a)
    before = refused(stack, a, "forged")
    body = b'{"status":"delivered","reference":"%s"}' % reference(a.name, message, 0).encode()
    forged = [
        bring.raw(body, **{"X-Signature": "00" * 32}),
        bring.raw(body, **{"X-Signature": ""}),
        bring.raw(body, **{"X-Signature": bringer(stack, b).signature(body)}),
        bring.raw(body + b" ", **{"X-Signature": bring.signature(body)}),
        bring.bring({"status": "delivered", "reference": f"{message}-0"}),
        bring.bring({"status": "delivered", "reference": reference(b.name, message, 0)}),
        bring.bring({"status": "delivered", "reference": reference(a.name, message, 0, key="another key, as long")}),
    ]
    assert [response.status_code for response in forged] == [403] * len(forged)
    document = Document()
    for response in forged:
        document.check("POST", PATH, response)
    assert refused(stack, a, "forged") == before + len(forged)
    assert state(stack, message) == ("done", "waiting")
    absent = Bringer(stack.url("api-1"), "nobody").bring({})
    assert absent.status_code == 404
    document.check("POST", PATH, absent)
    assert bring.session.get(stack.url("api-1") + "/operators/operatorA/receiptsX").status_code == 404
    assert bring.session.get(bring.url + "/secret").status_code == 403  # none is asked for: not the one
    assert bring.session.put(bring.url, data=b"{}").status_code == 405
    assert bring.bring([{"status": "delivered", "id": str(i)} for i in range(501)]).status_code == 413
    assert message not in stack.log_text("api-1").split("receipt.forged")[-1]
    settled(stack)


def test_what_no_rule_is_for_is_counted_and_not_kept(refunding, lasting):
    stack, a = refunding, lasting[0]
    _, message = sent(stack)
    metrics = Metrics.of(stack.url("api-1"))
    before = metrics.value("msg_receipts_total", operator=a.name, says="unclear")
    bringer(stack, a).tell("lost in space", message, code="E42")
    assert Metrics.of(stack.url("api-1")).value("msg_receipts_total", operator=a.name, says="unclear") == before + 1
    assert state(stack, message) == ("done", "waiting")
    assert "E42" in stack.log_text("api-1")


def test_what_nobody_will_ever_understand_is_not_brought_again(refunding, lasting):
    """An operator that is refused brings the same again, and with it all that stands beside it."""
    stack, a = refunding, lasting[0]
    _, message = sent(stack, 2)
    bring = bringer(stack, a)
    before, forged = refused(stack, a, "unreadable"), refused(stack, a, "forged")
    nothing = [bring.raw(b"{"), bring.raw(b"["), bring.raw(b""), bring.raw(b"7"), bring.bring({"status": "delivered"}),
               bring.bring([{"status": "delivered", "id": "x" * 129}])]
    assert refused(stack, a, "unreadable") == before + len(nothing)
    nothing += [bring.bring({"status": "buffered"}), bring.bring([])]
    assert [(r.status_code, r.json()["status"]) for r in nothing] == [(200, "counted")] * len(nothing)
    beside = bring.bring([{"status": "delivered"}, {"status": "delivered", "reference": f"{message}-0.00"}, 7,
                          {"status": "delivered", "reference": reference(a.name, message, 1)}])
    assert (beside.status_code, beside.json()["status"]) == (200, "stored")
    assert refused(stack, a, "unreadable") == before + 7 and refused(stack, a, "forged") == forged + 1
    assert [state(stack, message, i)[1] for i in (0, 1)] == ["waiting", "delivered"]
    assert "receipt.unreadable" in stack.log_text("api-1")
    document = Document()
    for response in (*nothing, beside):
        document.check("POST", PATH, response)
    settled(stack)


def test_words_that_are_no_text_keep_no_receipt_back(refunding, lasting):
    stack, a = refunding, lasting[0]
    customer, message = sent(stack, 2)
    bring = bringer(stack, a)
    for position, words in enumerate((b'"\\u0000"', b'"f\xfcr"')):
        body = b'{"status":"delivered","reference":"%s","text":%s}' % (
            reference(a.name, message, position).encode(), words)
        assert bring.raw(body).json() == {"status": "stored"}
    rows = sorted(stack.api().history(user_id=customer), key=lambda row: row["position"])
    assert [row["delivery"] for row in rows] == ["delivered"] * 2
    assert [row["delivery_report"]["words"] for row in rows] == ["", "f?r"]
    settled(stack)


def test_a_receipt_that_comes_first_is_applied_when_its_message_is_settled(refunding, lasting):
    stack, a = refunding, lasting[0]
    a.on_post(delay=2)
    try:
        customer, message = send(stack)
        wait_until(lambda: state(stack, message)[0] == "sending", 30, "it is being sent")
        bring = bringer(stack, a)
        bring.tell("delivered", message)
        assert state(stack, message) == ("sending", "none")
        wait_until(lambda: state(stack, message) == ("done", "delivered"), 30, "it is applied")
    finally:
        a.heal()
    wait_until(lambda: not stack.db.value("SELECT COUNT(*) FROM receipts_early"), 10, "none is left")
    settled(stack)


def test_a_receipt_for_nothing_waits_and_goes(refunding, lasting):
    stack, a = refunding, lasting[0]
    bringer(stack, a).tell_of("delivered", "never sent")
    assert stack.db.value("SELECT COUNT(*) FROM receipts_early WHERE match_id='never sent'") == 1
    before = Metrics.of(stack.url("api-1")).sum("msg_receipts_unmatched_total")
    stack.db.execute("UPDATE receipts_early SET received_at=NOW(6)-INTERVAL 73 HOUR,look_at=NOW(6)")
    wait_until(lambda: not stack.db.value("SELECT COUNT(*) FROM receipts_early"), 30, "it is given up")
    assert Metrics.of(stack.url("api-1")).sum("msg_receipts_unmatched_total") == before + 1


def test_a_recipient_that_nobody_tells_of_is_unreported_until_somebody_does(refunding, lasting):
    stack, a = refunding, lasting[0]
    customer, message = sent(stack, 2)
    theirs = f"status_id IN (SELECT id FROM message_status WHERE message_identifier='{message}')"
    assert state(stack, message) == ("done", "waiting")
    stack.db.execute(f"UPDATE deliveries SET look_at=NOW(6) WHERE {theirs}")
    wait_until(lambda: state(stack, message, 1) == ("done", "unreported"), 30, "it is unreported")
    bringer(stack, a).tell("delivered", message)
    assert state(stack, message) == ("done", "delivered")
    assert money(stack, customer) == (98, 0)
    settled(stack)
    stack.db.execute("UPDATE message_status SET created_at=NOW(6)-INTERVAL 100 DAY WHERE message_identifier=%s",
                     message)
    stack.db.execute(f"UPDATE deliveries SET look_at=NOW(6) WHERE {theirs}")
    wait_until(lambda: not stack.db.value(f"SELECT COUNT(*) FROM deliveries WHERE {theirs}"), 30, "what is old goes")
    assert state(stack, message) == ("done", "delivered")


def test_each_operator_that_may_have_it_has_to_say_so(refunding, lasting):
    stack, (a, b) = refunding, lasting
    a.on_post(hangs=True)
    a.on_lookup(status=503)
    try:
        customer, message = sent(stack, 2)
    finally:
        a.heal()
    assert stack.db.value("SELECT COUNT(*) FROM message_status WHERE message_identifier=%s AND "
                          "provider='operatorB' AND unknown_operators='operatorA'", message) == 2
    of_a, of_b = bringer(stack, a), bringer(stack, b)
    of_b.tell("undelivered", message, 0)
    of_b.tell("undelivered", message, 1)
    assert [state(stack, message, i)[1] for i in (0, 1)] == ["waiting"] * 2
    assert money(stack, customer) == (98, 0)
    of_a.tell("undelivered", message, 0)
    of_a.tell("delivered", message, 1)
    assert [state(stack, message, i)[1] for i in (0, 1)] == ["undelivered", "delivered"]
    assert money(stack, customer) == (99, 1)
    settled(stack)


def test_delivered_after_it_has_failed_moves_no_money(refunding, lasting):
    stack, (a, b) = refunding, lasting
    for carrier in lasting:
        carrier.on_post(hangs=True)
        carrier.on_lookup(status=503)
    try:
        customer, message = sent(stack)
    finally:
        a.heal()
        b.heal()
    assert state(stack, message) == ("failed", "none") and money(stack, customer) == (100, 1)
    before = results(stack, b)["late"]
    bringer(stack, a).tell("undelivered", message)
    bringer(stack, b).tell("delivered", message)
    assert state(stack, message) == ("failed", "none") and money(stack, customer) == (100, 1)
    assert results(stack, b)["late"] == before + 1
    assert any(message in example for example in doubts(stack)["delivered_and_refunded"])
    quiesce(stack)


def test_a_receipt_proves_who_has_what_was_put_off(world, others, tmp_path):
    """Nobody took it in this round, one operator may have it, and the next round is far away."""
    stack, (a, b) = make(world, others, tmp_path, DELIVERY_RETRY_BASE_MS=60000, DELIVERY_RETRY_MAX_MS=60000,
                         DELIVERY_RETRY_WINDOW_SEC=600), others
    a.on_post(hangs=True)
    a.on_lookup(status=503)
    b.on_post(status=503, takes=False)
    try:
        customer, message = send(stack, 2)
        wait_until(lambda: stack.db.value("SELECT COUNT(*) FROM message_status WHERE status='pending' AND "
                                          "unknown_operators='operatorA'") == 2, 30, "both are put off")
    finally:
        a.heal()
        b.heal()
    before = len(a.sms())
    bring = bringer(stack, a)
    bring.tell("delivered", message, 0, id="a-1")
    bring.tell("undelivered", message, 1, id="a-2")
    assert [state(stack, message, i) for i in (0, 1)] == [("done", "delivered"), ("done", "undelivered")]
    assert stack.db.rows("SELECT provider,provider_message_id,unknown_operators FROM message_status ORDER BY position") \
        == (("operatorA", "a-1", ""), ("operatorA", "a-2", ""))
    assert money(stack, customer) == (98, 0)  # REFUND_UNDELIVERED is off
    stack.db.execute("UPDATE outbox_events SET next_run_at=NOW(6)")
    quiesce(stack)
    assert len(a.sms()) == before, "nothing is sent again"
    doubts(stack)


@pytest.mark.parametrize("ids,make_id,told_as", [
    ("text", lambda n: f"Ab-{n}", lambda n: f"Ab-{n}"),
    ("hexadecimal decimal", lambda n: f"{4095 + n:X}", lambda n: str(4095 + n)),
    ("decimal hexadecimal", lambda n: str(4095 + n), lambda n: f"{4095 + n:08x}"),
    ("decimal decimal", lambda n: f"{n:012d}", str),
])
def test_identifiers_in_every_form(module_world, others, tmp_path, ids, make_id, told_as):
    forms = dict(zip(("receipt.answer_id_form", "receipt.id_form"), (ids.split() * 2)[:2]))
    a = others[0]
    stack = id_stack(module_world, others, tmp_path)
    a.make_id = make_id
    stack.file.write_text("".join(section(c.name, c.url, *(f"{k} = {v}" for k, v in forms.items())) for c in others))
    try:
        for name in ("api-1", "consumerd-1"):
            stack.restart(name)
        _, message = sent(stack, 5)
    finally:
        a.make_id = lambda n: f"{a.name}-{n}"
    given = dict(stack.db.rows("SELECT position,provider_message_id FROM message_status WHERE message_identifier=%s",
                               message))
    numbers = {make_id(n): told_as(n) for n in range(2000)}
    bring = bringer(stack, a)
    for position, id in given.items():
        bring.tell_of("delivered" if position else "undelivered", numbers[id])
    assert [state(stack, message, i)[1] for i in range(5)] == ["undelivered"] + ["delivered"] * 4


_id_stacks = {}


def id_stack(module_world, others, folder):
    """One for all forms: their daemons are restarted instead."""
    if module_world not in _id_stacks:
        stack = make(module_world, others, folder)
        stack.file = folder / "operators.ini"
        _id_stacks[module_world] = stack
    return _id_stacks[module_world]


def test_a_gateways_query_with_a_text_in_ucs2(module_world, others, tmp_path):
    stack, a = id_stack(module_world, others, tmp_path), others[0]
    file = "".join(section(c.name, c.url) for c in others)
    stack.file.write_text(file.replace("receipt.format = json", "receipt.format = query"))
    stack.restart("api-1")
    try:
        customer, message = sent(stack)
        bring = bringer(stack, a)
        words = "".join(f"%{byte:02X}" for byte in "stat:EXPIRED".encode("utf-16-be"))
        response = bring.session.get(
            f"{bring.url}?ref={reference(a.name, message, 0)}&status=undelivered&code=27&text={words}&none=%00&twice=1&twice=2",
            headers={"X-Signature": bring.signature(b"")})
        assert (response.status_code, response.json()) == (200, {"status": "stored"})
        row, = stack.api().history(user_id=customer)
        assert (row["delivery"], row["delivery_report"]["words"]) == ("undelivered", "stat:EXPIRED")
    finally:
        stack.file.write_text(file)
        stack.restart("api-1")


def test_a_person_has_the_files_read_again(module_world, others, tmp_path):
    stack, a = id_stack(module_world, others, tmp_path), others[0]
    _, message = sent(stack)
    bring = bringer(stack, a)
    bring.tell("gone", message)
    assert state(stack, message)[1] == "waiting"
    stack.file.write_text(stack.file.read_text().replace("== undelivered", "== gone"))
    os.kill(stack.pid("api-1"), signal.SIGHUP)
    wait_until(lambda: "operators.reloaded" in stack.log_text("api-1"), 10, "it is read")
    bring.tell("gone", message)
    assert state(stack, message)[1] == "undelivered"
    stack.file.write_text(stack.file.read_text().replace("receipt.format = json", "receipt.format = xml"))
    os.kill(stack.pid("api-1"), signal.SIGHUP)
    wait_until(lambda: "receipt.format must be json" in stack.log_text("api-1"), 10, "the fault is told")
    bring.tell("gone", message)
    stack.file.write_text(stack.file.read_text().replace("receipt.format = xml", "receipt.format = json"))


def test_receipts_have_a_listener_of_their_own(world, others, tmp_path):
    a = others[0]
    port = free_port()
    stack = make(world, others, tmp_path, RECEIPTS_LISTEN_ADDR=f"127.0.0.1:{port}")
    _, message = sent(stack)
    assert bringer(stack, a).bring({}).status_code == 404
    bring = Bringer(f"http://127.0.0.1:{port}", a.name)
    assert bring.session.get(f"http://127.0.0.1:{port}/messages/history").status_code == 404
    bring.tell("delivered", message)
    assert state(stack, message) == ("done", "delivered")
    assert bring.raw(b" " * (256 * 1024 + 1)).status_code == 413


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_too_many_that_match_nothing_are_refused(module_world, others, tmp_path):
    stack, a = id_stack(module_world, others, tmp_path), others[0]
    stack.restart("api-1", RECEIPT_EARLY_MAX=1000, RECEIPT_QUEUE_MAX=500)
    _, message = sent(stack)
    bring = bringer(stack, a)
    for k in range(2):
        response = bring.bring([{"status": "delivered", "id": f"strange-{k}-{i}"} for i in range(500)])
        assert response.status_code == 200, response.text
    wait_until(lambda: bring.bring({"status": "delivered", "id": "one more"}).status_code == 503, 30, "it is full")
    response = bring.bring({"status": "delivered", "id": "another"})
    Document().check("POST", PATH, response)
    assert response.status_code == 503 and response.headers["Retry-After"]
    bring.tell("delivered", message)  # what matches is taken
    assert refused(stack, a, "overloaded") >= 2
    assert "receipts.early_full" in stack.log_text("api-1")
    stack.db.execute("DELETE FROM receipts_early")


def test_receipts_and_settles_race(refunding, lasting):
    """Receipts while their messages are sent, in any order and twice: each recipient comes out right, and the
    running audit finds nothing."""
    stack, a = refunding, lasting[0]
    api, customer = stack.api(), stack.api().funded(10_000)
    stop, answers, first = threading.Event(), [], {sms.reference for sms in a.sms()}
    random_ = random.Random(7)

    def tell_all():
        of_a, told = bringer(stack, a), set()
        while not stop.is_set() or len(told | first) < len(a.sms()):
            fresh = [sms for sms in a.sms() if sms.reference not in told | first]
            receipts = []
            for sms in fresh:
                told.add(sms.reference)
                message, position = sms.reference.rsplit("-", 1)
                status = "undelivered" if int(position) % 3 == 0 else "delivered"
                receipts += [{"status": status, "reference": reference(a.name, message, position)}] * 2
            random_.shuffle(receipts)
            for at in range(0, len(receipts), 50):
                answers.append(of_a.bring(receipts[at:at + 50]).status_code)

    tellers = [threading.Thread(target=tell_all) for _ in range(2)]
    for teller in tellers:
        teller.start()
    for _ in range(40):
        api.sent(customer, [recipient(i) for i in range(6)])
    quiesce(stack)
    stop.set()
    for teller in tellers:
        teller.join()
    assert set(answers) == {200}
    ours = [sms.reference for sms in a.sms() if sms.reference not in first]
    assert len(ours) == 240

    def delivered():
        return stack.db.value("SELECT COUNT(*) FROM message_status WHERE user_id=%s AND delivery=IF(position%%3=0,3,2) "
                              "AND delivery_refunded=(position%%3=0)", customer) == 240
    wait_until(delivered, 30, "each is what was told of it")
    assert money(stack, customer) == (10_000 - 240 + 80, 80)
    settled(stack)
    doubts(stack)
    assert Metrics.of(stack.url("api-1")).value("msg_ledger_mismatch") == 0


DAMAGE = {
    # what is done to the recipient of that number: what the audit says
    0: ("UPDATE message_status SET delivery=2", "delivered, and no operator says so"),
    1: ("UPDATE message_status SET delivery=3", "undelivered, and its operator has not said so"),
    2: ("UPDATE deliveries SET state=2", "an operator says delivered"),
    3: ("UPDATE message_status SET delivery=9", "unknown delivery"),
    4: ("UPDATE deliveries SET looked=1", "waits for a receipt, and nobody is asked"),
    5: ("UPDATE message_status SET delivery_refunded=1", "refunded as undelivered, and is not"),
    6: ("UPDATE message_status SET status='pending'", "has a delivery, and is not done"),
    7: ("UPDATE deliveries SET state=7", "unknown state"),
    8: ("UPDATE deliveries SET status_id=status_id+1000000", "there is no such recipient"),
    9: ("UPDATE message_status SET unknown_operators='operatorB'", "an operator that may have it has not said so"),
}


def test_the_audit_names_damage_of_each_kind(world, others, tmp_path):
    stack, a = id_stack(world, others, tmp_path), others[0]
    stack.restart("api-1", REFUND_UNDELIVERED="on")
    _, message = sent(stack, len(DAMAGE) + 1)
    bring = bringer(stack, a)
    bring.tell("undelivered", message, 9)
    bring.tell("undelivered", message, 10)
    stack.db.execute(f"INSERT INTO deliveries(status_id,operator,state,look_at) SELECT id,'operatorB',1,NOW(6)+INTERVAL "
                     f"9 DAY FROM message_status WHERE message_identifier='{message}' AND position=9")
    ids = dict(stack.db.rows("SELECT position,id FROM message_status WHERE message_identifier=%s", message))
    for position, (sql, _) in DAMAGE.items():
        column = "id" if "message_status" in sql else "status_id"
        stack.db.execute(f"{sql} WHERE {column}={ids[position]}")
    stack.db.execute(f"DELETE FROM user_transactions WHERE transaction_id='r-{message}-10'")
    done = subprocess.run([binary("api"), "audit", "--json"], capture_output=True, text=True, timeout=120,
                          env={**os.environ, **stack.values})
    assert done.returncode == 1, done.stderr
    found = [example for check in json.loads(done.stdout)["checks"] for example in check["examples"]]
    for position, (_, words) in DAMAGE.items():
        where = f"{message}-{position}:" if position not in (7, 8) else "row of recipient "
        assert [e for e in found if e.startswith(where) and words in e], (position, found)
    assert f"{message}-10: undelivered, and said to be refunded, without a refund" in found


def test_what_dashboards_and_rules_ask_for_is_there(refunding):
    text = "".join(path.read_text() for path in (REPOSITORY / "grafana").rglob("*.*") if path.suffix in (".json", ".yml")
                   and not path.stem.endswith("_test"))
    asked = set(re.findall(r"msg_(?:receipts?|recipients_unreported)_\w+", text))
    names = Metrics.of(refunding.url("api-1")).names()
    assert len(asked) > 5 and asked <= names
