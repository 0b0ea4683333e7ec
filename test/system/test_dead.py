"""msg-consumerd dead: what a person does about letters that could not be delivered."""

import json
import os
import subprocess

import pytest

from harness.audit import audit, quiesce
from harness.client import recipient
from harness.stack import binary
from harness.wait import wait_until


def dead(stack, *words, code=0):
    values = stack.values
    done = subprocess.run([binary("consumerd"), "dead", *words], capture_output=True, text=True, timeout=60,
                          env={**os.environ, **values, "OPERATORS": f"operatorA={values['OPERATOR_A_URL']}"})
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout


@pytest.fixture
def letter(world):
    """A stack and an accepted message whose only copy lies in the dead-letter queue."""
    stack = world(REPAIR_AFTER_SEC="0")
    stack.stop("consumerd-1")
    api = stack.api()
    customer = api.funded(10)
    identifier = api.sent(customer, [recipient(1), recipient(2)])["message_identifier"]
    wait_until(lambda: stack.broker.ready(stack.broker.normal) == 1, 20)
    connection = stack.broker.connect()
    channel = connection.channel()
    method, _, _ = channel.basic_get(stack.broker.normal)
    channel.basic_reject(method.delivery_tag, requeue=False)
    connection.close()
    wait_until(lambda: stack.broker.ready(stack.broker.dead) == 1, 20)
    stack.start("consumerd-1")
    return stack, customer, identifier


def test_list_and_show_take_nothing(letter):
    stack, customer, identifier = letter
    assert identifier in dead(stack, "list")
    shown = dead(stack, "show", identifier)
    assert json.loads(shown.split("body: ")[1].split("\n{\"ts\"")[0])["message_identifier"] == identifier
    dead(stack, "show", "no-such", code=1)
    wait_until(lambda: stack.broker.ready(stack.broker.dead) == 1, 10)


def test_replay_delivers(letter):
    stack, customer, identifier = letter
    dead(stack, "replay", identifier, "--dry-run")
    wait_until(lambda: stack.broker.ready(stack.broker.dead) == 1, 10)
    assert set(stack.api().statuses(customer, identifier).values()) == {"pending"}
    dead(stack, "replay", identifier)
    assert set(stack.api().wait_final(customer, identifier).values()) == {"done"}
    quiesce(stack)
    assert audit(stack) == []


def test_drop_refunds_once(letter):
    stack, customer, identifier = letter
    dead(stack, "drop", identifier, "--dry-run")
    wait_until(lambda: stack.broker.ready(stack.broker.dead) == 1, 10)
    assert stack.db.balance(customer) == 8
    dead(stack, "drop", identifier)
    assert stack.db.balance(customer) == 10
    assert set(stack.api().statuses(customer, identifier).values()) == {"failed"}
    quiesce(stack)
    assert audit(stack) == []


def test_a_letter_that_is_no_message(world):
    stack = world()
    stack.broker.publish(stack.broker.normal, b"not json")
    wait_until(lambda: stack.broker.ready(stack.broker.dead) == 1, 20)
    assert "not readable" in dead(stack, "list")
    dead(stack, "replay", "--all", code=1)
    wait_until(lambda: stack.broker.ready(stack.broker.dead) == 1, 10)
    dead(stack, "drop", "#1")
    assert stack.broker.ready(stack.broker.dead) == 0
