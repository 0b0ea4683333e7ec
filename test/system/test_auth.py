"""Who may do what: every route, scope and kind of key from one table, which is the document's too; what
becomes of a key that is revoked, and of all keys when the database does not tell about them any more."""

import contextlib
import json
import os
import socket
import subprocess
import time
import uuid

import pytest
import requests
from harness import keys, raw
from harness.client import Api, assert_error, new_customer, recipient
from harness.keys import ROUTES, KeyedApi, ask
from harness.metrics import Metrics
from harness.openapi import Document
from harness.proxy import FaultProxy
from harness.stack import BUILD, PortRange
from harness.wait import wait_until

REVOKED_WITHIN = 3  # seconds
REQUIRED = {"API_AUTH": "required", "API_METRICS": "key", "API_STATUS": "key", "API_SWAGGER": "key"}

# ---- every route, scope and kind of key ----

SCOPES = ("send", "read", "topup", "admin", "metrics", "webhooks")
OPEN = {("GET", "/healthz"), ("GET", "/readyz")}
# For operators, who have keys of another kind: test_receipts.py.
TOLD = {("POST", "/operators/{name}/receipts"), ("GET", "/operators/{name}/receipts")}
# What of a key may be wrong, whatever its scopes are.
DEAD = ("nobody", "nonsense", "unknown", "revoked", "expired", "elsewhere")
KINDS = ("own", "other", "all", *DEAD)


def expected(route, scope, kind):
    needed, named = ROUTES[route]
    if kind in DEAD:
        return 401
    if needed not in (scope, "any"):
        return 403
    return 404 if (kind == "other" and named) or keys.asks_for_one(route[1]) else 200


@pytest.fixture(scope="module")
def document():
    return Document()


def test_the_table_is_the_documents(document):
    said = {(method, path): operation.get("x-scope") for method, path, operation in document.operations()}
    assert said == {**{route: scope for route, (scope, _) in ROUTES.items()}, **dict.fromkeys(OPEN | TOLD)}
    for method, path, operation in document.operations():
        assert (operation.get("security") == []) == ((method, path) in OPEN | TOLD), path
        assert ({"401", "403"} <= set(operation["responses"])) == (operation.get("x-scope") in SCOPES), path


@pytest.fixture(scope="module")
def platform(module_world):
    """With a customer that has money, and one that has none of its own."""
    stack = module_world("api", **REQUIRED)
    stack.all = keys.create(stack, scopes="send,read,topup,metrics")
    stack.customer, stack.other = new_customer(), new_customer()
    api = KeyedApi(stack.url("api-1"), stack.all)
    keys.wait_known(api)
    for customer in (stack.customer, stack.other):
        assert api.top_up(customer, 10_000).status_code == 200
    return stack


@pytest.fixture(scope="module")
def ring(platform):
    """{(scope, kind): key}"""
    made = {}
    for scope in SCOPES:
        made[scope, "all"] = keys.create(platform, scopes=scope)
        if scope != "admin":
            made[scope, "own"] = keys.create(platform, scopes=scope, customer=platform.customer)
            made[scope, "other"] = keys.create(platform, scopes=scope, customer=platform.other)
        made[scope, "revoked"] = keys.create(platform, scopes=scope)
        made[scope, "expired"] = keys.create(platform, scopes=scope, expires="1s")
        made[scope, "elsewhere"] = keys.create(platform, scopes=scope, networks="203.0.113.0/24,2001:db8::/32")
        made[scope, "nobody"] = None
        made[scope, "nonsense"] = "msg_local_nonsense_1"
        made[scope, "unknown"] = keys.stranger()
    for scope in SCOPES:
        keys.revoke(platform, made[scope, "revoked"])
    # The table above is true once the ring has all of it, and the short-lived are dead.
    url = platform.url("api-1")
    for (scope, kind), key in made.items():
        path = "/swagger/openapi.yaml"
        want = 401 if kind in DEAD else 200
        wait_until(lambda key=key, want=want: KeyedApi(url, key).get(path).status_code == want, 10,
                   f"{scope} {kind}: {want}")
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: " ".join(route))
def test_the_table(platform, ring, document, route, scope, kind):
    if (scope, kind) not in ring:
        assert scope == "admin" and kind in ("own", "other")
        with pytest.raises(AssertionError):
            keys.create(platform, scopes="admin", customer=platform.customer)
        return
    for header in ("Authorization", "X-Api-Key"):
        answer = ask(KeyedApi(platform.url("api-1"), ring[scope, kind], header), *route, platform.customer)
        assert answer.status_code == expected(route, scope, kind), answer.text
        document.check(*route, answer)
        if answer.status_code == 401:
            assert_error(answer, 401, "unauthorized")
            assert ("error=" in answer.headers["WWW-Authenticate"]) == (kind != "nobody")
        elif answer.status_code == 403:
            assert ROUTES[route][0] in assert_error(answer, 403, "forbidden")["message"]
            assert f'scope="{ROUTES[route][0]}"' in answer.headers["WWW-Authenticate"]
        elif answer.status_code == 404:
            assert_error(answer, 404, "not_found")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/readyz?for=traffic"])
def test_probes_need_no_key(platform, path):
    assert Api(platform.url("api-1")).get(path).status_code == 200


def test_failures_are_counted(platform, ring):
    figures = KeyedApi(platform.url("api-1"), ring["metrics", "all"])

    def counted(reason):
        return Metrics(figures.get("/metrics").text).sum("msg_auth_failures_total", reason=reason)

    for kind, reason in (("nobody", "missing"), ("nonsense", "malformed"), ("unknown", "unknown"),
                         ("revoked", "revoked"), ("expired", "expired"), ("elsewhere", "address"),
                         ("other", "customer")):
        before = counted(reason)
        ask(KeyedApi(platform.url("api-1"), ring["read", kind]), "GET", "/balance", platform.customer)
        assert counted(reason) == before + 1, reason
    before = counted("scope")
    ask(KeyedApi(platform.url("api-1"), ring["send", "all"]), "GET", "/balance", platform.customer)
    assert counted("scope") == before + 1


# ---- how a key is brought ----

def test_two_keys_are_none(platform, ring):
    url, one, two = platform.url("api-1"), ring["read", "all"], ring["read", "own"]

    def status(**headers):
        return requests.get(f"{url}/balance", params={"user_id": platform.customer}, timeout=10,
                            headers={k.replace("_", "-"): v for k, v in headers.items()}).status_code

    assert status(Authorization=f"Bearer {one}", X_Api_Key=two) == 401
    assert status(Authorization=f"Bearer {one}", X_Api_Key=one) == 200
    assert status(Authorization=f"bEARER {one}") == 200
    assert status(Authorization=f"Basic {one}", X_Api_Key=one) == 200
    assert status(Authorization=one) == status(Authorization=f"Basic {one}") == 401
    assert status(Authorization="Bearer") == status(X_Api_Key="") == 401


# ---- a key that is bound to a customer ----

@pytest.fixture
def bound(platform, ring):
    """bound(scope): an API with a key of the customer's own."""
    return lambda scope: KeyedApi(platform.url("api-1"), ring[scope, "own"])


def test_a_bound_key_needs_no_customer(platform, bound):
    key = uuid.uuid4().hex
    before = bound("read").get("/balance").json()["balance"]
    body = {"text": "hi", "recipients": [recipient()]}
    sent = bound("send").post("/messages/send", body, key=key)
    assert sent.status_code == 200, sent.text
    # The Idempotency-Key is the customer's, however that one is named.
    again = bound("send").post("/messages/send", {"customer_id": platform.customer, **body}, key=key)
    assert again.headers["Idempotency-Replayed"] == "true" and again.json() == sent.json()
    assert bound("topup").post("/balance/add", {"balance": 5}).status_code == 200
    assert bound("read").get("/balance").json()["balance"] == before - 1 + 5
    page = bound("read").get("/messages/history", message_identifier=sent.json()["message_identifier"])
    assert [row["user_id"] for row in page.json()["history"]] == [platform.customer]
    # Whoever may act for all has to say for whom.
    everybody = KeyedApi(platform.url("api-1"), platform.all)
    assert assert_error(everybody.post("/messages/send", body), 400, "invalid_input")["field"] == "customer_id"
    assert assert_error(everybody.post("/balance/add", {"balance": 5}), 400, "invalid_input")["field"] == "user_id"
    assert assert_error(everybody.get("/balance"), 400, "invalid_input")["field"] == "user_id"


def test_others_are_as_if_they_were_not(platform, bound):
    """The same answer, to the byte, for a customer that there is and for one that there is not."""
    nobody = new_customer()
    everybody = KeyedApi(platform.url("api-1"), platform.all)
    key = uuid.uuid4().hex
    theirs = everybody.send(platform.other, key=key).json()["message_identifier"]
    before = everybody.balance(platform.other)
    answers = [call(customer) for customer in (platform.other, nobody) for call in (
        lambda c: bound("send").send(c), lambda c: bound("send").send(c, key=key),
        lambda c: bound("topup").top_up(c, 5), lambda c: bound("topup").top_up(c, 5, key=key),
        lambda c: bound("read").get("/balance", user_id=c),
        lambda c: bound("read").get("/messages/history", user_id=c),
        lambda c: bound("read").get("/messages/history", user_id=c, message_identifier=theirs))]
    answers += [bound("read").get("/messages/history", message_identifier=identifier, **more)
                for identifier in (theirs, str(uuid.uuid4()), "nonsense") for more in ({}, {"status": "done"})]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.content for answer in answers}) == 1, {answer.content for answer in answers}
    headers = [{k: v for k, v in a.headers.items() if k not in ("Date", "X-Request-Id")} for a in answers]
    assert all(h == headers[0] for h in headers), headers
    assert everybody.balance(platform.other) == before


def test_an_empty_filter_of_ones_own_message_is_no_absence(platform, bound):
    sent = bound("send").post("/messages/send", {"text": "hi", "recipients": [recipient()]}).json()
    page = bound("read").get("/messages/history", message_identifier=sent["message_identifier"], status="failed")
    assert page.status_code == 200 and page.json()["history"] == []


# ---- change ----

def test_a_revoked_key_dies_everywhere(world):
    stack = world("api", replicas={"api": 2, "outboxd": 1, "consumerd": 1}, API_AUTH="required")
    key = keys.create(stack, scopes="send,read,topup")
    apis = [KeyedApi(stack.url(f"api-{i}"), key) for i in (1, 2)]
    customer = new_customer()
    for api in apis:
        keys.wait_known(api)
    assert apis[0].top_up(customer, 1000).status_code == 200
    assert [api.send(customer).status_code for api in apis] == [200, 200]
    keys.revoke(stack, key)
    began = time.monotonic()
    for api in apis:
        wait_until(lambda api=api: api.send(customer).status_code == 401, REVOKED_WITHIN, "refused", pause=0.02)
    assert time.monotonic() - began < REVOKED_WITHIN
    assert {api.get("/balance", user_id=customer).status_code for api in apis} == {401}


def test_a_replica_that_answers_knows_its_keys(world, request):
    """Who replaces another one under load refuses nobody, however slow its database is."""
    stack = world("api", API_AUTH="required")
    api = KeyedApi(stack.url("api-1"), keys.create(stack, scopes="read"))
    proxy = FaultProxy(stack.values["DB_HOST"], int(stack.values["DB_PORT"]))
    request.addfinalizer(proxy.close)
    proxy.delay(0.05)
    stack.stop("api-1")
    stack.start_without_waiting("api-1", DB_HOST="127.0.0.1", DB_PORT=proxy.port)

    def first_answer():
        with contextlib.suppress(requests.ConnectionError):
            return [api.get("/balance", user_id=1)]  # a refusal is one, too

    [answer] = wait_until(first_answer, 20, "it listens", pause=0.01)
    assert answer.status_code == 200, answer.text
    stack.stop("api-1")


def test_keys_that_cannot_be_read(world):
    """Money stops within three seconds, reads go on for as long as is set, figures longer still; all of it
    comes back by itself."""
    stack = world("api", API_AUTH="required", API_METRICS="key", API_KEYS_STALE_SEC=6)
    api = KeyedApi(stack.url("api-1"), keys.create(stack, scopes="send,read,topup,metrics"))
    keys.wait_known(api)
    customer = new_customer()
    assert api.top_up(customer, 1000).status_code == 200
    # The rest of the database is as well as ever.
    stack.db.execute("RENAME TABLE change_counters TO change_counters_away")
    began = time.monotonic()
    try:
        wait_until(lambda: api.send(customer).status_code == 503, REVOKED_WITHIN + 1.5, "sends end", pause=0.05)
        ended = time.monotonic() - began
        for answer in (api.send(customer), api.top_up(customer, 1)):
            assert "Keys cannot be checked" in assert_error(answer, 503, "unavailable")["message"]
        assert api.get("/balance", user_id=customer).status_code == 200
        assert KeyedApi(api.url, "nonsense").send(customer).status_code == 401
        wait_until(lambda: api.get("/balance", user_id=customer).status_code == 503, 10, "reads end", pause=0.05)
        assert 4 < time.monotonic() - began and ended < 4.5
        assert api.get("/metrics").status_code == 200
    finally:
        stack.db.execute("RENAME TABLE change_counters_away TO change_counters")
    wait_until(lambda: api.send(customer).status_code == 200, 10, "sends begin again")


# ---- limits, and what is told ----

def test_failures_of_an_address_are_limited(world):
    stack = world("api", API_AUTH="required", AUTH_FAILURE_RATE_LIMIT_RPS=1, AUTH_FAILURE_RATE_LIMIT_BURST=3)
    good = KeyedApi(stack.url("api-1"), keys.create(stack, scopes="read"))
    stranger = Api(stack.url("api-1"))
    codes = [stranger.get("/balance", user_id=1).status_code for _ in range(10)]
    assert codes[0] == 401 and codes[-1] == 429 and set(codes) == {401, 429}
    assert_error(stranger.get("/balance", user_id=1), 429, "rate_limit_exceeded")
    wait_until(lambda: good.get("/balance", user_id=1).status_code == 200, 10, "a good key passes")
    assert stack.log_text("api-1").count('"auth.refused"') < 10


def test_top_ups_are_on_record_and_keys_are_not(platform, ring):
    answer = KeyedApi(platform.url("api-1"), ring["topup", "own"]).post("/balance/add", {"balance": 7}).json()
    log = platform.log_text("api-1")
    (line,) = [json.loads(text) for text in log.splitlines() if answer["transaction_id"] in text]
    assert line["event"] == "admin.topup" and line["result"] == "done" and line["peer"] == "127.0.0.1"
    assert (line["customer_id"], line["amount"]) == (platform.customer, 7) and line["key_id"] > 0
    for key in ring.values():
        assert not key or key == "msg_local_nonsense_1" or key.split("_")[2] not in log


# ---- the pages ----

def test_pages_that_are_off(world):
    api = world("api", API_METRICS="off", API_STATUS="off", API_SWAGGER="off").api()
    for path in ("/metrics", "/status", "/status.json", "/swagger/openapi.yaml", "/swagger"):
        assert_error(api.get(path), 404, "not_found")
    assert api.get("/healthz").status_code == api.get("/readyz").status_code == 200


def test_a_listener_of_their_own(world):
    ports = PortRange()
    try:
        stack = world("api", API_AUTH="required", ADMIN_LISTEN_ADDR=f"127.0.0.1:{ports.base}")
        front, behind = Api(stack.url("api-1")), Api(f"http://127.0.0.1:{ports.base}")
        for path in ("/metrics", "/status", "/status.json"):
            assert front.get(path).status_code == 404 and behind.get(path).status_code == 200
        for path in ("/healthz", "/readyz"):
            assert front.get(path).status_code == behind.get(path).status_code == 200
        assert behind.get("/balance", user_id=1).status_code == 404
        assert behind.send(1).status_code == 413  # it has no use for any body
        assert Metrics.of(behind.url).sum("http_requests_total", path="/metrics", status="200") >= 1
        stack.stop("api-1")
        with contextlib.suppress(requests.ConnectionError):
            raise AssertionError(behind.get("/healthz"))
    finally:
        ports.release()


def test_listeners_share_the_descriptors():
    """Both crowded by connections that say nothing, they leave those that database and broker need."""
    ports, files, beside = PortRange(), 200, 22
    with contextlib.ExitStack() as crowd:
        crowd.callback(ports.release)
        server = raw.Server("api", files=files, HTTP_READ_TIMEOUT_MS=30000, ADMIN_LISTEN_ADDR=f"127.0.0.1:{ports.base}")
        crowd.callback(server.stop)
        addresses = [("127.0.0.1", port) for port in (server.port, ports.base)]
        for _ in range(300):
            for address in addresses:
                crowd.enter_context(socket.create_connection(address, 10))
        for address in addresses:
            with socket.create_connection(address, 10) as s:
                s.sendall(raw.CLOSE)
                assert raw.read_all(s).startswith(b"HTTP/1.1 200 ")
            assert len(os.listdir(f"/proc/{server.process.pid}/fd")) <= files - beside


# ---- without keys ----

def test_nobody_is_asked_where_it_is_off(world):
    api = world("api", API_AUTH="off").api()
    for headers in ({}, {"Authorization": "Bearer nonsense"}, {"X-Api-Key": "a", "Authorization": "Bearer b"}):
        assert api.request("GET", "/balance?user_id=1", headers=headers).status_code == 200
    assert not Metrics.of(api.url).series("msg_auth_failures_total")


def test_a_run_with_keys_is_one(shared):
    """Where the environment wants keys, whoever brings none is asked for one."""
    answer = Api(shared.url("api-1")).get("/balance", user_id=1)
    assert answer.status_code == (401 if os.environ.get("API_AUTH") == "required" else 200)
    assert shared.api().get("/balance", user_id=1).status_code == 200


def test_a_load_with_a_key(platform, ring, tmp_path):
    (tmp_path / "key").write_text(platform.all + "\n")
    words = ["-base-url", platform.url("api-1"), "-api-key-file", tmp_path / "key", "-duration", "1s", "-rps", "50",
             "-users", "1", "-user-start", str(platform.customer)]
    done = subprocess.run([BUILD / "test" / "loadtest" / "msg-loadtest", *words], capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 0 and "non2xx=0 http_err=0" in done.stdout, done.stdout + done.stderr
