"""Several messages in one AMQP message, as an independent consumer finds them, and what becomes of them
when the broker refuses."""

import contextlib
import json

import pika
import pytest
import requests
from harness.client import recipient
from harness.metrics import Metrics
from harness.stack import Stack
from harness.wait import wait_until
from harness.witness import BUNDLE, members

WITHOUT_CONSUMER = ("api", "outboxd-1")
BYTES_MAX = 256 * 1024
FILLER = b"what fills a queue"


def sent_while_paused(stack, count, meanwhile=lambda: None, **options):
    """Accepted while outboxd looks away, so that one claim finds all; returns the bodies by identifier, in order."""
    api = stack.api()
    customer = api.funded(10 * count * len(options.get("recipients", "1")))
    with stack.paused("outboxd-1"):
        for n in range(count):
            api.sent(customer, **{"recipients": [recipient(n)], **options})
        rows = stack.db.rows("SELECT aggregate_id, payload FROM outbox_events ORDER BY id")
        meanwhile()
    assert len(rows) == count
    return {identifier: json.loads(payload) for identifier, payload in rows}


def published(stack, lane="normal"):
    """(messages, AMQP messages) that the broker has confirmed."""
    metrics = Metrics.of(stack.url("outboxd-1"))
    assert metrics.value("msg_outbox_bundle_size_sum", lane=lane) == metrics.value("msg_outbox_published_total", lane=lane)
    return (int(metrics.value("msg_outbox_published_total", lane=lane)),
            int(metrics.value("msg_outbox_bundle_size_count", lane=lane)))


def taken(stack, queue, count):
    """All that is published, once the outbox is empty: [(properties, body, members)]."""
    wait_until(lambda: stack.db.value("SELECT COUNT(*) FROM outbox_events") == 0, 60,
               lambda: stack.db.records("SELECT id, attempts, last_error FROM outbox_events LIMIT 3"))
    messages = [(p, b, members(p, b)) for p, b in stack.broker.take(queue) if b != FILLER]
    identifiers = [m["message_identifier"] for _, _, ms in messages for m in ms]
    assert len(identifiers) == len(set(identifiers)) == count, "nothing is lost, nothing doubled"
    return messages


def our_headers(properties):
    return {key: value for key, value in properties.headers.items() if not key.startswith("x-")}


def nothing_was_burnt(stack):
    assert Metrics.of(stack.url("outboxd-1")).sum("msg_outbox_attempts_failed_total") == 0
    assert stack.db.value("SELECT COUNT(*) FROM outbox_parked") == 0


@pytest.mark.parametrize("lane, most, sizes", [("normal", 50, [10, 10, 10]), ("express", 10, [10, 10, 10]),
                                               ("normal", 7, [6, 6, 6, 6, 6])])
def test_what_one_claim_found_travels_in_bundles(world, lane, most, sizes):
    stack = world(*WITHOUT_CONSUMER, RABBIT_BUNDLE_MAX="7" if most == 7 else "50")
    sent = sent_while_paused(stack, 30, type=lane)
    messages = taken(stack, getattr(stack.broker, lane), 30)
    assert [len(m) for _, _, m in messages] == sizes
    assert [m["message_identifier"] for _, _, ms in messages for m in ms] == list(sent)
    for properties, body, bundle in messages:
        assert properties.content_type == BUNDLE and our_headers(properties) == {"bundle": 1}
        assert properties.delivery_mode == 2 and properties.type == "message.send" and properties.timestamp
        assert properties.message_id == bundle[0]["message_identifier"]
        for member in bundle:
            payload = sent[member["message_identifier"]]
            own = {key: payload[key] for key in ("traceparent", "tracestate", "accepted_us")}
            assert member == {**payload["message"], **own}
    assert published(stack, lane) == (30, len(sizes))
    nothing_was_burnt(stack)


@pytest.mark.parametrize("settings, count", [({"RABBIT_BUNDLE_MAX": "1"}, 5), ({}, 1)])
def test_alone_a_message_is_as_it_always_was(world, settings, count):
    """One that is alone, and all where bundles are off: byte for byte."""
    stack = world(*WITHOUT_CONSUMER, **settings)
    sent = sent_while_paused(stack, count)
    messages = taken(stack, stack.broker.normal, count)
    assert len(messages) == count
    for (identifier, payload), (properties, body, _) in zip(sent.items(), messages):
        accepted_us = payload["accepted_us"]
        assert {**vars(properties), "headers": our_headers(properties)} == {
            **dict.fromkeys(vars(properties)), "content_type": "application/json", "delivery_mode": 2,
            "type": "message.send", "message_id": identifier, "timestamp": accepted_us // 1_000_000,
            "headers": {"traceparent": payload["traceparent"], "accepted_us": accepted_us}}
        assert body == json.dumps(payload["message"], separators=(",", ":")).encode()
    assert published(stack) == (count, count)


def test_bundles_are_bounded_in_bytes(world):
    """Large messages: few to a bundle, and what no bundle takes goes alone."""
    stack = world(*WITHOUT_CONSUMER)
    many = [recipient(n) + "0" * 9 for n in range(1000)]
    sent_while_paused(stack, 40, recipients=many, text="x" * 4096)
    messages = taken(stack, stack.broker.normal, 40)
    assert max(len(body) for _, body, _ in messages) <= BYTES_MAX
    assert 40 // 10 <= len(messages) < 20


def test_a_row_that_failed_before_travels_alone(world):
    stack = world(*WITHOUT_CONSUMER)
    failed = []

    def fail():
        failed.extend(r[0] for r in stack.db.rows("SELECT aggregate_id FROM outbox_events ORDER BY id LIMIT 3,1"))
        stack.db.execute("UPDATE outbox_events SET attempts=1 WHERE aggregate_id=%s", failed[0])

    sent_while_paused(stack, 9, fail)
    messages = taken(stack, stack.broker.normal, 9)
    assert [(p.message_id, len(m)) for p, _, m in messages if p.content_type != BUNDLE] == [(failed[0], 1)]
    assert sorted(len(m) for _, _, m in messages) == [1, 3, 5]


def delete(stack, what, name):
    connection = stack.broker.connect()
    getattr(connection.channel(), f"{what}_delete")(name)
    connection.close()


@pytest.mark.parametrize("what", ["queue", "exchange"])
def test_what_the_broker_refuses_is_published_alone(world, what):
    """Deleted under the publisher: bundles are returned, or their channel is closed; no attempt is burnt."""
    stack = world(*WITHOUT_CONSUMER, OUTBOX_LOW_WORKERS="1")
    name = stack.broker.normal if what == "queue" else stack.broker.exchange
    sent_while_paused(stack, 30, lambda: delete(stack, what, name))
    messages = taken(stack, stack.broker.normal, 30)
    assert all(len(m) == 1 for _, _, m in messages)
    nothing_was_burnt(stack)
    assert (Metrics.of(stack.url("outboxd-1")).value("msg_publish_returned_total") > 0) == (what == "queue")
    # So goes the next batch; what comes later is bundled again.
    for sizes in ([1] * 10, [10]):
        sent_while_paused(stack, 10)
        assert [len(m) for _, _, m in taken(stack, stack.broker.normal, 10)] == sizes


@contextlib.contextmanager
def full_queue(stack, name):
    """A policy that lets it hold one message; others have filled it."""
    url = f"{stack.broker.management}/policies/%2F/{name}"
    body = {"pattern": f"^{name}$", "definition": {"max-length": 1}, "apply-to": "queues"}
    assert requests.put(url, json=body, auth=stack.broker.login, timeout=10).status_code in (201, 204)
    try:
        wait_until(lambda: (stack.broker.queue(name) or {}).get("policy") == name, 30, "the policy holds")
        with pytest.raises(pika.exceptions.NackError):
            for _ in range(100):
                stack.broker.publish(name, FILLER)
        yield
    finally:
        requests.delete(url, auth=stack.broker.login, timeout=10)


def test_what_the_broker_does_not_take_is_left(world):
    """Nacked: everything stays in the outbox as it was, until the broker takes it."""
    stack = world(*WITHOUT_CONSUMER)
    with full_queue(stack, stack.broker.normal):
        sent_while_paused(stack, 30)
        wait_until(lambda: "(nack)" in stack.log_text("outboxd-1"), 30, "nacks are told")
        assert stack.db.rows("SELECT COUNT(*), MAX(attempts) FROM outbox_events") == ((30, 0),)
    taken(stack, stack.broker.normal, 30)
    nothing_was_burnt(stack)


@pytest.fixture(scope="module")
def narrow_servers():
    """RabbitMQ takes no message of more than 4,000 bytes."""
    stack = Stack("narrow", servers={"RABBIT_CONF": "max_message_size = 4000"})
    try:
        yield stack.up("backends")
    finally:
        stack.purge()


def test_a_bundle_too_large_for_the_broker(narrow_servers):
    stack = Stack("large", narrow_servers)
    try:
        stack.up(*WITHOUT_CONSUMER)
        sent_while_paused(stack, 30, text="x" * 500)
        messages = taken(stack, stack.broker.normal, 30)
        assert all(len(m) == 1 for _, _, m in messages)
        nothing_was_burnt(stack)
    finally:
        stack.purge()
