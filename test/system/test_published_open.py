"""How many messages are published and not final: every msg-consumerd says the same, of messages and not of bundles."""

import os
import subprocess

from harness.audit import audit, quiesce
from harness.client import recipient
from harness.metrics import Metrics
from harness.stack import binary
from harness.wait import wait_until

LANES = ("normal", "express")
CONSUMERS = ("consumerd-1", "consumerd-2")
QUICK = {"REPAIR_INTERVAL_MS": "200", "WORKER_HEARTBEAT_MS": "200"}


def shown(stack, name):
    """By lane; None: that one has no recent count."""
    metrics = Metrics.of(stack.url(name))
    assert metrics.types["msg_published_open"] == "gauge"
    found = {lane: metrics.series("msg_published_open", lane=lane) for lane in LANES}
    return {lane: series[0][1] if series else None for lane, series in found.items()}


def all_show(stack, normal, express, names=CONSUMERS):
    wanted = {"normal": normal, "express": express}
    seen = {}

    def same():
        seen.update({name: shown(stack, name) for name in names})
        return all(numbers == wanted for numbers in seen.values())

    wait_until(same, 40, lambda: f"{wanted} everywhere: {seen}")


def restore_mode(stack, word):
    subprocess.run([binary("api"), "restore-mode", word], check=True, timeout=60, capture_output=True,
                   env={**os.environ, **stack.values})


def publish(stack, normal, express):
    """Messages with two recipients each; returns once none waits in the outbox."""
    api = stack.api()
    customer = api.funded(10000)
    for n in range(normal + express):
        api.sent(customer, [recipient(2 * n), recipient(2 * n + 1)], type="normal" if n < normal else "express")
    wait_until(lambda: stack.db.value("SELECT COUNT(*) FROM outbox_events") == 0, 30, "all are published")


def test_a_backlog_that_nobody_takes(world):
    """Published before the mode was on: consumers hold them, or leave them in the queues, and claim none."""
    stack = world(replicas={"api": 1, "outboxd": 1, "consumerd": 2}, **QUICK)
    all_show(stack, 0, 0)
    for name in CONSUMERS:
        stack.stop(name)
    publish(stack, 40, 15)
    restore_mode(stack, "on")
    for name in CONSUMERS:
        stack.start(name)
    all_show(stack, 40, 15)
    # What waits in the outbox is not published.
    stack.api().sent(stack.api().funded(10))
    beats = Metrics.of(stack.url("consumerd-1")).sum("db_queries_total", query="worker_heartbeat")
    wait_until(lambda: Metrics.of(stack.url("consumerd-1")).sum("db_queries_total", query="worker_heartbeat")
               > beats + 5, 30)
    all_show(stack, 40, 15)
    restore_mode(stack, "resume")
    quiesce(stack)
    all_show(stack, 0, 0)
    assert audit(stack) == []


def test_what_is_in_hand_counts(world):
    """The operators do not answer: claimed and not final."""
    stack = world(replicas={"api": 1, "outboxd": 1, "consumerd": 2}, OPERATOR_TIMEOUT_MS=16000, WORKER_DEAD_SEC=45,
                  **QUICK)
    for operator in stack.operators:
        operator.faults(latency_ms=15000)
    publish(stack, 6, 4)
    wait_until(lambda: sum(Metrics.of(stack.url(name)).sum("msg_recipients_in_hand") for name in CONSUMERS) == 20, 10,
               "all are claimed")
    all_show(stack, 6, 4)
    for operator in stack.operators:
        operator.heal()
    quiesce(stack)
    all_show(stack, 0, 0)


def test_an_old_count_is_none(world):
    """The leader goes and the other one does not repair: rather no number than one that was true once."""
    stack = world("api", "outboxd", "operators", replicas={"api": 1, "outboxd": 1, "consumerd": 2}, **QUICK)
    stack.start("consumerd-2", REPAIR_AFTER_SEC="0")
    assert shown(stack, "consumerd-2") == {"normal": None, "express": None}
    stack.start("consumerd-1")
    all_show(stack, 0, 0)
    stack.kill("consumerd-1")
    all_show(stack, None, None, ["consumerd-2"])
    stack.start("consumerd-1")
    all_show(stack, 0, 0)


def test_without_an_answer_there_is_no_count(world):
    stack = world(replicas={"api": 1, "outboxd": 1, "consumerd": 2}, **QUICK)
    all_show(stack, 0, 0)
    stack.db.execute("CREATE TRIGGER no_beat BEFORE UPDATE ON workers FOR EACH ROW"
                     " SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT='not now'")
    all_show(stack, None, None)
    stack.db.execute("DROP TRIGGER no_beat")
    all_show(stack, 0, 0)
