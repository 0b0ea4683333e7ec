"""What the API answers is what its document says, for every status that can be brought about."""

import json
import re
import uuid

import pytest
import requests
from harness.client import new_customer, recipient
from harness import keys
from harness.keys import ROUTES, KeyedApi, ask
from harness.openapi import Document
from harness.proxy import FaultProxy
from harness.wait import wait_until

NOT_CLEAN = {"Transfer-Encoding": "gzip"}
LARGE = b" " * (1 << 20) + b"{}"
LARGE_HEAD = {"X-Large": "x" * 20000}
# Above a lock wait of the database, beyond which a request is known to be locked out, not unlucky.
SETTINGS = {"REQUEST_DEADLINE_MS": 2500}
# Of a customer's webhooks: how each is called with the id of one, or of a message.
HOOKS = {("POST", "/webhooks"): "/webhooks", ("GET", "/webhooks"): "/webhooks",
         ("GET", "/webhooks/{id}"): "/webhooks/%d", ("DELETE", "/webhooks/{id}"): "/webhooks/%d",
         ("GET", "/webhooks/{id}/attempts"): "/webhooks/%d/attempts",
         ("POST", "/webhooks/{id}/replay"): "/webhooks/%d/replay?from=2020-01-01T00:00:00Z",
         ("POST", "/webhooks/{id}/rotate"): "/webhooks/%d/rotate",
         ("POST", "/webhooks/{id}/enable"): "/webhooks/%d/enable"}
# Our own faults cannot be asked for; nothing is known that brings them about.
NOT_PROVOKED = {(m, p, 500) for m, p in (("POST", "/messages/send"), ("GET", "/messages/history"),
                                         ("GET", "/balance"), ("POST", "/balance/add"))}
NOT_PROVOKED |= {(m, p, 500) for m, p in HOOKS}
NOT_PROVOKED |= {("GET", "/messages/{id}", 500), ("GET", "/healthz", 503)}  # a loop that hangs: test_lifecycle.py
RECEIPTS = "/operators/{name}/receipts"     # no operator gives any here: test_receipts.py


@pytest.fixture(scope="module")
def document():
    return Document()


@pytest.fixture(scope="module")
def platform(module_world):
    return module_world(**SETTINGS)


@pytest.fixture(scope="module")
def limited(module_world):
    """An API whose only token is taken."""
    api = module_world("api", GLOBAL_RATE_LIMIT_RPS=1, GLOBAL_RATE_LIMIT_BURST=1).api()

    def ask_until_limited(*call, **options):
        for _ in range(20):
            answer = api.request(*call, **options)
            if answer.status_code == 429:
                break
        return answer

    return ask_until_limited


@pytest.fixture(scope="module")
def cut_off(module_world):
    """An API that has lost its database."""
    stack = module_world("api", **SETTINGS)
    proxy = FaultProxy(stack.values["DB_HOST"], int(stack.values["DB_PORT"]))
    try:
        stack.restart("api-1", DB_HOST="127.0.0.1", DB_PORT=proxy.port)
        proxy.refuse()
        yield stack.api()
        stack.stop("api-1")
    finally:
        proxy.close()


def send_body(customer, **changes):
    return json.dumps({"customer_id": customer, "text": "hi", "recipients": [recipient()], **changes})


def add_body(customer, **changes):
    return json.dumps({"user_id": customer, "balance": 5, **changes})


POSTS = {"/messages/send": send_body, "/balance/add": add_body}
GETS = {"/messages/history": "/messages/history?user_id=1", "/balance": "/balance?user_id=1",
        "/healthz": "/healthz", "/readyz": "/readyz", "/metrics": "/metrics", "/status": "/status",
        "/status.json": "/status.json", "/swagger/{file}": "/swagger/openapi.yaml"}
LIMITED = ("/messages/history", "/balance", "/swagger/{file}")


def test_examples_are_valid(document):
    for where, value, schema in document.examples():
        try:
            document.check_value(value, schema)
        except Exception as e:
            raise AssertionError(where) from e


def test_every_error_has_an_example(document):
    assert document.errors_without_example() == []


def locked(platform, path, body):
    """The answer to a request that waits for its customer's balance row until its deadline."""
    customer = platform.api().funded(10)
    with platform.db.connect(autocommit=False) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT balance FROM user_balances WHERE user_id=%s FOR UPDATE", (customer,))
        answer = platform.api().request("POST", path, data=body(customer),
                                        headers={"Idempotency-Key": uuid.uuid4().hex})
        connection.rollback()
    return answer


def provoke_posts(platform, limited, cut_off):
    api, rich = platform.api(), platform.api().funded(1000)
    for path, body in POSTS.items():
        key = {"Idempotency-Key": uuid.uuid4().hex}

        def call(data=None, path=path, body=body, **options):
            return api.request("POST", path, data=body(rich) if data is None else data, **options)

        yield "POST", path, call()
        yield "POST", path, call(headers=key)
        replayed = call(headers=key)
        assert replayed.headers["Idempotency-Replayed"] == "true"
        yield "POST", path, replayed
        yield "POST", path, call(b"{")
        yield "POST", path, call(b"{}")
        yield "POST", path, call(headers={"Idempotency-Key": "\x7f"})
        yield "POST", path, call(headers=NOT_CLEAN)
        yield "POST", path, call(headers=LARGE_HEAD)
        yield "POST", path, api.request("DELETE", path)
        yield "POST", path, locked(platform, path, body)
        yield "POST", path, call(LARGE)
        yield "POST", path, call(headers={"Expect": "wonders"})
        yield "POST", path, call(headers={"Content-Type": "text/plain"})
        yield "POST", path, call(body(rich, **({"text": "other"} if "send" in path else {"balance": 6})),
                                 headers=key)
        yield "POST", path, limited("POST", path, data=body(rich))
        yield "POST", path, cut_off.request("POST", path, data=body(rich))
    yield "POST", "/messages/send", api.send(new_customer())


def provoke_gets(platform, limited, cut_off):
    api = platform.api()
    for path, url in GETS.items():
        yield "GET", path, api.get(url)
        yield "GET", path, api.request("GET", url, headers=NOT_CLEAN)
        yield "GET", path, api.request("GET", url, headers=LARGE_HEAD)
        yield "GET", path, api.request("POST", url, data=b"{}")
        if path in LIMITED:
            yield "GET", path, limited("GET", url)
    customer = api.funded(10)
    sent = api.sent(customer, [recipient(1), recipient(2)], type="express")
    api.wait_final(customer, sent["message_identifier"])
    for path in ("/messages/history", "/balance"):
        page = api.get(path, user_id=customer, limit=1)
        yield "GET", path, page
        yield "GET", path, api.get(path, user_id=customer, cursor=page.json()["next_cursor"])
        yield "GET", path, api.get(path)
        yield "GET", path, cut_off.get(path, user_id=customer)
    yield "GET", "/messages/history", api.get("/messages/history", user_id=customer, status="lost")
    yield "GET", "/readyz", api.get("/readyz", **{"for": "traffic"})
    yield "GET", "/readyz", cut_off.get("/readyz")
    yield "GET", "/status.json", cut_off.get("/status.json")


def provoke_webhooks(platform, limited, cut_off):
    api, customer = platform.api(), new_customer()
    wish = {"user_id": customer, "url": "https://example.com/hook"}
    hook = api.post("/webhooks", wish).json()["id"]
    ends = api.post("/webhooks", wish).json()["id"]
    for (method, path), template in HOOKS.items():
        number = ends if method == "DELETE" else hook
        url = template % number if "%d" in template else template
        about = "" if (method, path) == ("POST", "/webhooks") else f"{'&' if '?' in url else '?'}user_id={customer}"
        body = {"data": json.dumps(wish)} if path == "/webhooks" and method == "POST" else {}
        headers = {"Content-Type": "application/json"}

        def call(where, method=method, body=body, headers=headers, of=api, **options):
            return of.request(method, where, **{"headers": headers, **body, **options})

        if method == "POST":
            yield method, path, call(url + about, data=LARGE)
            yield method, path, call(url + about, headers={**headers, "Expect": "wonders"}, data=b"{}")
            yield method, path, call(url + about, headers={"Content-Type": "text/plain"}, data=b"{}")
        yield method, path, call(url + about, headers=NOT_CLEAN)
        yield method, path, call(url + about, headers=LARGE_HEAD)
        yield method, path, call(url + about, method="PUT", data=b"{}")
        yield method, path, limited(method, url + about, headers=headers, **body)
        yield method, path, call(url + about, of=cut_off)
        yield method, path, call(url, data=b"{}") if path == "/webhooks" else call(url)
        if "%d" in template:
            yield method, path, call((template % 999999999) + about)
        yield method, path, call(url + about)
    yield "GET", "/webhooks/{id}", api.request("GET", f"/webhooks/{hook}/nothing?user_id={customer}")
    yield "POST", "/webhooks/{id}/replay", api.request("POST", f"/webhooks/{hook}/replay?user_id={customer}&from=x")
    for _ in range(5):
        full = api.post("/webhooks", wish)
    assert full.status_code == 409
    yield "POST", "/webhooks", full
    rich = api.funded(10)
    sent = api.sent(rich, [recipient(1), recipient(2)])["message_identifier"]
    url = f"/messages/{sent}?user_id={rich}"
    yield "GET", "/messages/{id}", api.request("GET", url)
    yield "GET", "/messages/{id}", api.request("GET", url + "&limit=1")
    yield "GET", "/messages/{id}", api.request("GET", f"/messages/{sent}")
    yield "GET", "/messages/{id}", api.request("GET", f"/messages/{sent}?user_id={customer}")
    yield "GET", "/messages/{id}", api.request("POST", url, data=b"{}")
    yield "GET", "/messages/{id}", api.request("GET", url, headers=NOT_CLEAN)
    yield "GET", "/messages/{id}", api.request("GET", url, headers=LARGE_HEAD)
    yield "GET", "/messages/{id}", limited("GET", url)
    yield "GET", "/messages/{id}", cut_off.request("GET", url)


def provoke_moved(platform):
    """Of a customer who lives in another cell."""
    customer = new_customer()
    platform.db.execute("INSERT INTO customer_moves(customer_id, state, cell, since) VALUES (%s, 4, 'b', NOW(6))", customer)
    platform.db.execute("UPDATE change_counters SET value=value+1, changed_at=NOW(6) WHERE name='customer_moves'")
    api = platform.api()
    wait_until(lambda: api.get("/balance", user_id=customer).status_code == 421, 10, "the move is known")
    for (method, path), (_, named) in ROUTES.items():
        if named:
            yield method, path, ask(api, method, path, customer)


def provoke_swagger(platform, module_world):
    url = platform.api().url + "/swagger"
    tag = requests.get(url + "/openapi.yaml", timeout=10).headers["ETag"]
    yield "GET", "/swagger/{file}", requests.get(url + "/openapi.yaml", headers={"If-None-Match": tag},
                                                 timeout=10)
    yield "GET", "/swagger/{file}", requests.get(url + "/nothing", timeout=10)
    directory = platform.directory
    for name in ("index.html", "page.css", "page.js", "swagger-ui.css", "swagger-ui-bundle.js",
                 "favicon-32x32.png", "openapi.yaml"):
        with open(f"{directory}/{name}", "w") as f:
            f.write(name)
    whole = module_world("api", SWAGGER_DIR=directory).api()
    for path in ("/swagger", "/swagger/"):
        answer = whole.request("GET", path, allow_redirects=False)
        yield "GET", "/swagger/{file}", answer
        followed = whole.get(path)
        assert followed.url.endswith("/swagger/index.html") and followed.text == "index.html"
    for name in ("page.css", "page.js", "favicon-32x32.png"):
        yield "GET", "/swagger/{file}", whole.get(f"/swagger/{name}")


PAGES = [route for route, (_, named) in ROUTES.items() if not named]
KEYED = {"API_AUTH": "required", "API_METRICS": "key", "API_STATUS": "key", "API_SWAGGER": "key"}


def without_database(stack):
    """Its API has never heard of any key."""
    proxy = FaultProxy(stack.values["DB_HOST"], int(stack.values["DB_PORT"]))
    proxy.refuse()
    stack.stop("api-1")
    stack.start_without_waiting("api-1", DB_HOST="127.0.0.1", DB_PORT=proxy.port)
    wait_until(lambda: stack.status("api-1", "/healthz") == 200, 20, "it listens")
    return proxy


def provoke_keys(module_world):
    stack = module_world("api", **KEYED, AUTH_FAILURE_RATE_LIMIT_RPS=1, AUTH_FAILURE_RATE_LIMIT_BURST=90)
    url, customer, other = stack.url("api-1"), new_customer(), new_customer()
    admin = KeyedApi(url, keys.create(stack, scopes="admin"))
    bound = KeyedApi(url, keys.create(stack, scopes="send,read,topup,webhooks", customer=other))
    wait_until(lambda: bound.get("/balance").status_code == 200, 10, "the keys are known")
    for method, path in ROUTES:
        yield method, path, ask(KeyedApi(url, None), method, path, customer)
        if ROUTES[method, path][0] != "any":
            yield method, path, ask(admin, method, path, customer)
        if ROUTES[method, path][1]:
            yield method, path, ask(bound, method, path, customer)
    for method, path in PAGES:
        for _ in range(200):
            answer = ask(KeyedApi(url, None), method, path, customer)
            if answer.status_code == 429:
                break
        yield method, path, answer
    proxy = without_database(stack)
    try:
        for method, path in PAGES:
            yield method, path, ask(admin, method, path, customer)
        stack.stop("api-1")
    finally:
        proxy.close()
    closed = module_world("api", API_METRICS="off", API_STATUS="off").api()
    for path in ("/metrics", "/status", "/status.json"):
        yield "GET", path, closed.get(path)


def test_every_documented_answer(document, platform, limited, cut_off, module_world):
    seen = set()
    for provoked in (provoke_posts(platform, limited, cut_off), provoke_gets(platform, limited, cut_off),
                     provoke_webhooks(platform, limited, cut_off), provoke_moved(platform), provoke_swagger(platform, module_world),
                     provoke_keys(module_world)):
        for method, path, response in provoked:
            try:
                document.check(method, path, response)
            except Exception as e:
                raise AssertionError(f"{method} {path}: {response.status_code} {dict(response.headers)} "
                                     f"{response.text[:500]}") from e
            seen.add((method, path, response.status_code))
    assert {answer for answer in document.answers() - seen if answer[1] != RECEIPTS} == NOT_PROVOKED
    assert not NOT_PROVOKED & seen


def test_the_document_names_every_route(document, platform):
    """The server registers a duration for each route it has."""
    routes = {(labels["method"], labels["path"]) for labels, _ in platform.api().metrics().series(
        "http_request_duration_seconds_count") if labels["path"] != "other"}
    documented = {(method, re.sub(r"/\{.*", "/*", path)) for method, path, _ in document.operations()}
    assert {(m, p) for m, p in routes if not p.startswith("/swagger")} == documented - {("GET", "/swagger/*")}
