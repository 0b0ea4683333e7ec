"""Outcomes that nobody knows: what is held under OPERATOR_UNKNOWN_POLICY=hold, by whom it is decided, and
what becomes of operators that are renamed, that know a message late, or deliver it twice.
"""

import json
import os
import subprocess

import pytest
from harness.audit import audit, quiesce
from harness.carrier import Carrier
from harness.client import recipient
from harness.metrics import Metrics
from harness.stack import binary
from harness.wait import wait_until

QUICK = {"OPERATOR_TIMEOUT_MS": 300, "OPERATOR_LOOKUP_TRIES": 1, "DELIVERY_RETRY_WINDOW_SEC": 1,
         "DELIVERY_RETRY_BASE_MS": 100, "HELD_ASK_MAX_SEC": 1, "OUTBOX_FULL_LOOK_MS": 200,
         "BREAKER_FAILURES": 1000, "BREAKER_FAILURE_PCT": 101, "BREAKER_SLOW_PCT": 101}
HOLD = {**QUICK, "OPERATOR_UNKNOWN_POLICY": "hold"}
PATIENT = {**HOLD, "HELD_ASK_MAX_SEC": 600, "DELIVERY_RETRY_BASE_MS": 60000, "DELIVERY_RETRY_MAX_MS": 60000,
           "DELIVERY_RETRY_WINDOW_SEC": 0}


@pytest.fixture
def a():
    with Carrier("operatorA") as carrier:
        yield carrier


@pytest.fixture
def b():
    with Carrier("operatorB") as carrier:
        yield carrier


def loses_answers(carrier):
    """It takes everything, says nothing, and cannot be asked."""
    carrier.on_post(hangs=True)
    carrier.on_lookup(status=503)


def consumer(stack):
    return Metrics.of(stack.url("consumerd-1"))


def questions(stack):
    return stack.db.value("SELECT COUNT(*) FROM outbox_events WHERE kind=2")


def sent_and_held(stack, count):
    """(customer, identifier) of a message whose recipients are all held."""
    api = stack.api()
    customer = api.funded(100)
    identifier = api.sent(customer, [recipient(i) for i in range(count)])["message_identifier"]
    wait_until(lambda: consumer(stack).sum("msg_holds_total") >= count and questions(stack) == 1, 30,
               "all are held")
    return customer, identifier


def held(stack, *words, code=0):
    done = subprocess.run([binary("consumerd"), "held", *words], capture_output=True, text=True, timeout=60,
                          env={**os.environ, **stack.values, "OPERATORS": stack.settings["OPERATORS"]})
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout + done.stderr


def rows(stack, *columns):
    return list(stack.db.rows(f"SELECT {','.join(columns)} FROM message_status ORDER BY position"))


def assert_clean(stack):
    quiesce(stack)
    assert audit(stack) == []


def test_what_is_held_is_asked_about_until_it_is_found(world, a, b):
    stack = world(carriers=[a, b], REPAIR_AFTER_SEC=1, REPAIR_INTERVAL_MS=100, **HOLD)
    loses_answers(a)
    customer, identifier = sent_and_held(stack, 10)
    posts = len(a.posts())
    lookups = len(a.lookups())
    wait_until(lambda: len(a.lookups()) >= lookups + 30, 30, "A is asked again and again")
    assert len(a.posts()) == posts and b.calls() == []
    assert set(rows(stack, "unknown_operators")) == {("operatorA",)}
    assert stack.api().balance(customer) == 90
    wait_until(lambda: consumer(stack).value("msg_held_recipients") == 10, 30, "they are counted")
    assert Metrics.of(stack.url("outboxd-1")).sum("msg_outbox_pending") == 0
    assert stack.db.value("SELECT repairs FROM messages") == 0
    a.heal()
    assert set(stack.api().wait_final(customer, identifier).values()) == {"done"}
    assert a.sms_by_recipient() == {recipient(i): 1 for i in range(10)} and b.calls() == []
    assert_clean(stack)


def test_what_nobody_has_is_failed_after_an_answer(world, a, b):
    stack = world(carriers=[a, b], **HOLD)
    a.on_post(hangs=True, takes=False)
    a.on_lookup(status=503)
    customer, identifier = sent_and_held(stack, 3)
    a.heal()
    assert set(stack.api().wait_final(customer, identifier).values()) == {"failed"}
    assert stack.api().balance(customer) == 100
    assert a.sms() == b.sms() == []
    assert_clean(stack)


def test_a_question_that_was_parked_is_asked_again(world, a, b):
    """It is looked for among what is due, so it must have a time."""
    stack = world(carriers=[a, b], **PATIENT)
    loses_answers(a)
    customer, identifier = sent_and_held(stack, 2)
    stack.db.execute("INSERT INTO outbox_parked(id,kind,aggregate_type,aggregate_id,event_type,payload,priority,"
                     "attempts,last_error,created_at) SELECT id,kind,aggregate_type,aggregate_id,event_type,payload,"
                     "priority,10,'unroutable',created_at FROM outbox_events WHERE kind=2")
    stack.db.execute("DELETE FROM outbox_events WHERE kind=2")
    a.heal()
    subprocess.run([binary("outboxd"), "parked", "requeue", "--all"], check=True, timeout=60,
                   env={**os.environ, **stack.values})
    assert set(stack.api().wait_final(customer, identifier).values()) == {"done"}
    assert a.sms_by_recipient() == {recipient(i): 1 for i in range(2)} and b.calls() == []
    assert_clean(stack)


def test_a_question_that_is_lost_comes_back(world, a, b):
    stack = world(carriers=[a, b], REPAIR_AFTER_SEC=1, REPAIR_INTERVAL_MS=100, **HOLD)
    loses_answers(a)
    customer, identifier = sent_and_held(stack, 2)
    stack.stop("consumerd-1")
    wait_until(lambda: questions(stack) == 0, 30, "the question is in the queue")
    connection = stack.broker.connect()
    connection.channel().queue_purge(stack.broker.normal)
    connection.close()
    a.heal()
    stack.start("consumerd-1")
    assert set(stack.api().wait_final(customer, identifier).values()) == {"done"}
    assert a.sms_by_recipient() == {recipient(i): 1 for i in range(2)} and b.calls() == []
    assert_clean(stack)


def test_a_person_decides(world, a, b):
    stack = world(carriers=[a, b], REPAIR_AFTER_SEC=0, **PATIENT)
    loses_answers(a)
    customer, identifier = sent_and_held(stack, 4)
    listed = held(stack, "list")
    assert [line.split("\t")[:2] for line in listed.splitlines()] == [[identifier, str(i)] for i in range(4)]
    assert all("operatorA" in line and "since 20" in line for line in listed.splitlines())
    assert not any(recipient(i) in listed for i in range(4))

    assert "none of those" in held(stack, "done", identifier, "--operator", "operatorB", code=1)
    assert "no such" in held(stack, "done", identifier, "7", "--operator", "operatorA", code=1)
    assert "no such" in held(stack, "fail", "no-such-message", code=1)
    held(stack, "done", identifier, "1", "--operator", "operatorA", "--dry-run")
    held(stack, "fail", "--all", "--dry-run")
    assert set(rows(stack, "status")) == {("pending",)} and questions(stack) == 1

    held(stack, "done", identifier, "1", "3", "--operator", "operatorA")
    assert rows(stack, "status", "provider", "unknown_operators") == [
        ("pending", "", "operatorA"), ("done", "operatorA", ""), ("pending", "", "operatorA"),
        ("done", "operatorA", "")]
    assert questions(stack) == 1 and stack.api().balance(customer) == 96
    held(stack, "fail", identifier, "0")
    assert stack.api().balance(customer) == 97
    held(stack, "fail", "--all")
    assert rows(stack, "status", "unknown_operators") == [
        ("failed", "operatorA"), ("done", ""), ("failed", "operatorA"), ("done", "")]
    assert questions(stack) == 0 and stack.api().balance(customer) == 98
    assert held(stack, "list") == ""
    assert "no such" in held(stack, "fail", identifier, code=1)
    log = stack.log_text("consumerd-1")
    assert log.count('"event":"delivery.held"') == 1, "one line a message"


def test_what_a_consumer_has_in_hand_is_not_decided(world, a, b):
    stack = world(carriers=[a, b], REPAIR_AFTER_SEC=0, **PATIENT)
    loses_answers(a)
    _, identifier = sent_and_held(stack, 1)
    stack.db.execute("UPDATE message_status SET status='sending', owner=(SELECT MAX(id) FROM workers)")
    assert "in hand" in held(stack, "fail", identifier, code=1)
    assert "in hand" in held(stack, "done", identifier, "--operator", "operatorA", code=1)


# -- operators that are gone ------------------------------------------------------------------------


def renamed(a, b):
    return f"new={a.url},operatorB={b.url}"


@pytest.mark.parametrize("policy", ["hold", "failover"])
def test_a_name_that_is_gone_is_kept(world, a, b, policy):
    """Five recipients that A may have, and A is called otherwise from now on."""
    stack = world(carriers=[a, b], **{**HOLD, "DELIVERY_RETRY_WINDOW_SEC": 3600})
    loses_answers(a)
    api = stack.api()
    customer = api.funded(100)
    identifier = api.sent(customer, [recipient(i) for i in range(5)])["message_identifier"]
    wait_until(lambda: rows(stack, "status", "unknown_operators") == [("pending", "operatorA")] * 5, 30,
               "put off")
    stack.stop("consumerd-1")
    settings = {**HOLD, "DELIVERY_RETRY_WINDOW_SEC": 0 if policy == "hold" else 3600,
                "OPERATOR_UNKNOWN_POLICY": policy, "OPERATORS": renamed(a, b)}
    check = subprocess.run([binary("consumerd"), "--check"], capture_output=True, text=True, timeout=60,
                           env={**os.environ, **stack.values, **{k: str(v) for k, v in settings.items()}})
    assert check.returncode == 0
    if "warning" in check.stdout:  # unless the messages are in the queue by now
        assert "5 recipients" in check.stdout and check.stdout.rstrip().endswith("operatorA")
    a.heal()
    stack.start("consumerd-1", **settings)
    if policy == "failover":
        assert set(api.wait_final(customer, identifier).values()) == {"done"}
        assert set(rows(stack, "unknown_operators")) == {("operatorA",)}
    else:
        wait_until(lambda: consumer(stack).sum("msg_holds_total") >= 10, 30, "held")
        assert set(rows(stack, "status", "unknown_operators")) <= {("pending", "operatorA"),
                                                                    ("sending", "operatorA")}
        wait_until(lambda: consumer(stack).value("msg_gone_operator_recipients") == 5, 30, "counted")
        wait_until(lambda: '"event":"held.operators_gone"' in stack.log_text("consumerd-1"), 30, "said")
        assert b.calls() == [] and len(a.sms()) == 5
        stack.restart("consumerd-1", OPERATORS=stack.settings["OPERATORS"])
        assert set(api.wait_final(customer, identifier).values()) == {"done"}
        assert b.calls() == [] and len(a.sms()) == 5
        assert_clean(stack)
    lines = [json.loads(line) for line in stack.log_text("consumerd-1").splitlines()
             if '"event":"delivery.operator_gone"' in line]
    assert lines and all(line["operators"] == "operatorA" for line in lines)


def test_check_warns_of_operators_that_are_gone(world, a, b):
    stack = world(carriers=[a, b], REPAIR_AFTER_SEC=0, **PATIENT)
    loses_answers(a)
    sent_and_held(stack, 3)

    def check(operators):
        done = subprocess.run([binary("consumerd"), "--check"], capture_output=True, text=True, timeout=60,
                              env={**os.environ, **stack.values, "OPERATORS": operators})
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert check(stack.settings["OPERATORS"]) == "settings ok\n"
    assert check(f"operatorB={b.url}") == ("settings ok\nwarning: 3 recipients wait for operators that are"
                                           " not in OPERATORS: operatorA\n")


def test_a_name_that_does_not_fit_is_not_forgotten(world, a, b):
    """The column is full of names that nobody has: B is not used, and one more is there as a sign."""
    stack = world(carriers=[a, b], **HOLD)
    loses_answers(a)
    sent_and_held(stack, 1)
    stack.stop("consumerd-1")
    wait_until(lambda: questions(stack) == 0, 30, "the question is in the queue")
    stack.db.execute("UPDATE message_status SET unknown_operators=%s",
                     ",".join(c * 30 for c in "abcdefg") + ",operatorA," + "h" * 27)
    stack.start("consumerd-1")
    holds = consumer(stack).sum("msg_holds_total")
    wait_until(lambda: consumer(stack).sum("msg_holds_total") > holds and questions(stack) == 1, 30, "held")
    names = rows(stack, "unknown_operators")[0][0].split(",")
    assert names[0] == "operatorA" and names[-1] == "?" and "g" * 30 in names
    assert b.calls() == []


# -- marks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["hold", "failover"])
def test_a_mark_means_any_of_them(world, a, b, policy):
    """Three recipients: A has one, B has one, and nobody has the third. Who is found is not doubted: B is
    not asked about the first."""
    stack = world(carriers=[a, b], **{**QUICK, "OPERATOR_UNKNOWN_POLICY": policy})
    stack.stop("consumerd-1")
    api = stack.api()
    customer = api.funded(100)
    identifier = api.sent(customer, [recipient(i) for i in range(3)])["message_identifier"]
    wait_until(lambda: stack.broker.ready(stack.broker.normal) == 1, 30, "it waits")
    stack.db.execute("UPDATE message_status SET unknown_operators='*'")
    for carrier, position in ((a, 0), (b, 1)):
        with carrier._lock:
            carrier._take({"reference": f"{identifier}-{position}", "to": recipient(position)})
    stack.start("consumerd-1")
    assert set(api.wait_final(customer, identifier).values()) == {"done"}
    assert rows(stack, "provider", "unknown_operators") == [
        ("operatorA", "operatorB"), ("operatorB", ""), ("operatorA", "")]
    assert a.sms_by_recipient() == {recipient(0): 1, recipient(2): 1}
    assert b.sms_by_recipient() == {recipient(1): 1}
    assert {c.reference for c in a.posts() + b.posts()} == {f"{identifier}-2"}
    assert_clean(stack)


def test_a_mark_is_held_while_one_cannot_be_asked(world, a, b):
    stack = world(carriers=[a, b], **HOLD)
    stack.stop("consumerd-1")
    api = stack.api()
    customer = api.funded(100)
    identifier = api.sent(customer, [recipient()])["message_identifier"]
    stack.db.execute("UPDATE message_status SET unknown_operators='*'")
    b.on_lookup(status=503)
    b.on_post(status=503, takes=False)
    stack.start("consumerd-1")
    wait_until(lambda: consumer(stack).sum("msg_holds_total") >= 1, 30, "held")
    assert rows(stack, "unknown_operators") == [("operatorB",)]
    assert a.posts() == [] and a.sms() == b.sms() == []
    b.heal()
    api.wait_final(customer, identifier)
    assert_clean(stack)


# -- operators that know late, or deliver twice -----------------------------------------------------


@pytest.mark.parametrize("policy", ["hold", "failover"])
def test_not_found_may_be_not_yet(world, a, b, policy):
    """A takes it, loses the answer, and its lookup knows it only after two seconds."""
    stack = world(carriers=[a, b], **{**QUICK, "OPERATOR_UNKNOWN_POLICY": policy,
                                      "DELIVERY_RETRY_WINDOW_SEC": 60, "OPERATOR_LOOKUP_SETTLES_MS": 2500})
    a.knows_after = 2
    a.knows_references = False
    a.on_post(cut="answer")
    api = stack.api()
    customer = api.funded(100)
    identifier = api.sent(customer, [recipient(i) for i in range(10)])["message_identifier"]
    assert set(api.wait_final(customer, identifier).values()) == {"done"}
    assert a.sms_by_recipient() == {recipient(i): 1 for i in range(10)} and b.calls() == []
    assert_clean(stack)


def test_a_long_wait_is_spent_in_the_outbox(world, a, b):
    stack = world(carriers=[a, b], **{**QUICK, "DELIVERY_RETRY_WINDOW_SEC": 60,
                                      "OPERATOR_LOOKUP_SETTLES_MS": 5000})
    a.knows_after = 4
    a.knows_references = False
    a.on_post(cut="answer")
    api = stack.api()
    customer = api.funded(100)
    identifier = api.sent(customer, [recipient(i) for i in range(3)])["message_identifier"]
    wait_until(lambda: rows(stack, "status", "unknown_operators") == [("pending", "operatorA")] * 3, 3,
               "put off")
    assert set(api.wait_final(customer, identifier).values()) == {"done"}
    assert a.sms_by_recipient() == {recipient(i): 1 for i in range(3)} and b.calls() == []
    assert_clean(stack)


@pytest.mark.parametrize("policy", ["hold", "failover"])
def test_who_delivers_twice_gets_it_once(world, a, b, policy):
    """Each POST is a new SMS at A, whose answers are lost, and whose lookup knows nothing."""
    stack = world(carriers=[a, b], **{**QUICK, "OPERATOR_UNKNOWN_POLICY": policy,
                                      "DELIVERY_RETRY_WINDOW_SEC": 2, "OPERATORS_REPEAT_UNSAFE": "operatorA",
                                      "OPERATORS_WITHOUT_LOOKUP": "operatorA"})
    a.knows_references = False
    a.on_post(cut="answer")
    api = stack.api()
    customer = api.funded(100)
    identifier = api.sent(customer, [recipient(i) for i in range(5)])["message_identifier"]
    if policy == "failover":
        assert set(api.wait_final(customer, identifier).values()) == {"done"}
        assert b.sms_by_recipient() == {recipient(i): 1 for i in range(5)}
    else:
        wait_until(lambda: consumer(stack).sum("msg_holds_total") >= 10, 30, "held, and again")
        assert b.calls() == []
    assert a.sms_by_recipient() == {recipient(i): 1 for i in range(5)} and a.lookups() == []
    assert set(rows(stack, "unknown_operators")) == {("operatorA",)}


# -- what the history says --------------------------------------------------------------------------


def test_the_error_is_that_of_the_call_in_doubt(world, a, b):
    stack = world(carriers=[a, b], REPAIR_AFTER_SEC=0, **HOLD)
    a.on_post(hangs=True)
    a.on_lookup(status=500)
    sent_and_held(stack, 1)
    lookups = len(a.lookups())
    wait_until(lambda: len(a.lookups()) >= lookups + 2, 30, "asked again")
    error = rows(stack, "last_error")[0][0]
    assert error.startswith("operatorA: ") and "500" not in error and "time" in error.lower(), error
    assert rows(stack, "provider_message_id") == [("",)]
