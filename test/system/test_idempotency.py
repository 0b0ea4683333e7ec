"""One key, one charge: whoever repeats a request with its Idempotency-Key gets the first answer."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from harness.client import assert_error, new_customer
from harness.wait import wait_until


def key():
    return uuid.uuid4().hex


def charges(stack, customer):
    return [row for row in stack.db.ledger(customer) if row[0] == "withdrawal"]


def test_send_is_replayed(shared):
    api, other = shared.apis()
    customer, k = api.funded(100), key()
    first = api.send(customer, ["0912", "0913"], key=k)
    assert first.status_code == 200 and "Idempotency-Replayed" not in first.headers
    for replica in (api, other, api):
        again = replica.send(customer, ["0912", "0913"], key=k)
        assert again.status_code == 200
        assert again.headers["Idempotency-Replayed"] == "true"
        assert again.json() == first.json()
    assert api.balance(customer) == 98 and len(charges(shared, customer)) == 1
    assert len(api.history(user_id=customer)) == 2


def test_what_is_sent_often_is_stored_as_it_was_sent(shared):
    """So often that its statement is kept prepared."""
    api = shared.api()
    customer = api.funded(100)
    before = prepared_runs(shared)
    for n in range(5):
        for text in ("it's \\ \"quoted\"; x'41' ? 12 -- 7\n\r\t\x1a %s", "π 🙂 '' \\'", "7", "' OR 1=1; COMMIT; -- "):
            k = key() + "'\\"
            sent = api.sent(customer, ["+0912"], text=text, type="express" if n % 2 else "normal", key=k)
            assert api.sent(customer, ["+0912"], text=text, type="express" if n % 2 else "normal", key=k) == sent
            identifier = sent["message_identifier"]
            assert shared.db.value("SELECT text FROM messages WHERE message_identifier=%s", identifier) == text
            assert shared.db.rows("SELECT user_id,recipient,price FROM message_status WHERE message_identifier=%s",
                                  identifier) == ((customer, "+0912", sent["price"]),)
            assert ("withdrawal", -sent["price"], f"c-{identifier}") in shared.db.ledger(customer)
    assert api.balance(customer) == 100 - 4 * (3 * 1 + 2 * 3)
    assert prepared_runs(shared) > before or not shared.db.is_mariadb  # which alone takes such statements


def prepared_runs(stack):
    return int(stack.db.rows("SHOW GLOBAL STATUS LIKE 'Com_stmt_execute'")[0][1])


def test_top_up_is_replayed(shared):
    api, other = shared.apis()
    customer, k = new_customer(), key()
    first = api.top_up(customer, 70, key=k, description="once")
    assert first.status_code == 200 and first.json()["balance"] == 70
    assert api.top_up(customer, 5).json()["balance"] == 75
    again = other.top_up(customer, 70, key=k, description="once")
    assert again.json() == first.json() and again.headers["Idempotency-Replayed"] == "true"
    assert api.balance(customer) == 75


def test_another_body_is_422(shared):
    api, other = shared.apis()
    customer, k = api.funded(100), key()
    assert api.send(customer, ["0912"], text="one", key=k).status_code == 200
    for changes in ({"text": "two"}, {"recipients": ["0913"]}, {"type": "express"},
                    {"recipients": ["0912", "0913"]}):
        response = other.send(customer, **{"recipients": ["0912"], "text": "one", **changes}, key=k)
        assert response.status_code == 422, changes
        assert response.json()["error"] and response.json()["message"]
    assert api.balance(customer) == 99
    k = key()
    assert api.top_up(customer, 1, key=k).status_code == 200
    assert api.top_up(customer, 2, key=k).status_code == 422
    assert api.balance(customer) == 100


def test_spelling_of_the_same_body_does_not_matter(shared):
    api, customer, k = shared.api(), shared.api().funded(100), key()
    a = b'{"customer_id":%d,"text":"hi","recipients":["0912"],"type":"normal"}' % customer
    b = b'{ "recipients": ["0912"], "text": "\\u0068i", "customer_id": %d }' % customer
    first = api.post("/messages/send", a, key=k)
    again = api.post("/messages/send", b, key=k)
    assert (first.status_code, again.status_code) == (200, 200), again.text
    assert again.json() == first.json()


def test_keys_belong_to_customer_and_route(shared):
    api, k = shared.api(), key()
    one, two = api.funded(100), api.funded(100)
    identifiers = {api.send(c, ["0912"], key=k).json()["message_identifier"] for c in (one, two)}
    assert len(identifiers) == 2
    assert api.top_up(one, 5, key=k).json()["balance"] == 104


def test_keys_are_bytes(shared):
    """Case, trailing characters and accents that a collation would forgive make another key."""
    api = shared.api()
    customer, k = api.funded(100), key()
    keys = [k + "a", k + "A", k + "a.", k + "0", k + "00"]
    identifiers = {api.sent(customer, ["0912"], key=x)["message_identifier"] for x in keys}
    assert len(identifiers) == len(keys)
    assert len(charges(shared, customer)) == len(keys)


def test_refusals_store_nothing(shared):
    api = shared.api()
    customer, k = api.funded(1), key()
    assert api.send(customer, ["0912", "0913"], key=k).status_code == 402
    assert api.send(customer, ["0912"], text="", key=k).status_code == 400
    assert api.top_up(customer, 10).status_code == 200
    response = api.send(customer, ["0912", "0913"], key=k)
    assert response.status_code == 200 and "Idempotency-Replayed" not in response.headers
    assert api.balance(customer) == 9


def race(n, call):
    """n calls that begin together; their responses."""
    barrier = threading.Barrier(n)

    def one(i):
        barrier.wait()
        return call(i)

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(one, range(n)))


def assert_one_winner(responses):
    """Every answer is the first one or 'still running', and only one is not a replay."""
    assert {r.status_code for r in responses} <= {200, 409}, [r.text for r in responses][:3]
    done = [r for r in responses if r.status_code == 200]
    assert done and all(r.json() == done[0].json() for r in done)
    assert sum("Idempotency-Replayed" not in r.headers for r in done) == 1


def test_fifty_connections_one_send(shared):
    apis = shared.apis()
    for _ in range(3):
        customer, k = apis[0].funded(100), key()
        responses = race(50, lambda i: apis[i % 2].send(customer, ["0912", "0913"], key=k))
        assert_one_winner(responses)
        assert apis[0].balance(customer) == 98 and len(charges(shared, customer)) == 1
        assert shared.db.value("SELECT COUNT(*) FROM messages WHERE customer_id=%s", customer) == 1
        final = apis[1].send(customer, ["0912", "0913"], key=k)
        assert final.status_code == 200 and final.headers["Idempotency-Replayed"] == "true"


def test_fifty_connections_one_top_up(shared):
    apis = shared.apis()
    customer, k = new_customer(), key()
    responses = race(50, lambda i: apis[i % 2].top_up(customer, 30, key=k))
    assert_one_winner(responses)
    assert apis[0].balance(customer) == 30 and len(shared.db.ledger(customer)) == 1


def test_fifty_different_bodies_one_key(shared):
    apis = shared.apis()
    customer, k = apis[0].funded(100), key()
    responses = race(50, lambda i: apis[i % 2].send(customer, ["0912"], text=f"text {i}", key=k))
    codes = [r.status_code for r in responses]
    assert codes.count(200) == 1 and set(codes) <= {200, 409, 422}, codes
    assert apis[0].balance(customer) == 99


def test_first_balance_row_of_a_customer(shared):
    """Fifty top-ups of a customer that does not exist yet, over both replicas: none is lost."""
    apis = shared.apis()
    customer = new_customer()
    responses = race(50, lambda i: apis[i % 2].top_up(customer, 1 + i))
    assert [r.status_code for r in responses] == [200] * 50
    assert apis[0].balance(customer) == sum(range(1, 51))


def test_the_last_money_is_spent_once(shared):
    """Fifty sends for the price of five."""
    apis = shared.apis()
    customer = apis[0].funded(5)
    responses = race(50, lambda i: apis[i % 2].send(customer, ["0912"]))
    codes = sorted(r.status_code for r in responses)
    assert codes == [200] * 5 + [402] * 45
    assert apis[0].balance(customer) == 0 and len(charges(shared, customer)) == 5


def test_a_key_whose_request_still_runs(world):
    """While somebody holds the customer's balance, the key is neither done nor free."""
    stack = world("api", replicas=2, REQUEST_DEADLINE_MS=2000)
    api, other = stack.apis()
    customer, k = api.funded(100), key()
    with stack.db.connect(autocommit=False) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT balance FROM user_balances WHERE user_id=%s FOR UPDATE", (customer,))
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(a.send, customer, ["0912"], key=k) for a in (api, other)]
            bystander = api.funded(10)  # others are not held up meanwhile
            assert api.sent(bystander)["price"] == 1
            answers = [w.result() for w in waiting]
        connection.rollback()
    for answer in answers:
        assert_error(answer, 409, "idempotency_in_progress")
    assert charges(stack, customer) == []
    assert api.send(customer, ["0912"], key=k).status_code == 200
    again = other.send(customer, ["0912"], key=k)
    assert again.status_code == 200 and again.headers["Idempotency-Replayed"] == "true"
    assert api.balance(customer) == 99


def together(stack, customer, calls):
    """The answers to calls that are decided as one batch, as far as they come into one: all wait
    behind the customer's balance row until the last of them is in hand."""
    api = stack.api()
    with stack.db.connect(autocommit=False) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT balance FROM user_balances WHERE user_id=%s FOR UPDATE", (customer,))
        with ThreadPoolExecutor(len(calls)) as pool:
            waiting = [pool.submit(call) for call in calls]
            wait_until(lambda: api.metrics().value("http_requests_in_flight") > len(calls), 10,
                       "all are in hand")  # the one for the metrics is another
            connection.rollback()
            return [w.result() for w in waiting]


def test_repeats_among_other_bodies(world):
    """A key that is known is answered by each one's own body, whatever else has it in the batch."""
    stack = world("api", REQUEST_DEADLINE_MS=20000)
    api = stack.api()
    customer, k = api.funded(100), key()
    first = api.sent(customer, text="the first", key=k)
    texts = ["the first" if i % 2 else "another" for i in range(20)]
    answers = together(stack, customer, [partial(api.send, customer, text=t, key=k) for t in texts])
    for text, answer in zip(texts, answers):
        assert answer.status_code == (200 if text == "the first" else 422), answer.text
        assert text != "the first" or answer.json() == first
    top_up = api.top_up(customer, 10, key=k)
    amounts = [10 if i % 2 else 11 for i in range(20)]
    answers = together(stack, customer, [partial(api.top_up, customer, a, key=k) for a in amounts])
    for amount, answer in zip(amounts, answers):
        assert answer.status_code == (200 if amount == 10 else 422), answer.text
        assert amount != 10 or answer.json() == top_up.json()
    assert api.balance(customer) == 109


def test_a_dear_twin_refuses_nobody(world):
    """What is not covered takes nothing from those behind it: the first that is gets the key."""
    stack = world("api", REQUEST_DEADLINE_MS=20000)
    api = stack.api()
    customer, k = api.funded(1), key()
    numbers = [["0912"], ["0912", "0913"]] * 10
    answers = together(stack, customer, [partial(api.send, customer, n, key=k) for n in numbers])
    cheap = [a for a, n in zip(answers, numbers) if len(n) == 1]
    dear = [a for a, n in zip(answers, numbers) if len(n) == 2]
    assert_one_winner(cheap)
    assert {a.status_code for a in cheap} == {200}
    assert {a.status_code for a in dear} <= {402, 422}
    assert api.balance(customer) == 0 and len(charges(stack, customer)) == 1
