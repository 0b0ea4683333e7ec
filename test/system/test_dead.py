"""msg-consumerd dead: what a person does about letters that could not be delivered."""

import contextlib
import json
import os
import re
import subprocess

import pika
import pytest
import requests

from harness.audit import audit, quiesce
from harness.client import recipient
from harness.proxy import FaultProxy
from harness.stack import binary
from harness.wait import wait_until


def dead(stack, *words, code=0, everything=False, **settings):
    """What the verb prints; everything: with what it says on stderr; with those settings of its own."""
    values = {**stack.values, **settings}
    done = subprocess.run([binary("consumerd"), "dead", *words], capture_output=True, text=True, timeout=60,
                          env={**os.environ, **values, "OPERATORS": f"operatorA={values['OPERATOR_A_URL']}"})
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout + done.stderr if everything else done.stdout


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


def test_a_drop_in_the_middle_of_a_send_is_in_doubt(letter):
    """A consumer died over the first one: it may have sent it, to whomever. The second was not begun."""
    stack, customer, identifier = letter
    stack.db.execute("UPDATE message_status SET status='sending', owner=999999, unknown_operators='gone'"
                     " WHERE position=0")
    dead(stack, "drop", identifier)
    assert list(stack.db.rows("SELECT status, unknown_operators FROM message_status ORDER BY position")) == [
        ("failed", "gone,*"), ("failed", "")]
    assert stack.db.balance(customer) == 10
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


@contextlib.contextmanager
def policy(stack, queue, **definition):
    """A policy of the broker's for one queue."""
    url = f"{stack.broker.management}/policies/%2F/{queue}"
    body = {"pattern": f"^{re.escape(queue)}$", "definition": definition, "apply-to": "queues"}
    assert requests.put(url, json=body, auth=stack.broker.login, timeout=10).status_code in (201, 204)
    try:
        wait_until(lambda: (stack.broker.queue(queue) or {}).get("policy") == queue, 20, "the policy holds")
        yield
    finally:
        requests.delete(url, auth=stack.broker.login, timeout=10)


def test_looks_do_not_wear_a_letter_out(letter):
    """A policy lets letters be delivered twice; looked at any number of times, they are there, whole."""
    stack, customer, identifier = letter
    with policy(stack, stack.broker.dead, **{"delivery-limit": 2}):
        shown = {dead(stack, "show", identifier) for _ in range(3)}
        for _ in range(5):
            listed = dead(stack, "list")
            assert identifier in listed and f"rejected from {stack.broker.normal}" in listed
            dead(stack, "drop", identifier, "--dry-run")
        assert shown == {dead(stack, "show", identifier)}
        wait_until(lambda: stack.broker.ready(stack.broker.dead) == 1, 10)
        dead(stack, "replay", identifier)
    assert set(stack.api().wait_final(customer, identifier).values()) == {"done"}
    assert stack.broker.ready(stack.broker.dead) == 0
    quiesce(stack)
    assert audit(stack) == []


def test_list_says_what_became_of_the_recipients(letter):
    stack, customer, identifier = letter
    assert "\t2 pending\n" in dead(stack, "list")
    stack.broker.publish(stack.broker.normal, b"not json")
    wait_until(lambda: stack.broker.ready(stack.broker.dead) == 2, 20)
    stack.db.execute("UPDATE message_status SET status='done' WHERE message_identifier=%s LIMIT 1", identifier)
    lines = dead(stack, "list").splitlines()
    assert [line.split("\t")[-1] for line in lines] == ["1 pending, 1 done", "no recipients known"]


def test_list_warns_of_letters_that_fell_to_a_limit(world):
    """Our queues have none: it is a policy of the broker's."""
    stack = world("api", "outboxd", "operators", REPAIR_AFTER_SEC="0")
    stack.start("consumerd-1")
    stack.stop("consumerd-1")
    api = stack.api()
    with policy(stack, stack.broker.normal, **{"message-ttl": 100}):
        identifier = api.sent(api.funded(10))["message_identifier"]
        wait_until(lambda: stack.broker.ready(stack.broker.dead) == 1, 20)
    listed = dead(stack, "list", everything=True)
    assert identifier in listed and f"expired from {stack.broker.normal}" in listed
    assert "1 of them fell to a limit that is not ours" in listed


LETTERS = 40  # more than the broker strikes out of a quorum queue at once


def seen(stack, *words):
    """How many letters the verb dealt with."""
    said = dead(stack, *words)
    return said.count({"list": "not readable", "drop": '"dead.dropped"', "replay": '"dead.replayed"'}[words[0]])


def put_letters(stack, n, body=b"not json"):
    """Letters that are no messages, with an id each, at once."""
    connection = stack.broker.connect()
    channel = connection.channel()
    channel.confirm_delivery()
    for i in range(n):
        channel.basic_publish(stack.broker.dead, stack.broker.dead, body,
                              pika.BasicProperties(message_id=f"L{i}"))
    connection.close()
    assert stack.broker.ready(stack.broker.dead) == n


@contextlib.contextmanager
def another_reader(stack, letters):
    """Somebody else has that many letters in hand."""
    connection = stack.broker.connect()
    channel = connection.channel()
    for _ in range(letters):
        channel.basic_get(stack.broker.dead)
    try:
        yield connection
    finally:
        if connection.is_open:
            connection.close()


@pytest.mark.parametrize("kind", ["quorum", "classic"])
def test_a_verb_sees_all_whatever_ran_just_before(world, kind):
    """The broker takes a moment to take back what was looked at."""
    stack = world("api", "consumerd", RABBIT_QUEUE_TYPE=kind)
    put_letters(stack, LETTERS)
    for _ in range(20):
        for look in (("list",), ("drop", "--all", "--dry-run")):
            assert seen(stack, *look) == LETTERS, look
    assert seen(stack, "drop", "--all") == LETTERS
    assert "not readable" not in dead(stack, "list")
    assert stack.broker.ready(stack.broker.dead) == 0


def test_letters_are_back_when_a_verb_ends(world):
    stack = world("api", "consumerd")
    put_letters(stack, LETTERS)
    for _ in range(20):
        dead(stack, "show", "L0")
        assert stack.broker.ready(stack.broker.dead) == LETTERS


def test_a_verb_leaves_what_it_did_not_take(world):
    stack = world("api", "consumerd")
    put_letters(stack, LETTERS)
    for i in range(20):
        dead(stack, "drop", f"L{i}")
        assert stack.broker.ready(stack.broker.dead) == LETTERS - 1 - i
    assert seen(stack, "drop", "--all") == LETTERS - 20
    assert stack.broker.ready(stack.broker.dead) == 0


def test_replay_right_after_a_list(letter):
    stack, customer, identifier = letter
    for _ in range(20):
        assert identifier in dead(stack, "list")
    assert seen(stack, "replay", "--all") == 1
    assert set(stack.api().wait_final(customer, identifier).values()) == {"done"}
    quiesce(stack)
    assert audit(stack) == []


def test_letters_that_another_reader_has(world):
    stack = world("api", "consumerd")
    put_letters(stack, 5)
    with another_reader(stack, 2):
        listed = dead(stack, "list", code=1, everything=True)
        assert listed.count("not readable") == 3 and "another reader" in listed
        assert "body: not json" in dead(stack, "show", "L4")
        assert "another reader" in dead(stack, "show", "L0", code=1, everything=True)
        assert "another reader" in dead(stack, "drop", "--all", code=1, everything=True)
        assert "another reader" in dead(stack, "list", code=1, everything=True)
    assert seen(stack, "drop", "--all") == 2


def test_a_reader_that_goes_is_waited_for(world):
    stack = world("api", "consumerd")
    put_letters(stack, 5)
    with another_reader(stack, 5) as reader, subprocess.Popen(
            [binary("consumerd"), "dead", "drop", "--all"], stdout=subprocess.DEVNULL,
            env={**os.environ, **stack.values, "OPERATORS": f"operatorA={stack.values['OPERATOR_A_URL']}"}) as drop:
        reader.close()
        assert drop.wait(30) == 0
    assert stack.broker.ready(stack.broker.dead) == 0


def test_as_many_letters_as_there_are(world):
    stack = world("api", "consumerd")
    put_letters(stack, 1100)
    assert seen(stack, "list") == 1100
    assert seen(stack, "drop", "--all") == 1100
    assert stack.broker.ready(stack.broker.dead) == 0


def test_an_id_that_no_letter_has(world):
    stack = world("api", "consumerd")
    put_letters(stack, 3)
    assert "no letter no-such" in dead(stack, "drop", "L1", "no-such", code=1, everything=True)
    assert stack.broker.ready(stack.broker.dead) == 2


@pytest.mark.parametrize("kind", ["quorum", "classic"])
def test_more_letters_than_a_verb_may_keep_in_mind(world, kind):
    """What 32 MiB do not hold is left, and said; the next time goes on there."""
    stack = world("api", "consumerd", RABBIT_QUEUE_TYPE=kind)
    put_letters(stack, 160, b"not json" * (32 << 10))
    listed = [dead(stack, "list", code=1, everything=True) for _ in range(2)]
    assert all("left for the next time" in said and 100 < said.count("not readable") < 160 for said in listed)
    assert set(re.findall("L[0-9]+", "".join(listed))) == {f"L{i}" for i in range(160)}
    said = dead(stack, "drop", "--all", code=1, everything=True)
    dropped = said.count('"dead.dropped"')
    assert f"{160 - dropped} letters are left for the next time" in said and "that was not all" in said
    assert stack.broker.ready(stack.broker.dead) == 160 - dropped
    assert seen(stack, "drop", "--all") == 160 - dropped
    assert stack.broker.ready(stack.broker.dead) == 0


def test_a_long_look_keeps_its_connection(world):
    """A slow database: the broker hears from us nevertheless, and everything goes back in order."""
    stack = world("api", "consumerd")
    put_letters(stack, 25)
    proxy = FaultProxy(stack.values["DB_HOST"], int(stack.values["DB_PORT"]))
    try:
        proxy.delay(0.25)
        listed = dead(stack, "list", everything=True, RABBIT_HEARTBEAT_SEC="2", DB_HOST="127.0.0.1",
                      DB_PORT=str(proxy.port))
    finally:
        proxy.close()
    assert listed.count("not readable") == 25 and "not looked up" not in listed
    assert stack.broker.ready(stack.broker.dead) == 25
