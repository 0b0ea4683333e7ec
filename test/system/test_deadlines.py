"""REQUEST_DEADLINE_MS is kept whatever the database does, and what has waited longer is never begun."""

import signal
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from harness.client import assert_error, new_customer
from harness.wait import wait_until

DEADLINE = 3
SLACK = 2.5  # of a busy machine
# One committer, so that whatever was sent before a send that is answered has been decided.
SETTINGS = {"REQUEST_DEADLINE_MS": DEADLINE * 1000, "COMMITTERS": 1}


def timed(call):
    began = time.monotonic()
    return call(), time.monotonic() - began


def all_of(calls):
    """The answers to calls that are made together, each of which has kept the deadline."""
    with ThreadPoolExecutor(len(calls)) as pool:
        answers = list(pool.map(timed, calls))
    for answer, seconds in answers:
        assert seconds < DEADLINE + SLACK, (seconds, answer.text)
    return [answer for answer, _ in answers]


@contextmanager
def locked(stack, table):
    """Nobody else reads or writes the table."""
    with stack.db.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"LOCK TABLES {table} WRITE")
        try:
            yield
        finally:
            cursor.execute("UNLOCK TABLES")


def assert_untouched(stack, customers, amount, codes=None):
    """codes: what their sends were answered; one that is unknown may have been charged."""
    api = stack.api()
    later = new_customer() if codes else customers[0]
    if codes:
        wait_until(lambda: api.top_up(later, 10).status_code == 200, 30, "the database is back")
    wait_until(lambda: api.send(later).status_code == 200, 30, "the database is back")
    codes = codes or ["unavailable"] * len(customers)
    charged = [amount - stack.db.balance(c) for c in customers if c != later]
    assert all(n in (0, code == "outcome_unknown") for n, code in zip(charged, codes)), (charged, codes)
    assert stack.db.value("SELECT COUNT(*) FROM messages") == 1 + sum(charged)


def codes_of(answers):
    """Of sends: what was on its way in one packet when the database began to hang is unknown, and it was one batch."""
    return [assert_error(a, 503, "unavailable", "outcome_unknown")["error"] for a in answers]


def test_a_database_that_hangs_for_longer(fragile, own_servers):
    """It comes back after the deadline and before the statement is given up: too late."""
    stack = fragile("api", **SETTINGS, DB_STATEMENT_TIMEOUT_MS=20000)
    api = stack.api()
    customers = [api.funded(10) for _ in range(20)]
    with own_servers.paused("mariadb"):
        answers = all_of([partial(api.send, c) for c in customers]
                         + [partial(api.top_up, c, 5) for c in customers]
                         + [partial(api.get, path, user_id=c) for c in customers[:5]
                            for path in ("/balance", "/messages/history")])
    codes = codes_of(answers[:20])
    assert "unavailable" in codes
    for answer in answers[20:]:
        assert_error(answer, 503, "unavailable")
    assert_untouched(stack, customers, 10, codes)


def test_a_table_lock(world):
    """What waits for a lock of the whole table is not begun either, and the connections that hang
    in it are given up."""
    stack = world("api", **SETTINGS, DB_STATEMENT_TIMEOUT_MS=2000)
    api = stack.api()
    customers = [api.funded(10) for _ in range(10)]
    with locked(stack, "user_balances"):
        answers = all_of([partial(api.send, c, key=uuid.uuid4().hex) for c in customers]
                         + [partial(api.get, "/balance", user_id=c) for c in customers])
    codes = codes_of(answers[:10])
    for answer in answers[10:]:
        assert_error(answer, 503, "unavailable")
    assert_untouched(stack, customers, 10, codes)


def test_what_has_begun_is_unknown_at_the_deadline(world):
    """Decided, and stuck while it is written: the client hears so in time, and the key tells later."""
    stack = world("api", **SETTINGS, DB_STATEMENT_TIMEOUT_MS=20000)
    api = stack.api()
    jobs = [(api.funded(10), uuid.uuid4().hex) for _ in range(10)]
    with locked(stack, "outbox_events"):
        answers = all_of([partial(api.send, c, key=k) for c, k in jobs])
    codes = [assert_error(a, 503, "outcome_unknown", "unavailable")["error"] for a in answers]
    assert "outcome_unknown" in codes  # those of the batch that is being written
    later = api.funded(10)
    wait_until(lambda: api.send(later).status_code == 200, 30, "the table is free")
    for (customer, key), code in zip(jobs, codes):
        charged = stack.db.balance(customer) == 9
        assert not (charged and code == "unavailable")
        again = api.send(customer, key=key)
        assert again.status_code == 200
        assert ("Idempotency-Replayed" in again.headers) == charged
        assert stack.db.balance(customer) == 9


def test_a_stop_does_not_wait_for_the_deadline(fragile, own_servers):
    """The drain has an end: what is not decided by then is answered, and the process leaves in order."""
    stack = fragile("api-2", REQUEST_DEADLINE_MS=60000)
    api = stack.api(2)
    customer = api.funded(10)
    process = stack.run("api-1", REQUEST_DEADLINE_MS=60000, DRAIN_TIMEOUT_MS=1000, DB_STATEMENT_TIMEOUT_MS=2000)
    wait_until(lambda: stack.status("api-1") == 200, 30, "it is ready")
    with own_servers.paused("mariadb"), ThreadPoolExecutor(1) as pool:
        answer = pool.submit(stack.api(1).send, customer)
        wait_until(lambda: stack.api(1).metrics().value("http_requests_in_flight") > 0, 10, "it is in hand")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
        assert_error(answer.result(), 503, "unavailable", "outcome_unknown")
    wait_until(lambda: api.send(customer).status_code == 200, 30, "the database is back")


def test_a_stop_does_not_wait_for_migrations_that_are_there(world):
    """Whether all are there is asked with a request's patience, not with that of a large table."""
    stack = world("api")
    with locked(stack, "schema_migrations"):
        stack.stop("api-1")
        process = stack.run("api-1", DRAIN_TIMEOUT_MS=1000, DB_STATEMENT_TIMEOUT_MS=2000)
        wait_until(lambda: stack.db.value(
            "SELECT COUNT(*) FROM information_schema.processlist WHERE state LIKE '%%metadata lock%%' AND"
            " info LIKE '%%schema_migrations%%' AND info NOT LIKE '%%MAX(version)%%'"), 30, "its question waits")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=7) == 0  # the patient one would be told of a lock after ten seconds


def test_a_balance_that_is_held(world):
    """The database is there: the answer says what is in the way."""
    stack = world("api", **SETTINGS)
    api = stack.api()
    customer = api.funded(10)
    with stack.db.connect(autocommit=False) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT balance FROM user_balances WHERE user_id=%s FOR UPDATE", (customer,))
        send, top_up, keyed = all_of([partial(api.send, customer), partial(api.top_up, customer, 5),
                                      partial(api.send, customer, key=uuid.uuid4().hex)])
        connection.rollback()
    for answer in send, top_up:
        assert "holds this customer's balance" in assert_error(answer, 503, "unavailable")["message"]
    assert_error(keyed, 409, "idempotency_in_progress")
    assert_untouched(stack, [customer], 10)
