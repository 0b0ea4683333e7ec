"""The database's clock, set back: what was written before it lies in the future, and is not waited for.
Rows are made as they look then."""

import time

import pytest
from harness.audit import audit, quiesce
from harness.wait import wait_until

AHEAD = 3600  # seconds


def set_back(stack, table, *columns):
    """As if the clock had been set back after these columns were written."""
    stack.db.execute(f"UPDATE {table} SET " + ",".join(f"{c}={c}+INTERVAL {AHEAD} SECOND" for c in columns))


def test_a_retry_does_not_wait_for_the_clock(world):
    """The same message's retry, which the operators' faults have put off."""
    stack = world(DELIVERY_RETRY_WINDOW_SEC=600, DELIVERY_RETRY_BASE_MS=60000, DELIVERY_RETRY_MAX_MS=60000,
                  OPERATOR_TRIES=1)
    for operator in stack.operators:
        operator.faults(status=503)
    api = stack.api()
    customer = api.funded(10)
    identifiers = [api.sent(customer, type=type)["message_identifier"] for type in ("normal", "express")]
    put_off = "SELECT COUNT(*) FROM outbox_events WHERE next_run_at>NOW(6)"
    wait_until(lambda: stack.db.value(put_off) == 2, 30, "both are put off")
    for operator in stack.operators:
        operator.faults()
    time_left = stack.db.value("SELECT MIN(TIMESTAMPDIFF(SECOND,NOW(6),next_run_at)) FROM outbox_events")
    assert time_left > 20, "what follows would prove nothing"
    set_back(stack, "outbox_events", "created_at", "updated_at", "next_run_at")
    for identifier in identifiers:
        assert set(api.wait_final(customer, identifier, 20).values()) == {"done"}
    quiesce(stack)
    assert audit(stack) == []


def test_what_is_put_off_as_it_should_be_waits(world):
    """Nothing is published before its time while the clock runs as clocks do."""
    stack = world(DELIVERY_RETRY_WINDOW_SEC=600, DELIVERY_RETRY_BASE_MS=60000, DELIVERY_RETRY_MAX_MS=60000,
                  OPERATOR_TRIES=1, OUTBOX_FULL_LOOK_MS=100)
    for operator in stack.operators:
        operator.faults(status=503)
    api = stack.api()
    api.sent(api.funded(10))
    wait_until(lambda: stack.db.value("SELECT COUNT(*) FROM outbox_events WHERE next_run_at>NOW(6)"), 30, "it is put off")
    metrics = type(api)(stack.url("outboxd-1")).metrics
    looks = dict(query="outbox_look_ahead", result="ok")
    before = metrics().sum("db_queries_total", **looks)
    wait_until(lambda: metrics().sum("db_queries_total", **looks) > before + 4, 20, "it is looked for")
    assert stack.db.value("SELECT COUNT(*) FROM outbox_events WHERE next_run_at>NOW(6)") == 1


@pytest.mark.parametrize("survivors", [1, 3])
def test_a_dead_consumer_is_dead_after_the_usual_time(world, survivors):
    """Its last heartbeat lies an hour ahead; what it had in hand is taken over all the same."""
    names = [f"consumerd-{i}" for i in range(2, 2 + survivors)]
    stack = world("api", "outboxd", "operators", "consumerd-1", WORKER_DEAD_SEC=5, WORKER_HEARTBEAT_MS=500,
                  OPERATOR_TIMEOUT_MS=1000, REPAIR_AFTER_SEC=0, replicas={"api": 1, "outboxd": 1, "consumerd": 4})
    for operator in stack.operators:
        operator.faults(latency_ms=900)
    api = stack.api()
    customer = api.funded(100)
    identifiers = [api.sent(customer)["message_identifier"] for _ in range(5)]
    wait_until(lambda: stack.db.value("SELECT COUNT(*) FROM message_status WHERE status='sending'"), 20, "it is at work")
    stack.kill("consumerd-1")
    for operator in stack.operators:
        operator.faults()
    left = stack.db.value("SELECT COUNT(*) FROM message_status WHERE status='sending'")
    set_back(stack, "workers", "heartbeat_at", "started_at")
    for name in names:
        stack.start(name)
    began = time.monotonic()
    for identifier in identifiers:
        assert set(api.wait_final(customer, identifier, 60).values()) == {"done"}
    assert left, "nothing was left to take over"
    assert time.monotonic() - began < 30
    quiesce(stack)
    assert audit(stack) == []


def test_a_living_consumer_is_not_taken_for_dead(world):
    """Its next heartbeat is the present again."""
    stack = world()
    set_back(stack, "workers", "heartbeat_at")
    wait_until(lambda: not stack.db.value("SELECT COUNT(*) FROM workers WHERE heartbeat_at>NOW(6)+INTERVAL 1 SECOND"),
               20, "the heartbeat is in the present")
    api = stack.api()
    customer = api.funded(10)
    assert set(api.wait_final(customer, api.sent(customer)["message_identifier"]).values()) == {"done"}
    assert "worker.stale" not in stack.log_text("consumerd-1")
