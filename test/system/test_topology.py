"""Exchange and queues at the broker: those of others in our place, and those that go away."""

import contextlib
import time

import pytest
import requests
from harness.audit import audit, quiesce
from harness.wait import wait_until

DAEMONS = ("outboxd-1", "consumerd-1")


def readiness(stack, name):
    """(status, body) of /readyz."""
    response = requests.get(stack.url(name) + "/readyz", timeout=5)
    return response.status_code, response.json()


def declare(stack, queue, arguments=None, durable=True):
    connection = stack.broker.connect()
    connection.channel().queue_declare(queue, durable=durable, arguments=arguments or {})
    connection.close()


def delete(stack, queue):
    connection = stack.broker.connect()
    connection.channel().queue_delete(queue)
    connection.close()


QUORUM = {"x-queue-type": "quorum", "x-delivery-limit": 1000000000, "x-dead-letter-strategy": "at-least-once",
          "x-overflow": "reject-publish"}
CLASHES = {"type": ({"x-queue-type": "classic"}, True, "RABBIT_QUEUE_TYPE"),
           "limit": ({**QUORUM, "x-delivery-limit": 20}, True, "RABBIT_DELIVERY_LIMIT"),
           "group size": ({**QUORUM, "x-quorum-initial-group-size": 1}, True, "RABBIT_QUEUE_GROUP_SIZE"),
           "durable": ({}, False, "restart of the broker"),
           "exchange": ({**QUORUM, "x-dead-letter-exchange": "other.dead"}, True, "another RABBIT_MESSAGE_EXCHANGE"),
           "expiry": ({**QUORUM, "x-message-ttl": 60000}, True, "declared by somebody else")}


@pytest.mark.parametrize("clash", CLASHES)
def test_a_queue_of_others_stops_its_lane_alone(world, clash):
    """The other lane delivers; readiness and log name the lane and what fits this clash."""
    arguments, durable, advice = CLASHES[clash]
    stack = world("api", "operators")
    declare(stack, stack.broker.normal, {"x-dead-letter-exchange": stack.broker.dead, **arguments}, durable)
    for name in DAEMONS:
        stack.start_without_waiting(name)
    api = stack.api()
    customer = api.funded(10)
    express = api.sent(customer, type="express")["message_identifier"]
    normal = api.sent(customer)["message_identifier"]
    assert set(api.wait_final(customer, express).values()) == {"done"}
    for name in DAEMONS:
        status, body = wait_until(lambda: (r := readiness(stack, name)) and advice in r[1]["lanes"]["normal"] and r, 20,
                                  lambda: readiness(stack, name))
        assert status == 503 and body["status"] == "not_ready" and body["lanes"]["express"] == "ok", body
        assert set(body["dependencies"].values()) == {"ok"}, body
        told = body["lanes"]["normal"]
        assert stack.broker.normal in told and "..." not in told, told
        others = {words for _, _, words in CLASHES.values()} - {advice}
        assert not any(words in told for words in others), told
        assert told in stack.log_text(name)
        assert stack.status(name, "/readyz?for=traffic") == 200
    delete(stack, stack.broker.normal)
    for name in DAEMONS:
        wait_until(lambda: stack.status(name) == 200, 40, lambda: readiness(stack, name))
    assert set(api.wait_final(customer, normal).values()) == {"done"}
    quiesce(stack)
    assert audit(stack) == []


def test_a_dead_letter_queue_of_others_stops_nothing(world):
    """It is used as it is, with a warning: dead letters have a place to go to."""
    stack = world("api", "operators")
    declare(stack, stack.broker.dead, {"x-queue-type": "classic"})
    for name in DAEMONS:
        stack.start(name)
        _, body = readiness(stack, name)
        assert [w for w in body["warnings"] if stack.broker.dead in w and "RABBIT_QUEUE_TYPE" in w], body
        assert "broker.declared_otherwise" in stack.log_text(name)
    api = stack.api()
    customer = api.funded(10)
    assert set(api.wait_final(customer, api.sent(customer)["message_identifier"]).values()) == {"done"}
    stack.broker.publish(stack.broker.normal, b"not json")
    wait_until(lambda: stack.broker.ready(stack.broker.dead) == 1, 20, "the dead letter arrives")


def test_a_queue_that_comes_back_is_consumed_again(world):
    """Deleted and declared again under a consumer, again and again: soon after each it delivers."""
    stack = world(REPAIR_AFTER_SEC="0")
    api = stack.api()
    customer = api.funded(100)
    arguments = {**QUORUM, "x-dead-letter-exchange": stack.broker.dead}
    seconds = []
    for _ in range(10):
        connection = stack.broker.connect()
        channel = connection.channel()
        channel.queue_delete(stack.broker.normal)
        channel.queue_declare(stack.broker.normal, durable=True, arguments=arguments)
        channel.queue_bind(stack.broker.normal, stack.broker.exchange, stack.broker.normal)
        connection.close()
        began = time.monotonic()
        identifier = api.sent(customer)["message_identifier"]
        assert set(api.wait_final(customer, identifier, 60).values()) == {"done"}
        seconds.append(round(time.monotonic() - began, 1))
    assert max(seconds) < 9, seconds  # 5 s, and what a busy machine adds
    log = stack.log_text("consumerd-1")
    assert "consumer.cancelled" in log or "consumer.was_deaf" in log  # the broker may say nothing
    wait_until(lambda: stack.status("consumerd-1") == 200, 20, "its lane is at work")


def test_readiness_says_that_a_subscription_ended(world):
    stack = world("api", "operators", "consumerd-1")
    seen = []
    delete(stack, stack.broker.express)

    def ended():
        seen.append(readiness(stack, "consumerd-1"))
        return seen[-1][0] == 503

    wait_until(ended, 10, lambda: seen[-1], pause=0.02)
    assert seen[-1][1]["lanes"]["express"] != "ok" and seen[-1][1]["lanes"]["normal"] == "ok", seen[-1]
    wait_until(lambda: stack.status("consumerd-1") == 200, 20, "it subscribes again")


@contextlib.contextmanager
def policy(stack, name, pattern, **definition):
    url = f"{stack.broker.management}/policies/%2F/{name}"
    body = {"pattern": pattern, "definition": definition, "apply-to": "queues"}
    assert requests.put(url, json=body, auth=stack.broker.login, timeout=10).status_code in (201, 204)
    try:
        yield
    finally:
        requests.delete(url, auth=stack.broker.login, timeout=10)


def management(stack):
    user, password = stack.broker.login
    return stack.broker.management.removesuffix("/api").replace("http://", f"http://{user}:{password}@")


def test_a_policy_that_limits_a_queue_is_warned_of(world):
    """At start and in readiness, by its name; a policy that limits nothing is not."""
    stack = world("api", "outboxd", "operators")
    normal, express = stack.broker.normal, stack.broker.express
    with policy(stack, f"limit-{normal}", f"^{normal}$", **{"delivery-limit": 3}), \
            policy(stack, f"other-{express}", f"^{express}$", **{"queue-leader-locator": "balanced"}):
        stack.start("consumerd-1", RABBIT_MANAGEMENT_URI=management(stack))
        wait_until(lambda: readiness(stack, "consumerd-1")[1].get("warnings"), 30, lambda: readiness(stack, "consumerd-1"))
        status, body = readiness(stack, "consumerd-1")
        assert status == 200 and len(body["warnings"]) == 1, body
        for words in (f"queue {normal}", f'"limit-{normal}"', "delivery-limit=3"):
            assert words in body["warnings"][0], body
        log = stack.log_text("consumerd-1")
        assert log.count('"event":"broker.policy_limits"') == 1
        assert stack.broker.login[1] not in log, "the password is no one's business"
    stack.restart("consumerd-1", RABBIT_MANAGEMENT_URI="http://127.0.0.1:1")
    wait_until(lambda: "broker.policies_unknown" in stack.log_text("consumerd-1"), 20, "nobody answers")
    assert stack.status("consumerd-1") == 200
