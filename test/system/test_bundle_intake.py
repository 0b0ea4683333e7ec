"""Bundles, published by hand: each member is delivered once, whatever becomes of its neighbours."""

import json

import pytest

from harness.audit import audit, quiesce
from harness.client import recipient
from harness.metrics import Metrics
from harness.wait import wait_until
from test_dead import dead

TYPE = "application/vnd.messaging.bundle+json"


@pytest.fixture
def stack(world):
    """Nobody publishes but the test."""
    return world("api", "operators", "consumerd", REPAIR_AFTER_SEC="0")


def accepted(stack, n=1, **options):
    """Members of n accepted messages, which are taken out of the outbox; of customer options["customer"]."""
    api = stack.api()
    customer = options.pop("customer", None) or api.funded(1000)
    ids = [api.sent(customer, [recipient(i)], **options)["message_identifier"] for i in range(n)]
    rows = stack.db.rows("SELECT payload FROM outbox_events WHERE aggregate_id IN %s ORDER BY id", ids)
    stack.db.execute("DELETE FROM outbox_events WHERE aggregate_id IN %s", ids)
    members = []
    for (payload,) in rows:
        p = json.loads(payload)
        members.append({**p["message"], "traceparent": p["traceparent"], "tracestate": p["tracestate"],
                        "accepted_us": p["accepted_us"]})
    assert len(members) == n
    return members


def body_of(members):
    """Text stands for itself: what is no JSON is cut out as well."""
    texts = [m if isinstance(m, str) else json.dumps(m, separators=(",", ":"), ensure_ascii=False)
             for m in members]
    return ('{"messages":[' + ",".join(texts) + "]}").encode()


def publish(stack, members, queue=None, version=1, body=None):
    first = next((m["message_identifier"] for m in members if isinstance(m, dict)), "")
    stack.broker.publish(queue or stack.broker.normal, body or body_of(members), content_type=TYPE,
                         message_id=first, type="message.send", headers={"bundle": version})


def settled(stack, members, status="done"):
    ids = [m["message_identifier"] for m in members]

    def states():
        return dict(stack.db.rows("SELECT message_identifier, status FROM message_status "
                                  "WHERE message_identifier IN %s", ids))

    wait_until(lambda: set(states().values()) == {status} and len(states()) == len(set(ids)), 30,
               lambda: f"not {status}: {states()}")


def acknowledged(stack):
    wait_until(lambda: stack.broker.depth(stack.broker.normal) == 0
               and stack.broker.depth(stack.broker.express) == 0, 20, "the queues are empty")


def sent_once(stack, members):
    total = sum(operator.counts()["accepted"] for operator in stack.operators)
    assert total == len(members)


def letters(stack, n):
    wait_until(lambda: stack.broker.ready(stack.broker.dead) == n, 20,
               lambda: f"{stack.broker.ready(stack.broker.dead)} letters, not {n}")


def clean(stack, **expected):
    quiesce(stack)
    assert audit(stack, **expected) == []


def test_every_member_is_delivered_once(stack):
    normal, express = accepted(stack, 20), accepted(stack, 5, type="express")
    publish(stack, normal)
    publish(stack, express, queue=stack.broker.express)
    settled(stack, normal + express)
    acknowledged(stack)
    sent_once(stack, normal + express)
    clean(stack)


def test_copies_of_a_bundle_in_any_order(stack):
    """Twice the same, once turned round, its members in other bundles, twice in one, and alone."""
    members = accepted(stack, 10)
    for copy in (members, members, members[::-1], members[:6] + members[2:4], members[5:]):
        publish(stack, copy)
    for m in members[:3]:
        stack.broker.publish(stack.broker.normal, json.dumps(m).encode(), message_id=m["message_identifier"])
    settled(stack, members)
    acknowledged(stack)
    sent_once(stack, members)
    assert stack.broker.ready(stack.broker.dead) == 0
    clean(stack)


def test_members_that_are_not_ours_become_letters(stack):
    """Each looks as if it had come alone; its neighbours are delivered."""
    good = accepted(stack, 4)
    unknown = {**good[0], "message_identifier": "00000000-0000-7000-8000-000000000000"}
    other = accepted(stack, type="express")[0]
    lacking = {k: v for k, v in accepted(stack)[0].items() if k != "text"}
    publish(stack, [good[0], "{no json", unknown, good[1], other, "17", good[2], lacking, good[3]])
    settled(stack, good)
    acknowledged(stack)
    letters(stack, 5)
    found = {}
    for line in dead(stack, "list").splitlines():
        words = line.split("\t")
        found[words[0]] = (words[2], words[3])
    queue = stack.broker.normal
    assert found[unknown["message_identifier"]][1] == f"no_rows from {queue}"
    assert found[other["message_identifier"]][1] == f"wrong_queue from {queue}"
    assert found[other["message_identifier"]][0].startswith("express")
    assert found[lacking["message_identifier"]][1] == f"bad_body from {queue}"
    assert sum(reason == f"bad_body from {queue}" for _, reason in found.values()) == 3
    shown = dead(stack, "show", other["message_identifier"])
    body = json.loads(shown.split("body: ")[1].split("\n{\"ts\"")[0])
    assert body == {k: v for k, v in other.items() if k not in ("traceparent", "tracestate", "accepted_us")}
    assert shown.split("traceparent: ")[1].split("\n")[0] == other["traceparent"]

    dead(stack, "replay", other["message_identifier"])
    settled(stack, [other])


@pytest.mark.parametrize("how", ["no list", "empty", "another version"])
def test_what_cannot_be_read_goes_whole(stack, how):
    members = accepted(stack, 2)
    publish(stack, members, version=2 if how == "another version" else 1,
            body={"no list": b'{"messages":7}', "empty": body_of([])}.get(how))
    letters(stack, 1)
    acknowledged(stack)
    after = accepted(stack, 1)
    publish(stack, after)
    settled(stack, after)


def test_the_prefetch_counts_members(world):
    """Ten bundles of ten wait; while the operator does not answer, three of them are in hand."""
    stack = world("api", "operators", "consumerd", REPAIR_AFTER_SEC="0", NORMAL_PREFETCH=25,
                  NORMAL_RECIPIENTS_MAX=20, RABBIT_BUNDLE_MAX=10)
    for operator in stack.operators:
        operator.faults(latency_ms=1500)
    bundles = [accepted(stack, 10) for _ in range(10)]
    for members in bundles:
        publish(stack, members)
    everything = sum(bundles, [])
    most = 0

    def over():
        nonlocal most
        most = max(most, stack.db.value("SELECT COUNT(*) FROM message_status WHERE status='sending'"))
        return stack.db.value("SELECT COUNT(*) FROM message_status WHERE status<>'done'") == 0

    wait_until(over, 90, "all are done")
    assert 0 < most <= 30
    settled(stack, everything)
    acknowledged(stack)
    sent_once(stack, everything)


@pytest.mark.parametrize("point", ["on_delivery", "after_claim", "after_accepted", "after_settle", "after_ack"])
def test_a_consumer_dies_over_a_bundle(stack, point):
    """The whole bundle comes again, and each member is delivered once."""
    members = accepted(stack, 10)
    stack.stop("consumerd-1")
    stack.start("consumerd-1", MSG_FAILPOINT=f"consumer.{point}:kill:every=3" if point != "on_delivery"
                else "consumer.on_delivery:kill")
    publish(stack, members)
    if point == "after_claim":
        publish(stack, accepted(stack, 1))
        publish(stack, accepted(stack, 1))
    wait_until(lambda: stack.status("consumerd-1") is None, 20, "it has died")
    stack.start("consumerd-1")
    settled(stack, members)
    acknowledged(stack)
    clean(stack)
