"""From the outbox to an operator: failover, breaker, refunds, repeats and poison."""

import json
import time

import pytest
from harness.audit import accepted_by_both, audit, quiesce
from harness.client import recipient
from harness.metrics import Metrics
from harness.wait import wait_until

REJECTED = "0999"


@pytest.fixture
def stack(world):
    return world(DELIVERY_RETRY_WINDOW_SEC=3)


def consumer(stack, index=1):
    return Metrics.of(stack.url(f"consumerd-{index}"))


def breaker(stack, operator):
    """The state the breaker is in: closed, open or half_open."""
    on = [l["state"] for l, v in consumer(stack).series("msg_breaker_state", operator=operator)
          if v == 1]
    assert len(on) == 1, on
    return on[0]


def unfit(stack):
    """(operator, reason) of those that cannot serve us."""
    return {(l["operator"], l["reason"]) for l, v in consumer(stack).series("msg_operator_unfit") if v == 1}


def fitness_told(stack):
    """The log's lines about operators that can, or cannot, serve us."""
    lines = [json.loads(line) for line in stack.log_text("consumerd-1").splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] in ("operator.unfit", "operator.fit")]


def refunds(stack, customer):
    return sorted((t, amount) for kind, amount, t in stack.db.ledger(customer) if kind == "refund")


def assert_clean(stack, **expected):
    quiesce(stack)
    assert audit(stack, **expected) == []


def test_operator_a_down_goes_through_b_and_comes_back(stack):
    api = stack.api()
    customer = api.funded()
    assert breaker(stack, "operatorA") == "closed"
    stack.kill("operator-a")
    for _ in range(5):
        sent = api.sent(customer, [recipient(i) for i in range(3)])
        assert set(api.wait_final(customer, sent["message_identifier"]).values()) == {"done"}
    assert {row["provider"] for row in api.history(user_id=customer)} == {"operatorB"}
    wait_until(lambda: breaker(stack, "operatorA") == "open", 5, "A's breaker is open")
    assert breaker(stack, "operatorB") == "closed"
    assert stack.operator_b.counts()["accepted"] == 15

    stack.start("operator-a")
    states = {"open"}

    def closed():
        # Half-open only shows while probes run, so there has to be traffic.
        api.sent(customer)
        states.add(breaker(stack, "operatorA"))
        return states >= {"closed"}

    wait_until(closed, 20, lambda: f"A's breaker closes again, seen: {states}", pause=0.02)
    changes = consumer(stack).series("msg_breaker_transitions_total", operator="operatorA")
    assert {l["state"] for l, v in changes if v > 0} == {"open", "half_open", "closed"}, changes
    sent = api.sent(customer)
    api.wait_final(customer, sent["message_identifier"])
    row = api.history(user_id=customer, message_identifier=sent["message_identifier"])[0]
    assert row["provider"] == "operatorA"
    assert api.balance(customer) == 1000 - stack.db.value(
        "SELECT COUNT(*) FROM message_status WHERE user_id=%s", customer)


def test_open_breaker_spares_the_operator(stack):
    """While A is open, messages do not wait for its tries."""
    api = stack.api()
    customer = api.funded()
    stack.operator_a.faults(status=503, status_share=1)
    api.wait_final(customer, api.sent(customer, [recipient(i) for i in range(5)])
                   ["message_identifier"])
    wait_until(lambda: breaker(stack, "operatorA") == "open", 5, "A's breaker is open")
    calls = consumer(stack).sum("operator_calls_total", operator="operatorA")
    sent = api.sent(customer, [recipient(i) for i in range(20)])
    final = api.wait_final(customer, sent["message_identifier"], deadline=4)
    assert set(final.values()) == {"done"}
    more = consumer(stack).sum("operator_calls_total", operator="operatorA") - calls
    assert more <= 20, f"{more} calls for 20 recipients while the breaker was open"


def test_both_reject(stack):
    api = stack.api()
    customer = api.funded(100)
    for operator in stack.operators:
        operator.faults(reject_prefix=REJECTED)
    sent = api.sent(customer, [REJECTED + str(i) for i in range(4)], type="express")
    final = api.wait_final(customer, sent["message_identifier"])
    assert set(final.values()) == {"failed"} and len(final) == 4
    identifier = sent["message_identifier"]
    assert refunds(stack, customer) == [(f"r-{identifier}-{i}", 3) for i in range(4)]
    assert api.balance(customer) == 100
    # A final no says nothing about the operator's health.
    assert breaker(stack, "operatorA") == breaker(stack, "operatorB") == "closed"
    assert_clean(stack)


def test_mixed_result_refunds_only_the_failed(stack):
    api = stack.api()
    customer = api.funded(100)
    for operator in stack.operators:
        operator.faults(reject_prefix=REJECTED)
    numbers = [(REJECTED if i % 3 == 0 else "0912") + str(i) for i in range(10)]
    sent = api.sent(customer, numbers)
    final = api.wait_final(customer, sent["message_identifier"])
    assert final == {n: "failed" if n.startswith(REJECTED) else "done" for n in numbers}
    identifier = sent["message_identifier"]
    assert refunds(stack, customer) == [(f"r-{identifier}-{i}", 1) for i in (0, 3, 6, 9)]
    assert api.balance(customer) == 94
    assert_clean(stack)


def test_what_a_rejects_b_may_take(stack):
    api = stack.api()
    customer = api.funded()
    stack.operator_a.faults(reject_prefix=REJECTED)
    sent = api.sent(customer, [REJECTED + "1", "09121"])
    api.wait_final(customer, sent["message_identifier"])
    rows = api.history(user_id=customer)
    assert {r["recipient"]: (r["status"], r["provider"]) for r in rows} \
        == {REJECTED + "1": ("done", "operatorB"), "09121": ("done", "operatorA")}
    assert_clean(stack)


def test_what_a_cannot_serve_b_may_take(stack):
    """403 may be about us or about the message: one call, then B at once. Three messages in a row: about us."""
    api = stack.api()
    customer = api.funded()
    stack.operator_a.faults(status=403, status_share=1)
    identifier = api.sent(customer, ["0912"])["message_identifier"]
    assert set(api.wait_final(customer, identifier).values()) == {"done"}
    assert api.history(user_id=customer)[0]["provider"] == "operatorB"
    assert consumer(stack).sum("operator_calls_total", operator="operatorA") \
        == consumer(stack).value("operator_calls_total", operator="operatorA", result="unfit") == 1
    # Many recipients are one message yet.
    api.wait_final(customer, api.sent(customer, [recipient(i) for i in range(5)])["message_identifier"])
    assert breaker(stack, "operatorA") == "closed" and unfit(stack) == set()
    api.wait_final(customer, api.sent(customer, ["0913"])["message_identifier"])
    assert unfit(stack) == {("operatorA", "forbidden")}
    assert_clean(stack)


def test_bad_credentials_open_the_breaker_at_once(world):
    """One call tells; the other operator takes everything, and who mends it needs no restart."""
    stack = world(DELIVERY_RETRY_WINDOW_SEC=3, BREAKER_OPEN_MS=1000)
    api = stack.api()
    customer = api.funded()
    stack.operator_a.faults(status=401, status_share=1)
    api.wait_final(customer, api.sent(customer)["message_identifier"])
    assert consumer(stack).sum("operator_calls_total", operator="operatorA") == 1
    assert unfit(stack) == {("operatorA", "credentials")}
    assert [(line["level"], line["event"], line["operator"], line["reason"]) for line in fitness_told(stack)] \
        == [("error", "operator.unfit", "operatorA", "credentials")]
    # Half-open with nothing to try it; a probe opens it again and is told no second time.
    wait_until(lambda: breaker(stack, "operatorA") == "half_open", 10, "A is half-open without a message")
    api.wait_final(customer, api.sent(customer)["message_identifier"])
    assert consumer(stack).sum("operator_calls_total", operator="operatorA") == 2
    assert unfit(stack) == {("operatorA", "credentials")}
    stack.operator_a.heal()
    wait_until(lambda: breaker(stack, "operatorA") == "half_open", 10, "A is half-open again")
    for _ in range(2):
        api.wait_final(customer, api.sent(customer)["message_identifier"])
    assert breaker(stack, "operatorA") == "closed" and unfit(stack) == set()
    assert [line["event"] for line in fitness_told(stack)] == ["operator.unfit", "operator.fit"]
    assert {row["provider"] for row in api.history(user_id=customer)} == {"operatorA", "operatorB"}
    assert_clean(stack)


def test_both_unfit_wait_until_the_window_ends(stack):
    """No credit anywhere is no final no: what is sent waits for the window of 3 s, then it is refunded."""
    api = stack.api()
    customer = api.funded(10)
    for operator in stack.operators:
        operator.faults(status=402, status_share=1)
    began = time.monotonic()
    sent = api.sent(customer, ["0912", "0913"])
    assert set(api.wait_final(customer, sent["message_identifier"]).values()) == {"failed"}
    assert time.monotonic() - began >= 2.5
    assert len(refunds(stack, customer)) == 2 and api.balance(customer) == 10
    assert unfit(stack) == {("operatorA", "credit"), ("operatorB", "credit")}
    assert consumer(stack).value("msg_refunds_total", reason="expired") == 2
    assert_clean(stack)


def test_unfit_is_no_final_no(world):
    stack = world(DELIVERY_RETRY_WINDOW_SEC=60)
    api = stack.api()
    customer = api.funded(10)
    for operator in stack.operators:
        operator.faults(status=401, status_share=1)
    identifier = api.sent(customer, ["0912"])["message_identifier"]
    wait_until(lambda: consumer(stack).sum("msg_retries_total") > 0, 10, "it is put off")
    for operator in stack.operators:
        operator.heal()
    assert set(api.wait_final(customer, identifier, deadline=60).values()) == {"done"}
    assert api.balance(customer) == 9 and refunds(stack, customer) == []
    assert_clean(stack)


def test_both_broken_until_the_window_ends(stack):
    """503 from both is no final no: tried again until the window of 3 s ends, then refunded."""
    api = stack.api()
    customer = api.funded(10)
    for operator in stack.operators:
        operator.faults(status=503, status_share=1)
    began = time.monotonic()
    sent = api.sent(customer, ["0912", "0913"])
    assert set(api.wait_final(customer, sent["message_identifier"]).values()) == {"failed"}
    assert time.monotonic() - began >= 2.5
    assert len(refunds(stack, customer)) == 2 and api.balance(customer) == 10
    assert_clean(stack)


def test_both_broken_and_mended_in_time(world):
    stack = world(DELIVERY_RETRY_WINDOW_SEC=60)
    api = stack.api()
    customer = api.funded(10)
    for operator in stack.operators:
        operator.faults(status=503, status_share=1)
    identifier = api.sent(customer, ["0912", "0913"])["message_identifier"]
    # Retries wait in the outbox, not in memory.
    wait_until(lambda: stack.db.value("SELECT COUNT(*) FROM outbox_events WHERE aggregate_id=%s AND "
                                      "event_type LIKE 'message.retry.%%'", identifier), 20,
               "a retry is put off through the outbox")
    for operator in stack.operators:
        operator.heal()
    assert set(api.wait_final(customer, identifier, deadline=60).values()) == {"done"}
    assert api.balance(customer) == 8 and refunds(stack, customer) == []
    assert_clean(stack)


def test_window_of_zero_fails_at_once(world):
    stack = world(DELIVERY_RETRY_WINDOW_SEC=0)
    api = stack.api()
    customer = api.funded(10)
    for operator in stack.operators:
        operator.faults(status=503, status_share=1)
    identifier = api.sent(customer)["message_identifier"]
    assert set(api.wait_final(customer, identifier, deadline=15).values()) == {"failed"}
    assert stack.db.value("SELECT enqueues FROM messages WHERE message_identifier=%s", identifier) == 0
    assert_clean(stack)


def test_accepted_without_an_answer_is_asked_for(stack):
    """A takes it and says nothing: the lookup finds it, and B never hears of it."""
    api = stack.api()
    customer = api.funded()
    stack.operator_a.faults(accept_then_hang_share=1)
    sent = api.sent(customer, [recipient(i) for i in range(3)])
    assert set(api.wait_final(customer, sent["message_identifier"]).values()) == {"done"}
    assert {r["provider"] for r in api.history(user_id=customer)} == {"operatorA"}
    assert stack.operator_b.counts()["accepted"] == 0
    stack.operator_a.heal()
    assert_clean(stack)


def test_hanging_operator_that_has_nothing(stack):
    api = stack.api()
    customer = api.funded()
    stack.operator_a.faults(hang_share=1)
    sent = api.sent(customer, [recipient(i) for i in range(3)])
    assert set(api.wait_final(customer, sent["message_identifier"], 60).values()) == {"done"}
    assert {r["provider"] for r in api.history(user_id=customer)} == {"operatorB"}
    stack.operator_a.heal()
    assert_clean(stack)
    assert accepted_by_both(stack) == set()


@pytest.mark.parametrize("faults", [
    {"reset_share": 0.3}, {"status": 500, "status_share": 0.3}, {"status": 429, "status_share": 0.05, "retry_after": 1},
    {"latency_ms": 20, "latency_max_ms": 200}, {"accept_then_hang_share": 0.02}],
    ids=["resets", "500s", "429s", "slow", "silent"])
def test_unreliable_operators(world, faults):
    """A share of everything goes wrong on both sides; every message still arrives, once."""
    stack = world(DELIVERY_RETRY_WINDOW_SEC=300, DELIVERY_RETRY_BASE_MS=100,
                  DELIVERY_RETRY_MAX_MS=500, BREAKER_OPEN_MS=200)
    api = stack.api()
    customer = api.funded(10000)
    for operator in stack.operators:
        operator.faults(**faults)
    for n in range(10):
        api.sent(customer, [recipient(100 * n + i) for i in range(20)],
                 type="express" if n % 2 else "normal")
    quiesce(stack)
    for operator in stack.operators:
        operator.heal()
    assert stack.db.rows("SELECT status, COUNT(*) FROM message_status GROUP BY status") \
        == (("done", 200),)
    assert audit(stack) == []
    if faults.keys() & {"latency_ms", "status"}:
        assert accepted_by_both(stack) == set()


def test_express_does_not_wait_behind_normal(stack):
    api = stack.api()
    customer = api.funded(100000)
    for operator in stack.operators:
        operator.faults(latency_ms=300)
    for n in range(20):
        api.sent(customer, [recipient(1000 * n + i) for i in range(200)])
    wait_until(lambda: stack.db.value("SELECT COUNT(*) FROM message_status WHERE status='done'"), 10,
               "normal messages flow")
    identifier = api.sent(customer, ["0912"], type="express")["message_identifier"]
    assert api.wait_final(customer, identifier, deadline=5) == {"0912": "done"}
    left = stack.db.value("SELECT COUNT(*) FROM message_status WHERE status<>'done'")
    assert left > 0, "normal messages were done before the express one: nothing was shown"
    for operator in stack.operators:
        operator.heal()
    assert_clean(stack)


def test_redelivered_finished_work_changes_nothing(stack):
    api = stack.api()
    customer = api.funded(10)
    for operator in stack.operators:
        operator.faults(reject_prefix=REJECTED)
    # Held back, so that the message can be seen on the broker.
    stack.stop("consumerd-1")
    identifier = api.sent(customer, ["0912", REJECTED])["message_identifier"]
    broker = stack.broker
    wait_until(lambda: broker.ready(broker.normal) == 1, 10, "the message is on the broker")
    properties, body = broker.get(broker.normal)
    assert properties.delivery_mode == 2 and properties.message_id == identifier
    assert properties.type == "message.send" and properties.headers["traceparent"]
    for _ in range(3):
        broker.publish(broker.normal, body, message_id=identifier, type="message.send",
                       content_type="application/json", headers=properties.headers)
    stack.start("consumerd-1")
    assert api.wait_final(customer, identifier) == {"0912": "done", REJECTED: "failed"}
    quiesce(stack)
    broker.publish(broker.normal, body, message_id=identifier, type="message.send",
                   content_type="application/json", headers=properties.headers)
    assert_clean(stack)
    assert len(refunds(stack, customer)) == 1 and api.balance(customer) == 9
    assert stack.operator_a.counts()["duplicates"] == 0


def test_poison_goes_to_the_dead_letters(stack):
    broker = stack.broker
    poison = [b"", b"not json", b"[]", b"{}", b'{"customer_id":1}', b"\xff\xfe", b"[" * 5000,
              b'{"customer_id":"x","text":1,"recipients":5,"type":"normal","transaction_id":1,'
              b'"message_identifier":null}']
    for body in poison:
        broker.publish(broker.normal, body)
    broker.publish(broker.express, poison[1])
    wait_until(lambda: broker.ready(broker.dead) == len(poison) + 1, 10,
               lambda: f"dead letters: {broker.ready(broker.dead)}")
    # Healthy messages pass all the same.
    api = stack.api()
    customer = api.funded()
    identifier = api.sent(customer)["message_identifier"]
    assert set(api.wait_final(customer, identifier).values()) == {"done"}
    assert_clean(stack, dead=len(poison) + 1)


def delete_queue(broker, name):
    connection = broker.connect()
    connection.channel().queue_delete(name)
    connection.close()


def test_consumer_declares_a_lost_queue_again(stack):
    """Somebody deletes a queue under its consumer: it comes back, and nobody has to be restarted."""
    api, broker = stack.api(), stack.broker
    customer = api.funded()
    api.wait_final(customer, api.sent(customer)["message_identifier"])
    delete_queue(broker, broker.normal)
    # Only then the send: RabbitMQ 3.10 sometimes keeps a consumer of the old queue, mute, when
    # somebody else declares the queue again before the consumer has heard that it is gone.
    wait_until(lambda: (broker.queue(broker.normal) or {}).get("consumers") == 1
               and "consumer.cancelled" in stack.log_text("consumerd-1"), 30, "it consumes again")
    identifier = api.sent(customer)["message_identifier"]
    assert set(api.wait_final(customer, identifier, deadline=40).values()) == {"done"}
    assert_clean(stack)


def test_a_mute_consumer_consumes_again(stack):
    """RabbitMQ 3.10 now and then keeps a consumer of a deleted queue attached, and mute, when somebody
    else (here outboxd, in a hurry) declares the queue again before the consumer has heard of it."""
    api, broker = stack.api(), stack.broker
    customer = api.funded()
    for _ in range(25):
        delete_queue(broker, broker.normal)
        identifier = api.sent(customer)["message_identifier"]
        assert set(api.wait_final(customer, identifier, deadline=25).values()) == {"done"}
    assert_clean(stack)


def test_outboxd_declares_lost_queues_again(stack):
    """Nobody consumes, and the queues are gone: what is published waits in new ones."""
    api, broker = stack.api(), stack.broker
    customer = api.funded()
    stack.stop("consumerd-1")
    for queue in (broker.normal, broker.express):
        delete_queue(broker, queue)
    identifiers = [api.sent(customer, type=t)["message_identifier"] for t in ("normal", "express")]
    wait_until(lambda: broker.ready(broker.normal) == 1 and broker.ready(broker.express) == 1, 30,
               "both wait in their queues")
    assert stack.db.value("SELECT COALESCE(MAX(attempts), 0) FROM outbox_events") == 0
    stack.start("consumerd-1")
    for identifier in identifiers:
        assert set(api.wait_final(customer, identifier).values()) == {"done"}
    assert_clean(stack)


def test_unreadable_outbox_rows_burn_their_own_attempts(stack):
    """A row that is no message is put off, then parked; the rows around it are published."""
    api = stack.api()
    customer = api.funded()
    insert = ("INSERT INTO outbox_events(aggregate_type,aggregate_id,event_type,payload,priority,"
              "attempts) VALUES('message',%s,'message.send','{}',%s,%s)")
    stack.db.execute(insert, "poison-1", 0, 0)
    stack.db.execute(insert, "poison-2", 10, 0)
    stack.db.execute(insert, "poison-last-attempt", 0, 9)
    for type in ("normal", "express"):
        identifier = api.sent(customer, type=type)["message_identifier"]
        assert set(api.wait_final(customer, identifier).values()) == {"done"}
    wait_until(lambda: stack.db.rows("SELECT aggregate_id FROM outbox_parked")
               == (("poison-last-attempt",),), 10, "the last attempt parks the row")
    rows = stack.db.records("SELECT * FROM outbox_events ORDER BY aggregate_id")
    assert [r["aggregate_id"] for r in rows] == ["poison-1", "poison-2"]
    for row in rows:
        assert row["attempts"] >= 1 and row["next_run_at"] and row["last_error"]
    stack.db.execute("DELETE FROM outbox_events")
    assert_clean(stack, parked=1)


def test_a_small_prefetch_leaves_no_operator_idle(world):
    """What has been sent of a full prefetch starts the next turn."""
    stack = world(NORMAL_PREFETCH=20)
    api = stack.api()
    customer = api.funded()
    sent = [api.sent(customer)["message_identifier"] for _ in range(400)]
    wait_until(lambda: stack.db.value("SELECT COUNT(*) FROM message_status WHERE status='done'") == len(sent),
               10, "everything is delivered")
    assert_clean(stack)
