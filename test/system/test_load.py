"""Thousands of messages over two replicas of everything, with and without something breaking in the
middle: each is charged once, accepted once over both operators, and done.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness.audit import accepted_by_both, audit, quiesce, take_ghosts
from harness.client import Api, Load, assert_error
from harness.wait import wait_until

MESSAGES = int(os.environ.get("LOAD_MESSAGES") or 5_000)  # where something breaks a quarter of the way
CUSTOMERS = 2_000
FUNDS = 100


def check(stack, load, deadline=90):
    """All of it is done, exactly once, and the sums are right."""
    quiesce(stack, deadline)
    db = stack.db
    assert db.rows("SELECT status, COUNT(*) FROM message_status GROUP BY status") \
        == (("done", load.count),)
    assert db.value("SELECT COUNT(*) FROM messages") == load.count
    identifiers = {row[0] for row in db.rows("SELECT message_identifier FROM messages")}
    assert identifiers == set(load.accepted.values())
    assert audit(stack) == []
    spent = db.value("SELECT SUM(price * recipients) FROM messages")
    assert db.value("SELECT SUM(balance) FROM user_balances") == CUSTOMERS * FUNDS - spent
    accepted = sum(o.counts()["accepted"] for o in stack.operators)
    assert accepted == load.count + len(accepted_by_both(stack))


def begin(make, count=MESSAGES, **settings):
    stack = make(replicas=2, **settings)
    customers = stack.db.seed_customers(CUSTOMERS, FUNDS)
    return stack, Load(stack.apis(), customers, count)


def test_ten_thousand(world):
    stack, load = begin(world, 10_000)
    with load:
        load.finish()
    check(stack, load)
    assert load.repeats == 0
    assert accepted_by_both(stack) == set()
    assert sum(o.counts()["duplicates"] for o in stack.operators) == 0


def test_bursts_of_many_then_one_alone(shared):
    """Thousands of customers at once, then one customer from every connection."""
    first = 900_000_000
    customers = shared.db.seed_customers(CUSTOMERS, FUNDS, first=first)
    with Load(shared.apis(), customers, 3000, connections=32, seed=2) as load:
        load.finish()
    alone = shared.db.seed_customers(1, 2000, first=first + CUSTOMERS)
    with Load(shared.apis(), alone, 1000, connections=32, express_share=0, seed=3) as load:
        load.finish()
    assert load.repeats == 0
    assert shared.db.balance(alone[0]) == 1000
    assert shared.api().balance(alone[0]) == 1000
    quiesce(shared)
    assert shared.db.value("SELECT COUNT(*) FROM message_status WHERE user_id=%s AND status='done'",
                           alone[0]) == 1000


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_mariadb_restarts(fragile, own_servers, how):
    stack, load = begin(fragile)
    with load:
        load.wait_accepted(MESSAGES // 4)
        if how == "restart":
            own_servers.restart("mariadb")
        else:
            own_servers.kill("mariadb")
            own_servers.start("mariadb")
        load.finish()
    if how == "kill":
        quiesce(stack, 90)
        take_ghosts(stack)
    check(stack, load)


def test_rabbitmq_restarts(fragile, own_servers):
    stack, load = begin(fragile)
    with load:
        load.wait_accepted(MESSAGES // 4)
        own_servers.restart("rabbitmq")
        load.finish()
    check(stack, load)


def test_rabbitmq_away_for_thirty_seconds(fragile, own_servers):
    """Sends are accepted meanwhile, and all arrive afterwards."""
    stack, load = begin(fragile)
    api = stack.api()
    with load:
        load.wait_accepted(MESSAGES // 4)
        own_servers.kill("rabbitmq")
        gone = time.monotonic()
        load.finish()
    assert load.repeats == 0  # nobody was turned away
    body = wait_until(lambda: not_ready(api), 5, "readiness names the broker")
    assert body["dependencies"] == {"mysql": "ok", "rabbitmq": "unavailable"}
    for _ in range(3):
        assert api.get("/readyz", **{"for": "traffic"}).status_code == 200
        assert api.get("/healthz").status_code == 200
    for name in ("outboxd-1", "consumerd-1"):
        answer = Api(stack.url(name)).get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["dependencies"]["rabbitmq"] == "unavailable"
    waiting = stack.db.value("SELECT COUNT(*) FROM outbox_events")
    assert waiting > 0
    # The outage itself is what is tested; meanwhile sends go on being accepted.
    number = 0
    while time.monotonic() - gone < 30:
        stack.db.seed_customers(1, 10, first=10_000_000 + number)
        assert api.send(10_000_000 + number).status_code == 200
        number += 1
        wait_until(lambda: api.get("/readyz", **{"for": "traffic"}).status_code == 200, 2, pause=0.2)
    assert stack.db.value("SELECT COUNT(*) FROM outbox_events") >= waiting + number
    assert stack.db.value("SELECT COALESCE(MAX(attempts), 0) FROM outbox_events") == 0
    own_servers.start("rabbitmq")
    wait_until(lambda: api.get("/readyz").status_code == 200, 30, "ready again")
    quiesce(stack, 90)
    assert audit(stack) == []
    assert stack.db.rows("SELECT status, COUNT(*) FROM message_status GROUP BY status") \
        == (("done", MESSAGES + number),)


def not_ready(api):
    answer = api.get("/readyz")
    return answer.json() if answer.status_code == 503 else None


def test_every_daemon_killed_in_turn(world):
    stack, load = begin(world)
    with load:
        for step, name in enumerate(("api-1", "outboxd-1", "consumerd-1", "api-2", "outboxd-2",
                                     "consumerd-2"), 1):
            load.wait_accepted(MESSAGES * step // 8)
            stack.kill(name)
            stack.start(name)
        load.finish()
    assert load.repeats > 0  # at least the killed API was noticed
    check(stack, load)


@pytest.mark.parametrize("name", ["outboxd-1", "consumerd-1"])
def test_only_replica_killed_with_work_in_hand(world, name):
    """The one process that had the work is killed while it waits for slow operators."""
    stack = world()
    customers = stack.db.seed_customers(CUSTOMERS, FUNDS)
    for operator in stack.operators:
        operator.faults(latency_ms=100, latency_max_ms=300)
    load = Load(stack.apis(), customers, 1500)
    with load:
        load.wait_accepted(700)
        wait_until(lambda: stack.db.value("SELECT COUNT(*) FROM message_status WHERE status='done'"),
                   10, "deliveries flow")
        stack.kill(name)
        load.finish()
        stack.start(name)
    for operator in stack.operators:
        operator.heal()
    check(stack, load)


def test_database_that_hangs(fragile, own_servers):
    """MariaDB stops answering without closing a connection: 503 within the deadline, and the key
    tells later what became of it."""
    stack = fragile(REQUEST_DEADLINE_MS=2000)
    api = stack.api()
    customer = api.funded(100)
    keys = [f"hang-{i}" for i in range(20)]
    with own_servers.paused("mariadb"):
        began = time.monotonic()
        assert_error(api.send(customer, key=keys[0]), 503, "unavailable", "outcome_unknown")
        assert_error(api.get("/balance", user_id=customer), 503, "unavailable")
        assert time.monotonic() - began < 20
        body = wait_until(lambda: not_ready(api), 5, "readiness names the database")
        assert body["dependencies"]["mysql"] == "unavailable"
        began = time.monotonic()
        assert api.get("/readyz").status_code == 503
        assert time.monotonic() - began < 2
        assert api.get("/readyz", **{"for": "traffic"}).status_code == 503
        assert api.get("/healthz").status_code == 200
    for key in keys:
        wait_until(lambda: api.send(customer, key=key).status_code == 200, 30,
                   "accepted once the database answers", pause=0.2)
    quiesce(stack)
    assert api.balance(customer) == 80
    assert audit(stack) == []


def test_database_away(fragile, own_servers):
    stack = fragile()
    api = stack.api()
    customer = api.funded(100)
    own_servers.kill("mariadb")
    for response in (api.send(customer), api.top_up(customer, 5), api.get("/balance", user_id=customer),
                     api.get("/messages/history", user_id=customer)):
        assert_error(response, 503, "unavailable")
    own_servers.start("mariadb")
    wait_until(lambda: api.send(customer).status_code == 200, 30, "sends work again", pause=0.2)
    for name in ("api-1", "outboxd-1", "consumerd-1"):
        wait_until(lambda: stack.status(name) == 200, 20,
                   f"{name} is ready again", pause=0.2)
    quiesce(stack)
    assert audit(stack) == []
    assert api.balance(customer) == 99


def test_both_servers_away_at_the_start(fragile, own_servers):
    """The daemons start before what they need, say so, and go on alone."""
    stack = fragile("operators")
    own_servers.kill("mariadb")
    own_servers.kill("rabbitmq")
    for name in ("api-1", "outboxd-1", "consumerd-1"):
        stack.start_without_waiting(name)
    for name in ("api-1", "outboxd-1", "consumerd-1"):
        wait_until(lambda: stack.status(name, "/healthz") == 200, 10, f"{name} is alive without database and broker")
    assert not_ready(Api(stack.url("api-1")))["dependencies"] == {"mysql": "unavailable", "rabbitmq": "unavailable"}
    own_servers.up("backends")
    for name in ("api-1", "outboxd-1", "consumerd-1"):
        wait_until(lambda: stack.status(name) == 200, 30,
                   f"{name} is ready", pause=0.2)
    api = stack.api()
    customer = api.funded(10)
    identifier = api.sent(customer)["message_identifier"]
    assert set(api.wait_final(customer, identifier).values()) == {"done"}


def test_a_fault_of_ours_is_500_and_ends_nothing(world):
    stack = world("api")
    api = stack.api()
    customer = api.funded(100)
    # A column too narrow for what was promised: a fault that no retry mends.
    stack.db.execute("ALTER TABLE messages MODIFY text VARCHAR(5) NOT NULL")
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda n: api.send(customer, text="x" * (2 + 10 * (n % 2))), range(20)))
    for n, answer in enumerate(answers):
        if n % 2:
            assert_error(answer, 500, "internal_error")
        else:
            assert answer.status_code == 200, answer.text  # neighbours in a batch do not suffer
    assert stack.db.balance(customer) == 90
    assert api.get("/healthz").status_code == 200
    stack.db.execute("ALTER TABLE messages MODIFY text VARCHAR(4096) NOT NULL")
    assert api.sent(customer, text="x" * 12)["price"] == 1
    assert api.balance(customer) == 89
