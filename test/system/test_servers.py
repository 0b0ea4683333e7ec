"""DB_HOST as a list: a primary and another server, each of which may take the other's place."""

import time

import pytest
import requests
from harness.proxy import FaultProxy
from harness.stack import Stack
from harness.wait import wait_until
from test_dead import dead
from test_read_only import DAEMONS, copy_database, readiness, wait_for

SOON = 15  # whoever waits for a deadline of a minute is seen
PATIENT = {"REQUEST_DEADLINE_MS": 60000, "DB_STATEMENT_TIMEOUT_MS": 30000}


@pytest.fixture(scope="module")
def second():
    """A second MariaDB."""
    stack = Stack("second")
    try:
        yield stack.up("mariadb")
    finally:
        stack.purge()


class Pair:
    """Two servers, the first behind a proxy; one of them takes writes."""

    def __init__(self, stack, second):
        self.stack, self.second = stack, second
        self.proxy = FaultProxy(stack.values["DB_HOST"], int(stack.values["DB_PORT"]))
        self.names = [f"127.0.0.1:{self.proxy.port}", f"127.0.0.1:{second.values['DB_PORT']}"]
        second.database_root("SET GLOBAL read_only=0")
        copy_database(stack, second, stack.values["DB_NAME"])
        second.database_root("SET GLOBAL read_only=1")
        for name in DAEMONS:
            stack.restart(name, DB_HOST=",".join(self.names))

    def first(self, read_only):
        self.stack.database_root(f"SET GLOBAL read_only={read_only}")

    def promote(self):
        copy_database(self.stack, self.second, self.stack.values["DB_NAME"])
        self.second.database_root("SET GLOBAL read_only=0")

    def state(self, name, server):
        text = requests.get(self.stack.url(name) + "/metrics", timeout=5).text
        line = next(line for line in text.splitlines() if line.startswith(f'db_server_state{{server="{self.names[server]}"'))
        return int(float(line.split()[-1]))

    def close(self):
        for name in DAEMONS:
            self.stack.stop(name)  # before their database goes
        self.proxy.close()
        self.first(0)


@pytest.fixture
def pair(fragile, second):
    made = Pair(fragile(**PATIENT), second)
    yield made
    made.close()


def delivered(stack, customer):
    api = stack.api()
    assert set(api.wait_final(customer, api.sent(customer)["message_identifier"]).values()) == {"done"}


def accepts(api, customer):
    began = time.monotonic()
    answer = api.send(customer)
    assert time.monotonic() - began < SOON
    assert answer.status_code in (200, 503)
    return answer.status_code == 200 and answer.json()["message_identifier"]


def test_who_is_promoted_is_followed(pair):
    stack, api = pair.stack, pair.stack.api()
    customer = api.funded(1000)
    delivered(stack, customer)
    assert [pair.state(name, 0) for name in DAEMONS] == [2] * 3 and [pair.state(name, 1) for name in DAEMONS] == [1] * 3

    pair.first(read_only=1)
    wait_for(stack, (503, "read-only"))
    assert not accepts(api, customer)
    assert [api.balance(customer) for _ in range(20)] == [999] * 20, "who only reads is served by the old one"
    pair.promote()
    began = time.monotonic()
    identifier = wait_until(lambda: accepts(api, customer), SOON)
    assert time.monotonic() - began < 3
    api.wait_final(customer, identifier)
    wait_for(stack, (200, "ok"))
    assert [api.balance(customer) for _ in range(20)] == [998] * 20
    assert stack.db.balance(customer) == 999, "nothing more was written to the old server"
    for name in DAEMONS:
        wait_until(lambda name=name: pair.state(name, 0) == 1 and pair.state(name, 1) == 2, 10)


def test_who_falls_silent_is_left_for_the_next(pair):
    """A statement that waits for an answer is cut: its own deadline is half a minute away."""
    stack, api = pair.stack, pair.stack.api()
    customer = api.funded(1000)
    delivered(stack, customer)
    pair.proxy.stall()
    began = time.monotonic()
    pair.promote()
    identifier = wait_until(lambda: accepts(api, customer), SOON)
    assert time.monotonic() - began < SOON
    api.wait_final(customer, identifier)
    wait_for(stack, (200, "ok"))
    assert api.balance(customer) == 998


def test_two_that_take_writes_are_used_by_nobody(pair):
    stack, api = pair.stack, pair.stack.api()
    customer = api.funded(1000)
    delivered(stack, customer)
    pair.second.database_root("SET GLOBAL read_only=0")
    for name in DAEMONS:
        wait_until(lambda name=name: readiness(stack, name)[0] == 503, 10, lambda name=name: readiness(stack, name))
        assert "database.split" in stack.log_text(name)
    assert not accepts(api, customer)
    assert api.balance(customer) == 999
    pair.second.database_root("SET GLOBAL read_only=1")
    wait_for(stack, (200, "ok"))
    delivered(stack, customer)


def test_verbs_and_starts_choose_too(pair):
    stack = pair.stack
    pair.first(read_only=1)
    pair.promote()
    for name in DAEMONS:
        stack.restart(name, DB_HOST=",".join(pair.names))
    customer = stack.api().funded(1000)
    delivered(stack, customer)
    assert dead(stack, "list", DB_HOST=",".join(pair.names)) == ""
    pair.second.database_root("SET GLOBAL read_only=1")
    wait_for(stack, (503, "read-only"))


class Copy:
    """A replica that stands still: what is told by it is marked."""

    def __init__(self, stack, second):
        self.stack, self.second, self.name = stack, second, stack.values["DB_NAME"]
        second.database_root("SET GLOBAL read_only=0")
        copy_database(stack, second, self.name)
        self.say("UPDATE message_status SET last_error='as the copy has it'")
        self.beaten(0)
        second.database_root("SET GLOBAL read_only=1")

    def say(self, sql):
        self.second.database_root(f"USE `{self.name}`; {sql}")

    def beaten(self, seconds_ago):
        self.say(f"DELETE FROM workers; INSERT INTO workers(name,heartbeat_at) VALUES ('w',NOW(6)-INTERVAL {seconds_ago} SECOND)")

    def reads(self, result):
        text = requests.get(self.stack.url("api-1") + "/metrics", timeout=5).text
        line = next(line for line in text.splitlines() if line.startswith(f'msg_copy_reads_total{{result="{result}"'))
        return int(float(line.split()[-1]))


def test_histories_come_from_a_replica_that_is_young(fragile, second):
    stack = fragile()
    api = stack.api()
    customer = api.funded(1000)
    identifier = api.sent(customer)["message_identifier"]
    api.wait_final(customer, identifier)
    copy = Copy(stack, second)
    proxy = FaultProxy("127.0.0.1", int(second.values["DB_PORT"]))
    stack.restart("api-1", DB_READ_HOST=f"127.0.0.1:{proxy.port}", DB_READ_MAX_LAG_SEC=60)
    api = stack.api()

    def told(**query):
        return [row["last_error"] for row in api.history(user_id=customer, **query)]

    assert told() == ["as the copy has it"]
    assert told(message_identifier=identifier) == [""], "what becomes of a message is the primary's to tell"
    assert api.balance(customer) == 999
    copy.say("UPDATE user_balances SET balance=1")
    assert api.balance(customer) == 999, "money is the primary's"
    assert copy.reads("answered") == 1

    newer = api.sent(customer)["message_identifier"]
    assert len(told()) == 1, "it has not come there yet"
    copy.beaten(61)
    assert len(told()) == 2 and copy.reads("late") == 1, "too old"
    copy.say("DELETE FROM workers")
    assert len(told()) == 2 and copy.reads("late") == 2, "as old as can be"
    copy.beaten(0)
    assert len(told()) == 1
    assert api.wait_final(customer, newer), "as the primary has it"
    proxy.refuse()
    assert len(told()) == 2 and copy.reads("away") == 1
    proxy.heal()
    wait_until(lambda: len(told()) == 1, 10)
    stack.stop("api-1")
    proxy.close()
