"""What the broker has lost comes back; what is merely queued, held or put off is left alone."""

import contextlib
import json

from harness.audit import audit, quiesce
from harness.client import recipient
from harness.metrics import Metrics
from harness.wait import wait_until
from harness.witness import members

import pytest

QUICK = {"REPAIR_AFTER_SEC": "2", "REPAIR_INTERVAL_MS": "200"}


def repaired(stack):
    return Metrics.of(stack.url("consumerd-1")).sum("msg_repaired_total")


def candidates(stack):
    return Metrics.of(stack.url("consumerd-1")).sum("msg_repair_candidates")


def send_many(stack, count):
    api = stack.api()
    customer = api.funded(100000)
    for i in range(count):
        api.sent(customer, [recipient(2 * i), recipient(2 * i + 1)],
                 type="express" if i % 3 == 0 else "normal")
    wait_until(lambda: stack.db.value("SELECT COUNT(*) FROM outbox_events") == 0, 20)


@contextlib.contextmanager
def idle_consumer(stack):
    """The consumer lives and repairs, but gets no row in `workers`, and so takes nothing, and is not ready."""
    stack.stop("consumerd-1")
    stack.db.execute("CREATE TRIGGER nobody BEFORE INSERT ON workers FOR EACH ROW"
                     " SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT='not now'")
    stack.start_without_waiting("consumerd-1")
    wait_until(lambda: stack.status("consumerd-1", "/healthz") == 200, 60, "it lives")
    yield
    stack.db.execute("DROP TRIGGER nobody")


def purge(stack):
    """How many messages were in the queues, those in bundles included."""
    return sum(len(members(*taken)) for queue in (stack.broker.normal, stack.broker.express)
               for taken in stack.broker.take(queue))


def test_purged_queue(world):
    stack = world(**QUICK)
    with idle_consumer(stack):
        send_many(stack, 60)
        wait_until(lambda: candidates(stack) == 60, 30, "a backlog is seen")
        # Several searches have gone by: a backlog alone is no reason.
        before = Metrics.of(stack.url("consumerd-1")).sum("db_queries_total", query="repair_walk")
        wait_until(lambda: Metrics.of(stack.url("consumerd-1")).sum("db_queries_total", query="repair_walk")
                   > before + 6, 20)
        assert repaired(stack) == 0
        assert purge(stack) == 60
        wait_until(lambda: repaired(stack) == 60, 30, "the repair of all")
    quiesce(stack)
    assert audit(stack) == []
    assert stack.db.value("SELECT MAX(repairs) FROM messages") == 1


def test_what_a_lane_lost_that_is_never_empty(world):
    """By its count a consumer may hold all of it, always; but it has had later messages by now."""
    stack = world(DELIVERY_RETRY_BASE_MS="500", DELIVERY_RETRY_MAX_MS="1000", **QUICK)
    with idle_consumer(stack):
        send_many(stack, 20)
        assert purge(stack) == 20
        stack.db.execute("CREATE TRIGGER busy BEFORE UPDATE ON workers FOR EACH ROW"
                         " SET NEW.waiting_normal=1000,NEW.waiting_express=1000")
    api = stack.api()
    customer = api.funded(100000)

    def all_repaired():
        for kind in ("normal", "express"):
            api.sent(customer, [recipient(1)], type=kind)
        return repaired(stack) >= 20

    wait_until(all_repaired, 60, "the repair of what later messages have overtaken")
    quiesce(stack)
    assert audit(stack) == []
    assert stack.db.value("SELECT SUM(repairs) FROM messages") == 20


def test_what_is_beyond_repair_is_named(world):
    stack = world(**QUICK)
    with idle_consumer(stack):
        send_many(stack, 12)
        stack.db.execute("UPDATE messages SET repairs=8")  # REPAIR_MAX
        assert purge(stack) == 12

        def told():
            lines = [json.loads(l) for l in stack.log_text("consumerd-1").splitlines() if "repair.given_up" in l]
            return [l for l in lines if l["messages"] == 12]

        ids = wait_until(told, 30)[0]["message_ids"].split(" ")
        ours = [i for (i,) in stack.db.rows("SELECT message_identifier FROM message_status GROUP BY"
                                            " message_identifier ORDER BY MIN(id)")]
        assert len(ids) == 10 and ids == ours[:10]
        assert Metrics.of(stack.url("consumerd-1")).value("msg_repair_given_up") == 12
        assert repaired(stack) == 0


def test_a_late_original_is_harmless(world):
    """A message that was thought lost arrives beside its repaired twin: sent once."""
    stack = world(**QUICK)
    with idle_consumer(stack):
        send_many(stack, 1)
        connection = stack.broker.connect()
        channel = connection.channel()
        held = None
        for name in (stack.broker.express, stack.broker.normal):
            method, properties, body = channel.basic_get(name)  # unacknowledged: in nobody's count
            held = held or method and (name, properties, body)
        assert held
        wait_until(lambda: repaired(stack) == 1, 30)
        connection.close()  # the original is back in its queue
    quiesce(stack)
    assert audit(stack) == []
    assert sum(operator.counts()["requests"] for operator in stack.operators) == 2


@pytest.mark.parametrize("fault", [{"status": 503, "status_share": 1}])
def test_what_is_put_off_is_not_repaired(world, fault):
    """Both operators down, window open: retries wait in the outbox for longer than the repair does."""
    stack = world(DELIVERY_RETRY_WINDOW_SEC="60", DELIVERY_RETRY_BASE_MS="2500",
                  DELIVERY_RETRY_MAX_MS="5000", **QUICK)
    for operator in stack.operators:
        operator.faults(**fault)
    api = stack.api()
    customer = api.funded(1000)
    for i in range(20):
        api.sent(customer, [recipient(i)])
    wait_until(lambda: stack.db.value("SELECT MIN(enqueues) FROM messages") >= 3, 60,
               "every message tried three times")
    for operator in stack.operators:
        operator.heal()
    quiesce(stack)
    assert repaired(stack) == 0
    assert stack.db.value("SELECT MAX(repairs) FROM messages") == 0
    assert audit(stack) == []
