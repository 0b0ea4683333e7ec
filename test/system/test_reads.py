"""History and balance: order, pages, filters."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from harness.client import assert_error, new_customer
from harness.wait import wait_until
from harness.witness import numbers


def pages(api, path, key, **parameters):
    """All pages, one after the other."""
    cursor, found = None, []
    for _ in range(1000):
        extra = {"cursor": cursor} if cursor else {}
        response = api.get(path, **parameters, **extra)
        assert response.status_code == 200, response.text
        page = response.json()
        assert len(page[key]) <= parameters.get("limit", 100)
        found.append(page[key])
        cursor = page["next_cursor"]
        if not cursor:
            return found
    raise AssertionError("the pages do not end")


@pytest.fixture(scope="module")
def stack(module_world):
    return module_world("api")


def test_unknown_customer(stack):
    customer = new_customer()
    api = stack.api()
    assert api.get("/balance", user_id=customer).json() == {"balance": 0, "transactions": [],
                                                             "next_cursor": None}
    assert api.get("/messages/history", user_id=customer).json() == {"history": [],
                                                                     "next_cursor": None}
    assert stack.db.rows("SELECT 1 FROM user_balances WHERE user_id=%s", customer) == ()


def test_balance_pages(stack):
    api = stack.api()
    customer = new_customer()
    ids = [api.top_up(customer, n).json()["transaction_id"] for n in range(1, 26)]
    found = pages(api, "/balance", "transactions", user_id=customer, limit=10)
    assert [len(p) for p in found] == [10, 10, 5]
    rows = [t for page in found for t in page]
    assert [t["amount"] for t in rows] == list(range(25, 0, -1))
    assert [t["transaction_id"] for t in rows] == ids[::-1]
    assert all(t["transaction_type"] == "deposit" and t["transaction_id"].startswith("d-")
               for t in rows)
    whole = api.get("/balance", user_id=customer).json()
    assert whole["balance"] == sum(range(26)) and len(whole["transactions"]) == 25
    assert whole["next_cursor"] is None


def test_balance_pages_are_stable_while_rows_arrive(stack):
    api = stack.api()
    customer = new_customer()
    for n in range(1, 11):
        api.top_up(customer, n)
    first = api.get("/balance", user_id=customer, limit=5).json()
    api.top_up(customer, 99)
    second = api.get("/balance", user_id=customer, limit=5, cursor=first["next_cursor"]).json()
    assert [t["amount"] for t in first["transactions"] + second["transactions"]] \
        == list(range(10, 0, -1))


def test_default_page_is_a_hundred(stack):
    api = stack.api()
    customer = api.funded(1000)
    api.sent(customer, [f"0912{i}" for i in range(150)])
    first = api.get("/messages/history", user_id=customer).json()
    assert len(first["history"]) == 100 and first["next_cursor"]
    assert len(api.history(user_id=customer, limit=1000)) == 150
    rest = api.history(user_id=customer, cursor=first["next_cursor"])
    assert len(rest) == 50


def test_history_pages(stack):
    api = stack.api()
    customer, other = api.funded(1000), api.funded(1000)
    for n in range(12):
        api.sent(customer, [f"0912{n}1", f"0912{n}2"], type="express" if n % 2 else "normal")
        api.sent(other, ["0999"])
    found = pages(api, "/messages/history", "history", user_id=customer, limit=7)
    rows = [r for page in found for r in page]
    assert len(rows) == 24 and all(r["user_id"] == customer for r in rows)
    assert [int(r["recipient"][4:-1]) for r in rows] == [n for n in range(11, -1, -1) for _ in "12"]
    assert len({r["recipient"] for r in rows}) == 24
    assert {r["type"] for r in rows} == {"normal", "express"}


def test_history_filters(stack):
    api = stack.api()
    customer = api.funded(1000)
    sent = [api.sent(customer, [f"0912{n}0", f"0912{n}1"])["message_identifier"] for n in range(6)]
    states = ["pending", "sending", "done", "failed", "done", "done"]
    for identifier, state in zip(sent, states):
        stack.db.execute("UPDATE message_status SET status=%s WHERE message_identifier=%s",
                         state, identifier)
    for state in ("pending", "sending", "done", "failed"):
        expected = [i for i, s in zip(sent, states) if s == state]
        for spelling in (state, state.upper(), state.capitalize()):
            rows = api.history(user_id=customer, status=spelling)
            assert sorted({r["message_identifier"] for r in rows}) == sorted(expected)
            assert len(rows) == 2 * len(expected) and {r["status"] for r in rows} == {state}
    rows = api.history(user_id=customer, message_identifier=sent[2])
    assert [r["recipient"] for r in rows] in (["091221", "091220"], ["091220", "091221"])
    assert api.history(user_id=customer, message_identifier=sent[2], status="failed") == []
    assert len(api.history(user_id=customer, message_identifier=sent[3], status="failed")) == 2
    assert api.history(user_id=new_customer(), message_identifier=sent[2]) == []
    found = pages(api, "/messages/history", "history", user_id=customer, status="done", limit=4)
    assert [len(p) for p in found] == [4, 2]


def test_the_last_page_says_so_full_or_not(stack):
    api = stack.api()
    customer = new_customer()
    for n in range(1, 7):
        api.top_up(customer, 10 * n)
    sent = [api.sent(customer, [f"0912{n}{i}" for i in range(2)])["message_identifier"] for n in range(3)]
    stack.db.execute("UPDATE message_status SET status='done' WHERE message_identifier=%s", sent[0])
    stack.db.execute("UPDATE message_status SET status='failed' WHERE message_identifier=%s", sent[1])
    for rows, path, key, parameters in (
            (9, "/balance", "transactions", {}), (6, "/messages/history", "history", {}),
            (2, "/messages/history", "history", {"status": "done"}),
            (2, "/messages/history", "history", {"status": "failed"}),
            (2, "/messages/history", "history", {"message_identifier": sent[2]})):
        for limit in (1, 2, 3, rows, rows + 1):
            found = pages(api, path, key, user_id=customer, limit=limit, **parameters)
            assert [len(p) for p in found] == [limit] * (rows // limit) + [rows % limit] * (rows % limit > 0)


def test_a_search_that_stops_early_has_a_cursor(world):
    """A rare state in a long history: pages may hold little, and the cursor leads on."""
    stack = world("api", READ_SCAN_ROWS=1000)
    api = stack.api()
    customer = api.funded(2002)
    identifiers = [api.sent(customer, [f"0912{n}"])["message_identifier"] for n in range(2)]
    for _ in range(2):
        api.sent(customer, [f"0912{n}" for n in range(1000)])
    for identifier in identifiers:
        stack.db.execute("UPDATE message_status SET status='failed' WHERE message_identifier=%s", identifier)
    for limit, lengths in ((1, [0, 0, 1, 1]), (2, [0, 0, 2]), (5, [0, 0, 2])):
        found = pages(api, "/messages/history", "history", user_id=customer, status="failed", limit=limit)
        assert [len(p) for p in found] == lengths
    # What stands exactly at the end of what is looked at is neither lost nor told twice.
    rows = stack.db.rows("SELECT id FROM message_status WHERE user_id=%s ORDER BY id DESC", customer)
    for at in (998, 999, 1000, 1001):
        stack.db.execute("UPDATE message_status SET status='done' WHERE id=%s", rows[at][0])
    found = pages(api, "/messages/history", "history", user_id=customer, status="done", limit=3)
    assert [len(p) for p in found] == [2, 2, 0] and len({r["recipient"] for p in found for r in p}) == 4


def test_parameters_are_no_sql(stack):
    api = stack.api()
    customer = api.funded()
    api.sent(customer)
    for evil in ("' OR '1'='1", "x\\", "%", "_" * 36, "\"; DROP TABLE messages; --"):
        assert api.history(user_id=customer, message_identifier=evil) == []
    assert_error(api.get("/messages/history", user_id=f"{customer} OR 1=1"), 400, "invalid_input")
    quote = "O'Reilly \\ \" ; -- \0 %s".replace("\0", "")
    assert api.top_up(customer, 1, description=quote).status_code == 200
    assert api.get("/balance", user_id=customer).json()["transactions"][0]["description"] == quote
    api.sent(customer, ["0912"], text="'); DELETE FROM messages; -- \\")
    assert stack.db.value("SELECT text FROM messages WHERE customer_id=%s ORDER BY"
                          " accepted_at DESC LIMIT 1", customer).startswith("');")


NOT_ASCII = ("%80", "%FF", "%C3%A9", "01936f0e-7a3c-%F0%9F%98%80", "x%0Ay", "x%7F", "%1B", "a" * 51)


@pytest.mark.parametrize("name", ["message_identifier", "status", "cursor", "limit", "user_id"])
def test_what_no_column_can_hold_is_refused_before_the_database(stack, name):
    """A comparison of an ASCII column with anything else is the server's error 1267."""
    api = stack.api()
    customer = new_customer()
    asked = api.metrics().value("db_queries_total", query="history", result="error")
    for path in ("/messages/history", "/balance"):
        if path == "/balance" and name in ("message_identifier", "status"):
            continue
        for text in NOT_ASCII:
            query = f"{name}={text}" if name == "user_id" else f"user_id={customer}&{name}={text}"
            began = time.monotonic()
            response = api.request("GET", f"{path}?{query}")
            assert assert_error(response, 400, "invalid_input")["field"] == name
            assert time.monotonic() - began < 0.15, "somebody waited, and tried again"
    assert api.metrics().value("db_queries_total", query="history", result="error") == asked


def test_wrong_parameters_of_one_harm_nobody_else(stack):
    """A hundred a second of them: the others' balances are answered as quickly as before."""
    api = stack.api()
    victim = api.funded()
    stop = threading.Event()

    def attack():
        with requests.Session() as session:
            session.headers.update(api.headers)
            while not stop.is_set():
                session.get(f"{api.url}/messages/history?user_id=1&message_identifier=%80", timeout=30)
                stop.wait(0.08)

    attackers = [threading.Thread(target=attack) for _ in range(8)]
    for thread in attackers:
        thread.start()
    try:
        assert percentile(latencies(api, victim, 100), 0.9) < 0.1
    finally:
        stop.set()
        for thread in attackers:
            thread.join()


def test_a_busy_reader_does_not_starve_the_others(world):
    """A hundred searches a second through a long history, more than the threads can do, and one who asks for a balance."""
    stack = world("api", USER_READ_LIMIT_RPS=0)
    api = stack.api()
    busy, victim = new_customer(), api.funded()
    fill_history(stack, busy, 15000)
    quiet = percentile(latencies(api, victim, 100), 0.9)
    stop = threading.Event()

    def search():
        with requests.Session() as session:
            session.headers.update(api.headers)
            while not stop.is_set():
                session.get(f"{api.url}/messages/history?user_id={busy}&status=failed", timeout=30)

    searchers = [threading.Thread(target=search) for _ in range(12)]
    for thread in searchers:
        thread.start()
    try:
        wait_until(lambda: api.metrics().value("http_requests_total", path="/messages/history", method="GET",
                                               status="200") > 50, 10, "searches")
        assert percentile(latencies(api, victim, 100), 0.9) < quiet + 0.05
    finally:
        stop.set()
        for thread in searchers:
            thread.join()


def test_one_customers_reads_leave_room_for_the_others(world):
    """More waits than one may have waiting: those are told so, and nobody else is."""
    stack = world("api", READ_CONNS=1, READ_QUEUE_USER_MAX=2, USER_READ_LIMIT_RPS=0, REQUEST_DEADLINE_MS=20000)
    api = stack.api()
    busy, other = api.funded(), api.funded()
    with stack.db.connect() as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLES message_status WRITE")
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(api.get, "/messages/history", user_id=busy) for _ in range(8)]
            # One at work, two waiting.
            wait_until(lambda: sum(a.done() for a in asked) == 5, 15, "refusals")
            last = pool.submit(api.get, "/balance", user_id=other)
            cursor.execute("UNLOCK TABLES")
            assert last.result().status_code == 200
    codes = [a.result().status_code for a in asked]
    assert sorted(codes) == [200] * 3 + [503] * 5
    for answer in (a.result() for a in asked):
        if answer.status_code == 503:
            assert_error(answer, 503, "system_overloaded")


def fill_history(stack, customer, rows):
    stack.db.execute(
        "INSERT INTO message_status(user_id,status,type,recipient,message_identifier,price)"
        f" SELECT {customer},'done','normal','0912',CONCAT('fill-{customer}-',seq),1 FROM {numbers(rows)}")


def latencies(api, customer, count):
    """Seconds of balance reads, one after the other on one connection."""
    found = []
    with requests.Session() as session:
        session.headers.update(api.headers)
        for _ in range(count):
            began = time.monotonic()
            response = session.get(f"{api.url}/balance?user_id={customer}", timeout=30)
            found.append(time.monotonic() - began)
            assert response.status_code == 200, response.text
    return found


def percentile(values, share):
    return sorted(values)[int(len(values) * share)]


def test_head_has_no_body(stack):
    response = stack.api().request("HEAD", "/healthz")
    assert response.status_code == 200 and response.content == b""
    wait_until(lambda: stack.api().get("/healthz").status_code == 200, 2)
