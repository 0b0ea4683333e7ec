"""Bundles, published by hand: each member is delivered once, whatever becomes of its neighbours."""

import contextlib
import json
import os
import signal
from urllib.parse import urlparse

import pytest

from harness.audit import audit, quiesce
from harness.client import recipient
from harness.proxy import FaultProxy
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
    numbers = options.pop("numbers", None) or [recipient(i) for i in range(n)]
    ids = [api.sent(customer, [numbers[i]], **options)["message_identifier"] for i in range(n)]
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


def settled(stack, members, status="done", deadline=30):
    ids = [m["message_identifier"] for m in members]

    def states():
        return dict(stack.db.rows("SELECT message_identifier, status FROM message_status "
                                  "WHERE message_identifier IN %s", ids))

    wait_until(lambda: set(states().values()) == {status} and len(states()) == len(set(ids)), deadline,
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
    publish(stack, [good[0], "{no json}", unknown, good[1], other, "17", good[2], lacking, good[3]])
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


def test_a_prefetch_below_a_bundle(world):
    """A bundle is taken whole, and the next ones when there is room; slow operators, and nothing gets stuck."""
    stack = world("api", "operators", "consumerd", REPAIR_AFTER_SEC="0", NORMAL_PREFETCH=5,
                  NORMAL_RECIPIENTS_MAX=20, RABBIT_BUNDLE_MAX=10)
    for operator in stack.operators:
        operator.faults(latency_ms=300)
    bundles = [accepted(stack, 10) for _ in range(10)]
    for members in bundles:
        publish(stack, members)
    stack.start("outboxd-1")  # for those that time out
    everything = sum(bundles, [])
    settled(stack, everything, deadline=120)
    acknowledged(stack)
    clean(stack)


@pytest.mark.parametrize("point", ["on_delivery", "after_claim", "after_dispatch", "after_accepted", "after_settle",
                                   "after_ack"])
def test_a_consumer_dies_over_a_bundle(stack, point):
    """The whole bundle comes again, and each member is delivered once."""
    members = accepted(stack, 10)
    stack.stop("consumerd-1")
    stack.start("consumerd-1", MSG_FAILPOINT=f"consumer.{point}:kill")
    publish(stack, members)
    wait_until(lambda: stack.status("consumerd-1") is None, 60, "it has died")
    stack.start("outboxd-1")
    stack.start("consumerd-1", MSG_FAILPOINT="")
    settled(stack, members)
    acknowledged(stack)
    sent_once(stack, members)
    clean(stack)


DEADLY = "0913"  # how recipients begin that no consumer survives


def dead_ids(stack):
    """A death between a letter and its bundle makes a second letter."""
    return {line.split("\t")[0] for line in dead(stack, "list").splitlines()}


class Deadly:
    """Between the consumer and its first operator: whoever sends to such a number dies, and it is not sent."""

    def __init__(self, stack):
        self.stack, self.deaths = stack, 0
        first, self.second = stack.values["OPERATOR_A_URL"], stack.values["OPERATOR_B_URL"]
        self.proxy = FaultProxy("127.0.0.1", urlparse(first).port)
        self.pid = None
        # With so many of its digits as no trace's identifier happens to have.
        self.proxy.on_sight(f"{DEADLY}000".encode(), self._kill, passes=False)
        stack.stop("consumerd-1")
        self._start()

    def _kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def _start(self):
        self.stack.start("consumerd-1", OPERATORS=f"operatorA=http://127.0.0.1:{self.proxy.port},"
                                                  f"operatorB={self.second}")
        self.pid = self.stack.pid("consumerd-1")

    def until_letters(self, n):
        """Whoever has died is started again, and known to be dead at once."""
        def there():
            if not self.stack.pid("consumerd-1"):
                self.deaths += 1
                self.stack.db.execute("DELETE FROM workers")
                self._start()
            return self.stack.broker.ready(self.stack.broker.dead) >= n and len(dead_ids(self.stack)) >= n
        wait_until(there, 120, lambda: f"not {n} letters after {self.deaths} deaths", pause=0.05)


@pytest.fixture
def deadly(stack):
    made = Deadly(stack)
    yield made
    made.proxy.close()


def test_a_member_that_kills_its_consumers_ends_alone(stack, deadly):
    """Each consumer that sends it dies. Its neighbours are delivered, and none of them is blamed."""
    for operator in stack.operators:
        operator.faults(latency_ms=200)
    numbers = [f"{DEADLY if i == 4 else '0912'}{i:07d}" for i in range(10)]
    members = accepted(stack, 10, numbers=numbers)
    poison = members[4]["message_identifier"]
    others = [m for m in members if m["message_identifier"] != poison]
    stack.start("outboxd-1")  # for what is put off
    publish(stack, members)
    deadly.until_letters(1)
    assert deadly.deaths == 6  # the first, and DELIVERY_TAKEOVERS_MAX
    settled(stack, others)
    acknowledged(stack)
    assert poison in dead(stack, "list") and f"takeovers from {stack.broker.normal}" in dead(stack, "list")
    assert stack.db.value("SELECT MAX(takeovers) FROM message_status WHERE message_identifier<>%s", poison) <= 3
    for m in others:
        found = [o for o in stack.operators if o.entry(f"{m['message_identifier']}-0")]
        assert len(found) == 1


def test_suspects_do_not_die_with_killers(stack, deadly):
    """A killer that is a suspect too, and one that is none yet; innocent suspects in both lanes."""
    for operator in stack.operators:
        operator.faults(latency_ms=200)
    numbers = [DEADLY + "0000000", "09120000001", "09120000002", "09120000003"]
    normal = accepted(stack, 4, numbers=numbers)
    express = accepted(stack, 4, numbers=numbers, type="express")
    poisons = [m[0]["message_identifier"] for m in (normal, express)]
    stack.db.execute("UPDATE message_status SET status='sending', owner=4000000000, attempt=3, takeovers=2, "
                     "first_claimed_at=NOW(6) WHERE message_identifier<>%s", poisons[1])
    stack.start("outboxd-1")  # for what is put off
    publish(stack, normal)
    publish(stack, express, queue=stack.broker.express)
    deadly.until_letters(2)
    assert deadly.deaths == 3 + 6
    settled(stack, normal[1:] + express[1:])
    acknowledged(stack)
    assert dead_ids(stack) == set(poisons)
    assert stack.db.value("SELECT MAX(takeovers) FROM message_status WHERE message_identifier NOT IN %s",
                          poisons) <= 3


def test_a_death_between_a_letter_and_its_bundle(stack):
    """The letter is there twice, which every verb can live with."""
    good, (other,) = accepted(stack, 2), accepted(stack, type="express")
    identifier, customer = other["message_identifier"], other["customer_id"]
    stack.stop("consumerd-1")
    stack.start("consumerd-1", MSG_FAILPOINT="consumer.after_letter:kill")
    publish(stack, [good[0], other, good[1]])
    wait_until(lambda: stack.status("consumerd-1") is None, 60, "it has died")
    stack.start("consumerd-1", MSG_FAILPOINT="")
    settled(stack, good)
    acknowledged(stack)
    letters(stack, 2)
    lines = [line for line in dead(stack, "list").splitlines() if line.startswith(identifier)]
    assert len(lines) == 2 and sum("a copy" in line for line in lines) == 1
    balance = stack.db.balance(customer)
    dead(stack, "drop", identifier)
    assert stack.broker.ready(stack.broker.dead) == 0
    assert stack.db.balance(customer) == balance + other_price(stack)
    clean(stack)


def other_price(stack):
    return -stack.db.value("SELECT amount FROM user_transactions WHERE transaction_type='withdrawal' ORDER BY id DESC")


# ---- a bundle that an older consumer put aside whole ----


@pytest.fixture
def put_aside(stack):
    """A bundle of three in the dead-letter queue: one is done by now, one is no message; the members."""
    stack.stop("consumerd-1")
    members = accepted(stack, 3)
    publish(stack, [*members, "17"])
    wait_until(lambda: stack.broker.ready(stack.broker.normal) == 1, 20)
    connection = stack.broker.connect()
    channel = connection.channel()
    method, _, _ = channel.basic_get(stack.broker.normal)
    channel.basic_reject(method.delivery_tag, requeue=False)
    connection.close()
    letters(stack, 1)
    stack.start("consumerd-1")
    publish(stack, members[:1])
    settled(stack, members[:1])
    return members


def test_list_names_the_members_of_a_bundle(stack, put_aside):
    ids = [m["message_identifier"] for m in put_aside]
    first, *lines = dead(stack, "list").splitlines()
    assert first.split("\t")[0] == ids[0] and "a bundle of 4" in first
    assert [line.split("\t")[0].strip() for line in lines] == [*ids, "-"]
    assert [line.split("\t")[-1] for line in lines] == ["1 done", "1 pending", "1 pending", "no recipients known"]
    assert ids[1] in dead(stack, "show", ids[1])
    letters(stack, 1)


def test_replay_restores_every_member(stack, put_aside):
    ids = [m["message_identifier"] for m in put_aside]
    dead(stack, "replay", ids[0], "--dry-run")
    letters(stack, 1)
    assert stack.db.value("SELECT COUNT(*) FROM message_status WHERE status='pending'") == 2
    dead(stack, "replay", ids[0])  # the bundle's own
    settled(stack, put_aside)
    acknowledged(stack)
    sent_once(stack, put_aside)
    letters(stack, 1)  # what is no message is still there, by itself
    assert "not readable" in dead(stack, "list")
    dead(stack, "drop", "--all")
    clean(stack)


def test_drop_refunds_what_is_open(stack, put_aside):
    customer = put_aside[0]["customer_id"]
    before = stack.db.balance(customer)
    dead(stack, "drop", "--all", "--dry-run")
    letters(stack, 1)
    assert stack.db.balance(customer) == before
    dead(stack, "drop", put_aside[0]["message_identifier"])
    assert stack.db.balance(customer) == before + 2
    assert stack.broker.ready(stack.broker.dead) == 0
    clean(stack)


def test_a_member_that_is_named_is_dealt_with_alone(stack, put_aside):
    ids = [m["message_identifier"] for m in put_aside]
    customer = put_aside[0]["customer_id"]
    before = stack.db.balance(customer)
    dead(stack, "drop", ids[1], "--dry-run")
    letters(stack, 1)
    dead(stack, "drop", ids[1])
    assert stack.db.balance(customer) == before + 1
    settled(stack, put_aside[1:2], status="failed")
    settled(stack, put_aside[2:], status="pending")
    letters(stack, 3)  # each of the others by itself, the one that is no message too
    listed = dead(stack, "list")
    assert "a bundle" not in listed and ids[0] in listed and ids[1] not in listed and ids[2] in listed
    dead(stack, "replay", ids[2])
    settled(stack, put_aside[2:])
    letters(stack, 2)
    dead(stack, "drop", "--all")
    assert stack.db.balance(customer) == before + 1
    clean(stack)


@pytest.mark.parametrize("where", ["outbox", "consumer"])
def test_a_drop_spares_what_may_be_reached_yet(stack, put_aside, where):
    """A message that is put off, or in a living consumer's hands; the letter of it stays."""
    spared, dropped = put_aside[1:]
    identifier, customer = spared["message_identifier"], spared["customer_id"]
    before = stack.db.balance(customer)
    if where == "outbox":
        stack.db.execute("INSERT INTO outbox_events(aggregate_type,aggregate_id,event_type,payload,priority,next_run_at)"
                         " VALUES('message',%s,'message.retry.1','{}',1,NOW(6)+INTERVAL 1 HOUR)", identifier)
    else:
        stack.db.execute("UPDATE message_status SET status='sending', owner=(SELECT MAX(id) FROM workers)"
                         " WHERE message_identifier=%s", identifier)
    for words in (["--all", "--dry-run"], ["--all"], [identifier]):
        assert f"message {identifier} is left" in dead(stack, "drop", *words, code=1, everything=True)
    assert stack.db.balance(customer) == before + 1
    settled(stack, [dropped], status="failed")
    settled(stack, [spared], status="pending" if where == "outbox" else "sending")
    letters(stack, 1)
    stack.db.execute("DELETE FROM outbox_events")
    stack.db.execute("UPDATE message_status SET status='pending', owner=0 WHERE status='sending'")
    dead(stack, "replay", identifier)
    settled(stack, [spared])
    letters(stack, 0)
    clean(stack)
