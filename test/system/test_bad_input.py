"""Whatever is wrong with a request gets its code and leaves no row anywhere. Only the API runs here,
so that every table can be counted before and after.
"""

import json
import socket
from urllib.parse import urlparse

import pytest
from harness.client import assert_error, new_customer

CUSTOMER = 4242
BIG = 2 ** 63
MOST = 2 ** 52 - 1  # a top-up, and a balance after one


@pytest.fixture(scope="module")
def stack(module_world):
    stack = module_world("api")
    stack.db.seed_customers(1, 1000, first=CUSTOMER)
    return stack


@pytest.fixture
def untouched(stack):
    """The rows of all tables and the balance are the same at the end."""
    before = stack.db.counts(), stack.db.balance(CUSTOMER)
    yield
    assert (stack.db.counts(), stack.db.balance(CUSTOMER)) == before
    assert stack.api().get("/healthz").status_code == 200


def send_body(**changes):
    body = {"customer_id": CUSTOMER, "text": "hi", "recipients": ["09128582812"], "type": "normal"}
    body.update(changes)
    return json.dumps({k: v for k, v in body.items() if v is not ...}).encode()


def add_body(**changes):
    body = {"user_id": CUSTOMER, "balance": 100}
    body.update(changes)
    return json.dumps({k: v for k, v in body.items() if v is not ...}).encode()


INPUT = ("invalid_input",)
JSON = ("invalid_json",)
EITHER = ("invalid_input", "invalid_json")

SENDS = {
    "empty body": (b"", JSON),
    "cut off": (b'{"customer_id": 1, "text": "hi"', JSON),
    "not json": (b"customer_id=1&text=hi", JSON),
    "rubbish after it": (send_body() + b"x", JSON),
    "array": (b"[]", EITHER),
    "null": (b"null", EITHER),
    "a number": (b"5", EITHER),
    "deep nesting": (b"[" * 1000, JSON),
    "deeper nesting": (b"[" * 50000, EITHER),
    "nothing in it": (b"{}", INPUT),
    "customer missing": (send_body(customer_id=...), INPUT),
    "customer null": (send_body(customer_id=None), INPUT),
    "customer a string": (send_body(customer_id="4242"), INPUT),
    "customer a fraction": (send_body(customer_id=1.5), INPUT),
    "customer a boolean": (send_body(customer_id=True), INPUT),
    "customer 0": (send_body(customer_id=0), INPUT),
    "customer -1": (send_body(customer_id=-1), INPUT),
    "customer 2^63": (send_body(customer_id=BIG), INPUT),
    "customer 2^64+1": (send_body(customer_id=2 * BIG + 1), INPUT),
    "customer twice": (send_body()[:-1] + b',"customer_id":4242}', INPUT),
    "text missing": (send_body(text=...), INPUT),
    "text null": (send_body(text=None), INPUT),
    "text a number": (send_body(text=5), INPUT),
    "text empty": (send_body(text=""), INPUT),
    "text too long": (send_body(text="x" * 4097), INPUT),
    "text too long in bytes": (send_body(text="س" * 2049), INPUT),
    "text with NUL": (send_body(text="a\0b"), EITHER),
    "text not UTF-8": (send_body().replace(b'"hi"', b'"\xff\xfe"'), EITHER),
    "text overlong UTF-8": (send_body().replace(b'"hi"', b'"\xc0\xaf"'), EITHER),
    "text half a surrogate pair": (send_body().replace(b'"hi"', b'"\\ud83d"'), EITHER),
    "recipients missing": (send_body(recipients=...), INPUT),
    "recipients null": (send_body(recipients=None), INPUT),
    "recipients a string": (send_body(recipients="09128582812"), INPUT),
    "recipients empty": (send_body(recipients=[]), INPUT),
    "recipients too many": (send_body(recipients=[f"0912{i}" for i in range(1001)]), INPUT),
    "recipient a number": (send_body(recipients=[9128582812]), INPUT),
    "recipient null": (send_body(recipients=["0912", None]), INPUT),
    "recipient empty": (send_body(recipients=[""]), INPUT),
    "recipient letters": (send_body(recipients=["0912", "hello"]), INPUT),
    "recipient a lone plus": (send_body(recipients=["+"]), INPUT),
    "recipient plus inside": (send_body(recipients=["98+12"]), INPUT),
    "recipient blanks": (send_body(recipients=["0912 858"]), INPUT),
    "recipient 21 digits": (send_body(recipients=["1" * 21]), INPUT),
    "recipient plus and 20 digits": (send_body(recipients=["+" + "1" * 20]), INPUT),
    "recipient other digits": (send_body(recipients=["۰۹۱۲"]), INPUT),
    "recipient with NUL": (send_body(recipients=["0912\0"]), EITHER),
    "type unknown": (send_body(type="sms"), INPUT),
    "type a number": (send_body(type=1), INPUT),
    "type empty": (send_body(type=""), INPUT),
}


@pytest.mark.parametrize("case", SENDS)
def test_send(stack, untouched, case):
    body, codes = SENDS[case]
    assert_error(stack.api().post("/messages/send", body), 400, *codes)


TOP_UPS = {
    "empty body": (b"", JSON),
    "not json": (b"hello", JSON),
    "user missing": (add_body(user_id=...), INPUT),
    "user a string": (add_body(user_id="1"), INPUT),
    "user 0": (add_body(user_id=0), INPUT),
    "user -1": (add_body(user_id=-1), INPUT),
    "user 2^63": (add_body(user_id=BIG), INPUT),
    "amount missing": (add_body(balance=...), INPUT),
    "amount null": (add_body(balance=None), INPUT),
    "amount a string": (add_body(balance="100"), INPUT),
    "amount a fraction": (add_body(balance=0.5), INPUT),
    "amount 0": (add_body(balance=0), INPUT),
    "amount -1": (add_body(balance=-1), INPUT),
    "amount -2^63": (add_body(balance=-BIG), INPUT),
    "amount 2^63": (add_body(balance=BIG), INPUT),
    "amount 2^63-1, over what is there": (add_body(balance=BIG - 1), INPUT),
    "description a number": (add_body(description=5), INPUT),
    "description not UTF-8": (add_body(description="x").replace(b'"x"', b'"\xff"'), EITHER),
}


@pytest.mark.parametrize("case", TOP_UPS)
def test_top_up(stack, untouched, case):
    body, codes = TOP_UPS[case]
    assert_error(stack.api().post("/balance/add", body), 400, *codes)


READS = [
    "/balance", "/balance?user_id=", "/balance?user_id=abc", "/balance?user_id=0",
    "/balance?user_id=-1", f"/balance?user_id={BIG}", "/balance?user_id=1.5",
    "/balance?user_id=1&limit=0", "/balance?user_id=1&limit=-1", "/balance?user_id=1&limit=1001",
    "/balance?user_id=1&limit=x", "/balance?user_id=1&cursor=rubbish",
    "/messages/history?user_id=abc", "/messages/history?user_id=0", "/messages/history?user_id=-1",
    f"/messages/history?user_id={BIG}", "/messages/history?user_id=1&status=lost",
    "/messages/history?user_id=1&limit=0", "/messages/history?user_id=1&limit=1001",
    "/messages/history?user_id=1&limit=99999999999999999999",
    "/messages/history?user_id=1&cursor=rubbish",
    "/balance?user_id=1&user_id=1", "/balance?user_id=1&limit=1&limit=2",
    "/messages/history?user_id=1&status=done&status=failed",
    "/messages/history?user_id=1" + "".join(f"&a{n}" for n in range(32)),
]


@pytest.mark.parametrize("path", READS)
def test_read(stack, untouched, path):
    assert_error(stack.api().get(path), 400, "invalid_input")


def test_unknown_routes(stack, untouched):
    api = stack.api()
    for method, path in (("GET", "/"), ("GET", "/nothing"), ("POST", "/message"),
                         ("POST", "/send/messages"), ("GET", "/balance/add/more"),
                         ("GET", "/../etc/passwd"), ("DELETE", "/nothing")):
        assert_error(api.request(method, path, data=send_body()), 404, "not_found")


def test_unknown_methods(stack, untouched):
    api = stack.api()
    for method, path, allowed in (
            ("GET", "/messages/send", {"POST"}), ("PUT", "/messages/send", {"POST"}),
            ("DELETE", "/messages/history", {"GET"}), ("POST", "/balance", {"GET"}),
            ("GET", "/balance/add", {"POST"}), ("PATCH", "/healthz", {"GET"}),
            ("OPTIONS", "/balance/add", {"POST"})):
        response = api.request(method, path, data=send_body())
        assert response.status_code == 405, (method, path, response.status_code)
        said = {m.strip() for m in response.headers["Allow"].split(",")}
        assert allowed <= said and method not in said, (method, path, said)
        assert response.json()["error"] and response.json()["message"]


def test_body_of_10_mib(stack, untouched):
    response = stack.api().post("/messages/send", send_body(text="x" * (10 << 20)))
    assert response.status_code == 413
    assert response.json()["error"] and response.json()["message"]


def test_unusable_idempotency_keys(stack, untouched):
    api = stack.api()
    for key in ("", "x" * 256):
        assert_error(api.post("/messages/send", send_body(), key=key), 400, "invalid_input")
        assert_error(api.post("/balance/add", add_body(), key=key), 400, "invalid_input")


def test_a_fault_names_its_field(stack, untouched):
    api = stack.api()
    many = [f"0912{n:07d}" for n in range(900)]
    many[417] = "09I2"
    for body, field in ((send_body(text=""), "text"), (send_body(recipients=[]), "recipients"),
                        (send_body(customer_id=0), "customer_id"), (send_body(type="sms"), "type"),
                        (send_body(customer_id=BIG), "customer_id"),
                        (send_body()[:-1] + b',"text":"b"}', "text"),
                        (send_body(recipients=["0912", BIG]), "recipients[1]"),
                        (send_body(recipients=many), "recipients[417]")):
        answer = assert_error(api.post("/messages/send", body), 400, "invalid_input")
        assert answer["field"] == field, answer
        assert "09I2" not in answer["message"]
    answer = assert_error(api.get("/balance?user_id=1&limit=1&limit=2"), 400, "invalid_input")
    assert answer["field"] == "limit"


def post_raw(stack, *headers):
    """The answer to a send whose header lines are these, and to what is behind it on its connection."""
    url = urlparse(stack.api().url)
    body = send_body()
    head = [b"POST /messages/send HTTP/1.1", b"Host: x", b"Content-Type: application/json",
            b"Content-Length: %d" % len(body), *headers, stack.header_lines, b""]
    with socket.create_connection((url.hostname, url.port), 10) as s:
        s.sendall(b"\r\n".join(head) + body)
        data = b""
        while chunk := s.recv(65536):
            data += chunk
    return data


def test_keys_that_could_be_read_in_two_ways(stack, untouched):
    """A NUL would end a key early, so that two keys are one; of two keys one would be ignored."""
    for lines in ([b"Idempotency-Key: n1\0b"], [b"Idempotency-Key: n1\0c"],
                  [b"Idempotency-Key: a", b"Idempotency-Key: b"],
                  [b"Idempotency-Key: a", b"idempotency-key: a"],
                  [b"Idempotency-Key: a", b" b"], [b"\0", b"Idempotency-Key: a"]):
        answer = post_raw(stack, *lines)
        assert answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1 ") == 1, answer


def test_the_limits_themselves_are_allowed(stack):
    api = stack.api()
    customer = api.funded(2000)
    assert api.sent(customer, ["1" * 20, "+" + "1" * 19, "1"], text="x" * 4096)["recipients"] == 3
    assert api.sent(customer, ["0912"], text="س" * 2048)["price"] == 1
    assert api.sent(customer, [f"0912{i}" for i in range(1000)])["price"] == 1000
    assert api.sent(customer, ["0912"], text="tab\tnewline\n\"quotes\" \\ ' 🙂 \x01")["price"] == 1
    assert api.balance(customer) == 2000 - 1005


def test_top_ups_never_overflow(stack):
    api = stack.api()
    customer = new_customer()
    answers = [api.top_up(customer, amount).status_code
               for amount in (BIG - 1, *[MOST // 4 + 1] * 4, MOST)]
    assert answers == [400, 200, 200, 200, 400, 400]
    balance = stack.db.balance(customer)
    assert balance == 3 * (MOST // 4 + 1)
    assert balance == sum(amount for _, amount, _ in stack.db.ledger(customer))
    # To the last unit; what is out on messages has room of its own to come back into.
    other = new_customer()
    assert api.top_up(other, 1000).status_code == 200
    api.sent(other, ["0912", "0913"], type="express")
    assert api.top_up(other, MOST - 994 + 1).status_code == 400
    assert api.top_up(other, MOST - 994).status_code == 200
    assert stack.db.balance(other) == MOST
