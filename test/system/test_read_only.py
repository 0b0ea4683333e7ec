"""A primary that was demoted: it answers, and writes nothing."""

import time

import pytest
import requests
from harness.proxy import FaultProxy
from harness.stack import Stack
from harness.wait import wait_until

DAEMONS = ("api-1", "outboxd-1", "consumerd-1")
# Far longer than any answer here may take: whoever waits for a deadline is seen.
PATIENT = {"REQUEST_DEADLINE_MS": 60000}
SOON = 15


def readiness(stack, name):
    """(status, what it says of the database)"""
    answer = requests.get(stack.url(name) + "/readyz", timeout=5)
    return answer.status_code, answer.json()["dependencies"]["mysql"]


def wait_for(stack, state, names=DAEMONS):
    for name in names:
        wait_until(lambda name=name: readiness(stack, name) == state, 60,
                   lambda name=name: f"{name} is {readiness(stack, name)}, not {state}")


def timed(call, *args, **options):
    began = time.monotonic()
    answer = call(*args, **options)
    return answer, time.monotonic() - began


@pytest.fixture
def demoted(fragile):
    """demoted(stack): no more writes; undone at the end."""
    stacks = []

    def demote(stack):
        stacks.append(stack)
        stack.database_root("SET GLOBAL read_only=1")
    yield demote
    for stack in stacks:
        stack.database_root("SET GLOBAL read_only=0")


def test_nobody_waits_and_everything_comes_back(fragile, demoted):
    stack = fragile(**PATIENT)
    api = stack.api()
    customer = api.funded()
    api.wait_final(customer, api.sent(customer)["message_identifier"])
    before = {name: len(stack.log_text(name).splitlines()) for name in DAEMONS}

    demoted(stack)
    began = time.monotonic()
    while time.monotonic() - began < 8:
        answer, seconds = timed(api.send, customer)
        assert answer.status_code == 503 and answer.json()["error"] == "unavailable"
        assert seconds < SOON
    wait_for(stack, (503, "read-only"))
    assert api.balance(customer) == 999, "who only reads is served"
    for name in DAEMONS:
        lines = stack.log_text(name).splitlines()[before[name]:]
        assert len(lines) <= 12, "\n".join(lines)

    stack.database_root("SET GLOBAL read_only=0")
    wait_for(stack, (200, "ok"))
    assert api.wait_final(customer, api.sent(customer)["message_identifier"])
    assert api.balance(customer) == 998, "what was refused was not charged"


def test_nothing_is_published_that_cannot_be_deleted(fragile, demoted):
    stack = fragile(**PATIENT)
    api = stack.api()
    customer = api.funded()
    stack.stop("outboxd-1")
    stack.stop("consumerd-1")
    sent = [api.sent(customer)["message_identifier"] for _ in range(5)]
    demoted(stack)
    stack.start_without_waiting("outboxd-1")
    wait_until(lambda: stack.status("outboxd-1", "/healthz") == 200, 30)
    wait_for(stack, (503, "read-only"), ["outboxd-1"])
    assert stack.broker.depth(stack.values["NORMAL_QUEUE"]) == 0
    stack.database_root("SET GLOBAL read_only=0")
    stack.start("consumerd-1")
    for identifier in sent:
        api.wait_final(customer, identifier)


@pytest.fixture
def successor():
    """A second MariaDB."""
    stack = Stack("successor")
    try:
        yield stack.up("mariadb")
    finally:
        stack.purge()


def copy_database(old, new, name):
    new.database_root(old.dump(name, "--hex-blob", "--databases").decode())


def test_a_switched_proxy_is_followed(fragile, demoted, successor, request):
    stack = fragile(**PATIENT)
    proxy = FaultProxy(stack.values["DB_HOST"], int(stack.values["DB_PORT"]))
    request.addfinalizer(proxy.close)
    for name in DAEMONS:
        stack.restart(name, DB_HOST="127.0.0.1", DB_PORT=proxy.port)
    api = stack.api()
    customer = api.funded()
    api.wait_final(customer, api.sent(customer)["message_identifier"])
    assert [api.balance(customer) for _ in range(20)] == [999] * 20  # through every reader

    # Old connections go on to the old server, as they do through most proxies.
    demoted(stack)
    copy_database(stack, successor, stack.values["DB_NAME"])
    proxy.target = (successor.values["DB_HOST"], int(successor.values["DB_PORT"]))

    def sends():
        answer, seconds = timed(api.send, customer)
        assert seconds < SOON
        return answer.status_code == 200 and answer.json()["message_identifier"]

    identifier = wait_until(sends, 30)
    wait_for(stack, (200, "ok"))
    api.wait_final(customer, identifier)
    assert [api.balance(customer) for _ in range(20)] == [998] * 20
    assert stack.db.balance(customer) == 999, "nothing more was written to the old server"
    for name in DAEMONS:
        stack.stop(name)  # before their database goes
