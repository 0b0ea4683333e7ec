"""Messages whose headers are larger than an AMQP frame may be: the broker hands them on whole, no library takes them
in. They leave the way, their neighbours are delivered, and no lane connects again and again."""

import json
import re

import pytest
from harness.audit import audit, quiesce
from harness.metrics import Metrics
from harness.wait import wait_until
from test_dead import dead, letter  # noqa: F401
from test_tls import DAEMONS, certificates, secure  # noqa: F401
from test_tls import settings as over_tls

KIB = 1 << 10
SIZES = {"200 KiB": 200 * KIB, "1 MiB": KIB * KIB, "10 MiB": 10 * KIB * KIB}
TYPES = ("express", "normal")


MANAGEMENT_MAX = 8 * KIB * KIB  # what its API takes at a time


def bad(stack, queue, size, body="no message at all"):
    if size < MANAGEMENT_MAX:
        return stack.broker.publish_by_management(queue, body, json.dumps({"x": "h" * size}))
    # The call by which RabbitMQ 4 publishes for itself has another name.
    stack.backends.rabbitmqctl("eval", f"""
        Exchange = rabbit_misc:r(<<"/">>, exchange, <<"{stack.broker.exchange}">>),
        Properties = [{{delivery_mode, 2}}, {{headers, [{{<<"x">>, longstr, binary:copy(<<"h">>, {size})}}]}}],
        case erlang:function_exported(rabbit_basic, publish, 4) of
            true -> rabbit_basic:publish(Exchange, <<"{queue}">>, Properties, <<"{body}">>);
            false -> rabbit_queue_type:publish_at_most_once(
                Exchange, rabbit_basic:message(Exchange, <<"{queue}">>, Properties, <<"{body}">>))
        end.""")


def queue_of(stack, kind):
    return stack.broker.express if kind == "express" else stack.broker.normal


def good(stack, api, customer, kind):
    """Accepted, and published by itself: it has its place in the queue."""
    queue = queue_of(stack, kind)
    before = stack.broker.ready(queue)
    identifier = api.sent(customer, type=kind)["message_identifier"]
    wait_until(lambda: stack.broker.ready(queue) > before, 20)
    return identifier


def subscriptions(stack, name="consumerd-1"):
    return {kind: len(re.findall(rf'"event":"consumer.started","lane":"{kind}"', stack.log_text(name))) for kind in TYPES}


def unreadable(stack, name="consumerd-1"):
    return Metrics.of(stack.url(name)).sum("msg_dead_lettered_total", reason="unreadable")


def assert_done(api, customer, identifiers):
    for identifier in identifiers:
        assert set(api.wait_final(customer, identifier, 30).values()) == {"done"}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
def test_neighbours_are_delivered(world, size, queue_type):
    """Behind one, between two, before one; in both lanes; and after a restart."""
    stack = world("operators", "api", "outboxd", RABBIT_QUEUE_TYPE=queue_type)
    api = stack.api()
    customer = api.funded(1000)
    sent = []
    for kind in TYPES:
        for count in (1, 0, 3, 1):  # good ones behind each bad one
            bad(stack, queue_of(stack, kind), SIZES[size])
            sent += [good(stack, api, customer, kind) for _ in range(count)]
        bad(stack, queue_of(stack, kind), SIZES[size])
    stack.up("consumerd")
    assert_done(api, customer, sent)
    wait_until(lambda: unreadable(stack) == 10, 20, lambda: stack.log_text("consumerd-1")[-3000:])
    wait_until(lambda: stack.broker.ready(stack.broker.dead) == 10, 20, lambda: stack.broker.ready(stack.broker.dead))
    assert all(n <= 6 for n in subscriptions(stack).values()), subscriptions(stack)

    # One at a time, into a lane that is at work.
    for kind in TYPES:
        before = subscriptions(stack)[kind]
        bad(stack, queue_of(stack, kind), SIZES[size])
        assert_done(api, customer, [api.sent(customer, type=kind)["message_identifier"]])
        wait_until(lambda: subscriptions(stack)[kind] == before + 1, 10)
    assert stack.status("consumerd-1") == 200
    before = subscriptions(stack)
    stack.restart("consumerd-1")
    assert_done(api, customer, [api.sent(customer, type=kind)["message_identifier"] for kind in TYPES])
    assert subscriptions(stack) == {kind: n + 1 for kind, n in before.items()}
    quiesce(stack)
    assert audit(stack, dead=12) == []


def test_a_message_of_ours_with_such_headers_is_not_lost(world):
    """Whatever has put them on: the repair brings what its letter kept from its recipients."""
    stack = world(REPAIR_AFTER_SEC="1", REPAIR_INTERVAL_MS="200")
    stack.stop("consumerd-1")
    api = stack.api()
    customer = api.funded(10)
    identifier = good(stack, api, customer, "normal")
    _, body = stack.broker.get(stack.broker.normal)
    bad(stack, stack.broker.normal, 200 * KIB, body.decode())
    stack.start("consumerd-1")
    assert_done(api, customer, [identifier])
    quiesce(stack)
    assert audit(stack, dead=1) == []


def test_over_tls(secure, certificates):  # noqa: F811
    """Where the end of what the broker says cannot be made out."""
    stack = secure
    for name in DAEMONS:
        stack.start(name, **over_tls(stack, certificates))
    api = stack.api()
    customer = api.funded(10)
    before = subscriptions(stack)
    for kind in TYPES:
        bad(stack, queue_of(stack, kind), KIB * KIB)
        assert_done(api, customer, [api.sent(customer, type=kind)["message_identifier"] for _ in range(2)])
    wait_until(lambda: unreadable(stack) == 2, 10)
    wait_until(lambda: stack.broker.ready(stack.broker.dead) == 2, 20)
    assert all(subscriptions(stack)[kind] - before[kind] <= 2 for kind in TYPES), subscriptions(stack)
    for name in DAEMONS:
        stack.stop(name)


NESTINGS = {"tables": lambda n: '{"a":' * n + "1" + "}" * n, "lists": lambda n: "[" * n + "1" + "]" * n}


@pytest.mark.parametrize("nesting", NESTINGS)
def test_deep_nesting_stops_nobody(world, nesting):
    """It takes RabbitMQ 4 to 8 s to write that, each time; a lane is silent for less until it asks anew."""
    stack = world()
    depth = 12_000
    stack.broker.publish_by_management(stack.broker.normal, "no message at all", f'{{"x":{NESTINGS[nesting](depth)}}}')
    pid = stack.pid("consumerd-1")
    api = stack.api()
    customer = api.funded(10)
    identifier = api.sent(customer)["message_identifier"]
    assert set(api.wait_final(customer, identifier, 90).values()) == {"done"}
    wait_until(lambda: stack.broker.ready(stack.broker.dead) == 1, 60)
    assert stack.pid("consumerd-1") == pid and stack.status("consumerd-1", "/healthz") == 200


def test_the_dead_letters_beside_one(world):
    """The verbs step over it, say so, and take it away when they are told to."""
    stack = world("operators", "api", "consumerd")
    queue = stack.broker.normal
    for n in (0, 2):
        stack.broker.publish(queue, b"no message", message_id=f"good-{n}")
        wait_until(lambda: stack.broker.ready(stack.broker.dead) == n + 1, 20)
        bad(stack, queue, 200 * KIB)
        wait_until(lambda: stack.broker.ready(stack.broker.dead) == n + 2, 20)
    for _ in range(2):
        text = dead(stack, "list", code=1, everything=True)
        assert "good-0\t" in text and "good-2\t" in text, text
        assert "2 letters cannot be read" in text and "--unreadable" in text, text
        assert stack.broker.ready(stack.broker.dead) == 4
    assert "2 letters cannot be read" in dead(stack, "show", "good-2", everything=True)
    dead(stack, "drop", "good-2")
    assert stack.broker.ready(stack.broker.dead) == 3
    dead(stack, "drop", "--unreadable", "--dry-run")
    wait_until(lambda: stack.broker.ready(stack.broker.dead) == 3, 10)
    assert "that was not all" in dead(stack, "drop", "--all", code=1, everything=True)
    assert stack.broker.ready(stack.broker.dead) == 2
    dead(stack, "drop", "--unreadable")
    wait_until(lambda: stack.broker.ready(stack.broker.dead) == 0, 10)
    assert dead(stack, "list") == ""


def test_more_of_them_than_a_run_steps_over(world):
    stack = world("operators", "api", "consumerd")
    for _ in range(17):
        bad(stack, stack.broker.normal, 200 * KIB)
    wait_until(lambda: stack.broker.ready(stack.broker.dead) == 17, 30)
    stack.broker.publish(stack.broker.normal, b"no message", message_id="good")
    wait_until(lambda: stack.broker.ready(stack.broker.dead) == 18, 20)
    text = dead(stack, "list", code=1, everything=True)
    assert "16 letters cannot be read" in text and "2 letters behind those were not looked at" in text, text
    assert stack.broker.ready(stack.broker.dead) == 18
    dead(stack, "drop", "--unreadable")
    assert "good\t" in dead(stack, "list")
    assert stack.broker.ready(stack.broker.dead) == 1


def test_a_replay_past_some(letter):  # noqa: F811
    """In front of a letter that is replayed, and behind it."""
    stack, customer, identifier = letter
    for n in range(3):
        bad(stack, stack.broker.normal, 200 * KIB)
        wait_until(lambda: stack.broker.ready(stack.broker.dead) == n + 2, 20)
    assert "that was not all" in dead(stack, "replay", "--all", code=1, everything=True)
    assert set(stack.api().wait_final(customer, identifier).values()) == {"done"}
    assert stack.broker.ready(stack.broker.dead) == 3
    quiesce(stack)
    assert audit(stack, dead=3) == []
