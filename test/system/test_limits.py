"""Rate limits and backpressure: who is refused, how, and under which metric."""

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness.audit import audit, quiesce
from harness.client import Api, assert_error, new_customer, recipient
from harness.raw import Server
from harness.wait import wait_until

TOP_UP_MAX = 2**52 - 1
TOO_MANY = "Too many requests. Please retry later."
OVERLOADED = "The system is temporarily overloaded. Please retry later."


def test_limit_of_a_customer(world):
    stack = world("api", USER_RATE_LIMIT_RPS=1, USER_RATE_LIMIT_BURST=1)
    api = stack.api()
    one, two = api.funded(), api.funded()
    responses = [api.send(one) for _ in range(5)]
    assert responses[0].status_code == 200
    refused = [r for r in responses if r.status_code != 200]
    assert refused
    for response in refused:
        assert assert_error(response, 429, "rate_limit_exceeded")["message"] == TOO_MANY
    assert api.send(two).status_code == 200  # the bucket is the customer's own
    metrics = api.metrics()
    assert metrics.value("rate_limited_requests_total", scope="user") == len(refused)
    assert metrics.value("rate_limited_requests_total", scope="global") == 0
    charged = [row for row in stack.db.ledger(one) if row[0] == "withdrawal"]
    assert len(charged) == 5 - len(refused)
    # Time fills the bucket; Retry-After is long enough.
    wait_until(lambda: api.send(one).status_code == 200, 5, "sends are let through again", pause=0.3)


def test_limit_of_a_customers_reads(world):
    stack = world("api", USER_READ_LIMIT_RPS=1, USER_READ_LIMIT_BURST=2, USER_RATE_LIMIT_RPS=1, USER_RATE_LIMIT_BURST=1)
    api = stack.api()
    one, two = api.funded(), api.funded()
    responses = [api.get(path, user_id=one) for path in ("/balance", "/messages/history") * 4]
    assert [r.status_code for r in responses[:2]] == [200, 200]
    refused = [r for r in responses if r.status_code != 200]
    assert len(refused) >= 4
    for response in refused:
        assert assert_error(response, 429, "rate_limit_exceeded")["message"] == TOO_MANY
    assert api.get("/balance", user_id=two).status_code == 200  # the bucket is the customer's own
    assert api.send(one).status_code == 200  # and the reads'
    assert api.metrics().value("rate_limited_requests_total", scope="user") == len(refused)
    wait_until(lambda: api.get("/balance", user_id=one).status_code == 200, 5, "reads are let through again", pause=0.3)


def test_customer_limit_counts_what_was_decoded(world):
    """Bad bodies and other routes do not take a customer's tokens."""
    stack = world("api", USER_RATE_LIMIT_RPS=1, USER_RATE_LIMIT_BURST=2)
    api = stack.api()
    customer = api.funded()
    for _ in range(5):
        assert api.send(customer, text="").status_code == 400
        assert api.top_up(customer, 1).status_code == 200
        assert api.balance(customer)
    assert api.send(customer).status_code == 200


def test_global_limit(world):
    stack = world("api", GLOBAL_RATE_LIMIT_RPS=2, GLOBAL_RATE_LIMIT_BURST=2)
    api = stack.api()
    stack.db.seed_customers(1, 100, first=1)
    responses = [api.get("/balance", user_id=1) for _ in range(10)]
    refused = [r for r in responses if r.status_code != 200]
    assert [r.status_code for r in responses[:2]] == [200, 200] and len(refused) >= 5
    for response in refused:
        assert assert_error(response, 429, "rate_limit_exceeded")["message"] == TOO_MANY
    for path in ("/healthz", "/readyz", "/metrics", "/status", "/status.json") * 5:
        assert api.get(path).status_code == 200
    before = api.metrics().value("rate_limited_requests_total", scope="global")
    assert before == len(refused)
    # All other routes share it, unknown ones too.
    codes = {api.request(method, path, data=b"{}").status_code for method, path in
             (("POST", "/messages/send"), ("GET", "/messages/history"), ("POST", "/balance/add"),
              ("GET", "/nothing")) for _ in range(3)}
    assert 429 in codes
    assert api.metrics().value("rate_limited_requests_total", scope="global") > before


def test_limits_of_zero_are_off(world):
    stack = world("api", GLOBAL_RATE_LIMIT_RPS=0, USER_RATE_LIMIT_RPS=0, USER_RATE_LIMIT_BURST=1,
                  GLOBAL_RATE_LIMIT_BURST=1)
    api = stack.api()
    customer = api.funded()
    assert {api.send(customer).status_code for _ in range(50)} == {200}


def test_default_limits(world):
    """Twenty sends a second of one customer, as documented; nobody else is affected."""
    stack = world("api", GLOBAL_RATE_LIMIT_RPS=1000, GLOBAL_RATE_LIMIT_BURST=1000,
                  USER_RATE_LIMIT_RPS=20, USER_RATE_LIMIT_BURST=20)
    api = stack.api()
    customer, other = api.funded(), api.funded()
    with ThreadPoolExecutor(12) as pool:  # one after the other may be no faster than what is allowed
        codes = list(pool.map(lambda _: api.send(customer).status_code, range(120)))
    assert set(codes) == {200, 429} and codes.count(200) >= 20
    assert api.send(other).status_code == 200


@pytest.fixture
def pressed(world):
    """An API with a threshold of 0 and one pending row put in by hand."""
    stack = world("api", BACKPRESSURE_ENABLED="true", BACKPRESSURE_OUTBOX_PENDING_THRESHOLD=0)
    stack.db.seed_customers(1, 100, first=1)
    return stack


def put_row_by_hand(stack):
    stack.db.execute(
        "INSERT INTO outbox_events (aggregate_type, aggregate_id, event_type, payload, priority, status)"
        " VALUES ('message', CONCAT('manual-backpressure-', UNIX_TIMESTAMP()), 'message.send',"
        " JSON_OBJECT(), 0, 'pending')")
    api = stack.api()
    wait_until(lambda: api.metrics().value("current_outbox_pending_events") == 1, 5,
               "the gauge sees the row")


def test_backpressure_by_a_row_put_in_by_hand(pressed):
    api = pressed.api()
    put_row_by_hand(pressed)
    before = pressed.db.counts(), pressed.db.balance(1)
    for n in range(1, 4):
        body = assert_error(api.send(1), 503, "system_overloaded")
        assert body == {"error": "system_overloaded", "message": OVERLOADED}
        assert api.metrics().value("backpressure_rejections_total") == n
    assert (pressed.db.counts(), pressed.db.balance(1)) == before
    assert api.get("/readyz").status_code == 200 and api.balance(1) == 100
    assert api.top_up(1, 5).status_code == 200  # only sends are refused
    assert api.send(1, text="").status_code == 400  # after validation
    pressed.db.execute("DELETE FROM outbox_events")
    wait_until(lambda: api.send(1).status_code == 200, 5, "sends are accepted again")


def test_what_is_not_due_or_of_another_kind_is_no_backlog(pressed):
    pressed.db.execute(
        "INSERT INTO outbox_events (kind, aggregate_type, aggregate_id, event_type, payload, next_run_at) VALUES"
        " (1, 'message', 'later', 'message.send', JSON_OBJECT(), NOW(6) + INTERVAL 1 HOUR),"
        " (99, 'message', 'other', 'message.send', JSON_OBJECT(), NULL)")
    put_row_by_hand(pressed)  # the gauge says 1: the other two are in the same table, and not counted
    pressed.db.execute("UPDATE outbox_events SET next_run_at = NOW(6) WHERE aggregate_id = 'later'")
    wait_until(lambda: pressed.api().metrics().value("current_outbox_pending_events") == 2, 5,
               "a row whose time has come is counted")


def test_backpressure_does_not_block_a_replay(pressed):
    api = pressed.api()
    key = uuid.uuid4().hex
    first = api.send(1, key=key)
    assert first.status_code == 200
    wait_until(lambda: api.metrics().value("current_outbox_pending_events") == 1, 5,
               "the gauge sees the send")
    again = api.send(1, key=key)
    assert again.status_code == 200 and again.json() == first.json()
    assert again.headers["Idempotency-Replayed"] == "true"
    assert_error(api.send(1, key=uuid.uuid4().hex), 503, "system_overloaded")
    assert pressed.db.balance(1) == 99


def test_backpressure_counts_what_was_accepted_since_the_sample(world):
    stack = world("api", BACKPRESSURE_OUTBOX_PENDING_THRESHOLD=9, BACKPRESSURE_SAMPLE_MS=10000)
    stack.db.seed_customers(1, 100, first=1)
    api = stack.api()
    codes = [api.send(1).status_code for _ in range(30)]
    assert codes == [200] * 10 + [503] * 20
    assert stack.db.balance(1) == 90


def test_backpressure_switched_off(world):
    stack = world("api", BACKPRESSURE_ENABLED="false", BACKPRESSURE_OUTBOX_PENDING_THRESHOLD=0)
    stack.db.seed_customers(1, 100, first=1)
    put_row_by_hand(stack)
    assert {stack.api().send(1).status_code for _ in range(10)} == {200}


@pytest.fixture
def small_packets(own_servers, fragile):
    """An API at a server that takes 64 KiB at a time."""
    stack = fragile("api", REQUEST_DEADLINE_MS=20000)
    limit = stack.db.value("SELECT @@GLOBAL.max_allowed_packet")
    own_servers.database_root("SET GLOBAL max_allowed_packet=65536")
    stack.restart("api-1", REQUEST_DEADLINE_MS=20000)
    yield stack
    own_servers.database_root(f"SET GLOBAL max_allowed_packet={limit}")


def test_more_than_the_database_takes_at_once(small_packets):
    stack, api = small_packets, small_packets.api()
    customer = api.funded(10000)
    numbers = [recipient(n) for n in range(1000)]
    body = assert_error(api.send(customer, numbers), 413, "body_too_large")
    assert body["field"] == "recipients"
    # Each fits by itself. They wait behind the balance row until they are one batch.
    with stack.db.connect(autocommit=False) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT balance FROM user_balances WHERE user_id=%s FOR UPDATE", (customer,))
        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(api.send, customer, numbers[:300]) for _ in range(8)]
            wait_until(lambda: api.metrics().value("http_requests_in_flight") > 8, 10, "all are in hand")
            connection.rollback()
            assert {w.result().status_code for w in waiting} == {200}
    assert api.balance(customer) == 10000 - 8 * 300
    assert api.top_up(customer, 1).json()["balance"] == 10001 - 8 * 300
    assert stack.log_text("api-1").count("commit.packet_too_large") == 1


def test_what_a_balance_may_be(world):
    """Top-ups stop at half of what JavaScript reads exactly; a refund is never refused."""
    stack = world(REPAIR_AFTER_SEC="0")
    for operator in stack.operators:
        operator.faults(reject_prefix="0999")
    api, customer = stack.api(), new_customer()
    body = assert_error(api.top_up(customer, TOP_UP_MAX + 1), 400, "invalid_input")
    assert body["field"] == "balance" and str(TOP_UP_MAX) in body["message"]
    assert api.top_up(customer, TOP_UP_MAX).json()["balance"] == TOP_UP_MAX
    body = assert_error(api.top_up(customer, 1), 400, "invalid_input")
    assert body["field"] == "balance" and str(TOP_UP_MAX) in body["message"]
    stack.stop("consumerd-1")
    identifier = api.sent(customer, ["0999"], type="express")["message_identifier"]
    assert_error(api.top_up(customer, 4), 400, "invalid_input")
    assert api.top_up(customer, 3).json()["balance"] == TOP_UP_MAX
    stack.start("consumerd-1")
    assert set(api.wait_final(customer, identifier).values()) == {"failed"}
    assert api.balance(customer) == TOP_UP_MAX + 3
    quiesce(stack)
    assert audit(stack) == []


def test_what_costs_nothing_needs_no_balance(world):
    """A customer who has never had a balance sends at price 0, with and without a key; what fails
    is given back all the same."""
    stack = world(PRICE_NORMAL=0, REPAIR_AFTER_SEC="0")
    for operator in stack.operators:
        operator.faults(reject_prefix="0999")
    api = stack.api()
    plain, keyed = new_customer(), new_customer()
    first = api.sent(plain, ["0912", "0999"])
    assert first["price"] == 0
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: api.send(keyed, ["0912"], key="k"), range(10)))
    assert {a.status_code for a in answers} == {200}
    assert len({a.json()["message_identifier"] for a in answers}) == 1
    assert_error(api.send(plain, type="express"), 402, "insufficient_balance")
    assert api.wait_final(plain, first["message_identifier"]) == {"0912": "done", "0999": "failed"}
    quiesce(stack)
    assert audit(stack) == []
    assert api.balance(plain) == api.balance(keyed) == 0


def test_a_crowd_leaves_the_descriptors_of_the_database(world):
    """128 of them, and 1,500 clients who say nothing before each send: it is committed within a second."""
    stack = world("api")
    same = {name: value for name, value in stack.values.items() if name.startswith(("DB_", "RABBIT_"))}
    server = Server("api", files=128, API_AUTH="off", **{**same, **stack.settings})
    api, customer = Api(f"http://127.0.0.1:{server.port}"), stack.api().funded()
    try:
        wait_until(lambda: api.get("/readyz").status_code == 200, 30, "ready")
        for _ in range(3):
            crowd = [server.dial() for _ in range(1500)]
            began = time.monotonic()
            api.sent(customer)
            assert time.monotonic() - began < 1
            for s in crowd:
                s.close()
        assert api.get("/readyz").status_code == 200
    finally:
        assert server.stop() == 0
