"""The calls that existing clients make, as they are written in their documentation."""

import json
import re
import subprocess
import uuid

import pytest
from harness.audit import audit, quiesce
from harness.metrics import Metrics
from harness.stack import REPOSITORY
from harness.wait import wait_until

SEND = r"""curl --location 'http://localhost:8080/messages/send' \
--header 'Content-Type: application/json' \
--data '{
"customer_id": 1,
"text": "hi",
"recipients": [
"09128582812",
"091285284834"
],
"type": "normal"
}'"""
HISTORY = ("curl --location 'localhost:8080/messages/history?user_id=1&status=pending"
           "&message_identifier=88636fb2-dd01-42a4-a718-1fe200683a45'")
BALANCE = 'curl "http://localhost:8080/balance?user_id=1"'
ADD = r"""curl -X POST http://localhost:8080/balance/add \
-H 'Content-Type: application/json' \
-d '{"user_id":1,"balance":100,"description":"top-up"}'"""


@pytest.fixture
def curl(world):
    stack = world()
    api = stack.api()

    def call(command):
        port = api.url.rsplit(":", 1)[1]
        done = subprocess.run(["bash", "-c", command.replace("localhost:8080", f"localhost:{port}")
                               + "".join(f" --header '{name}: {value}'" for name, value in api.headers.items())
                               + " --silent --show-error --write-out '\\n%{http_code}'"],
                              stdout=subprocess.PIPE, text=True, check=True, timeout=30)
        body, _, status = done.stdout.rpartition("\n")
        return int(status), json.loads(body)

    call.stack = stack
    return call


def test_four_example_calls(curl):
    assert curl(BALANCE) == (200, {"balance": 0, "transactions": [], "next_cursor": None})

    status, answer = curl(ADD)
    assert status == 200
    assert answer["status"] == "done" and answer["balance"] == 100 and answer["transaction_id"]

    status, answer = curl(SEND)
    assert status == 200
    assert answer["status"] == "processing" and answer["recipients"] == 2 and answer["price"] == 2
    identifier = answer["message_identifier"]
    assert uuid.UUID(identifier).version == 7

    assert curl(HISTORY) == (200, {"history": [], "next_cursor": None})
    api = curl.stack.api()
    assert api.wait_final(1, identifier) == {"09128582812": "done", "091285284834": "done"}

    status, answer = curl(BALANCE)
    assert status == 200 and answer["balance"] == 98
    assert [(t["transaction_type"], t["amount"]) for t in answer["transactions"]] \
        == [("withdrawal", -2), ("deposit", 100)]
    assert answer["transactions"][1]["description"] == "top-up"

    quiesce(curl.stack)
    assert audit(curl.stack) == []


def test_calls_of_the_readme(curl):
    section = (REPOSITORY / "README.md").read_text().split("## The four calls\n")[1].split("\n## ")[0]
    add, send, looks = re.findall(r"```sh\n(.*?)\n```", section, re.DOTALL)
    example = json.loads(re.search(r"```json\n(.*?)\n```", section, re.DOTALL)[1])
    history, balance = looks.splitlines()
    assert curl(add)[0] == 200
    status, answer = curl(send)
    assert status == 200 and set(answer) == set(example)
    assert {**answer, "message_identifier": example["message_identifier"]} == example
    curl.stack.api().wait_final(1, answer["message_identifier"])
    status, page = curl(history)
    assert status == 200 and {row["status"] for row in page["history"]} == {"done"} and len(page["history"]) == 2
    status, answer = curl(balance)
    assert status == 200 and answer["balance"] == 98


def test_message_reaches_the_operator_as_sent(shared):
    api = shared.api()
    customer = api.funded()
    sent = api.sent(customer, ["+989121234567"], text="سلام 👋", type="express")
    assert sent["price"] == 3
    assert api.wait_final(customer, sent["message_identifier"]) == {"+989121234567": "done"}
    entry = shared.operator_a.entry(sent["message_identifier"] + "-0")
    assert entry["to"] == "+989121234567"
    row = api.history(user_id=customer)[0]
    assert row["provider"] == "operatorA" and row["type"] == "express" and row["status"] == "done"
    assert row["user_id"] == customer and row["recipient"] == "+989121234567"
    moment = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"
    assert re.fullmatch(moment, row["created_at"]) and re.fullmatch(moment, row["updated_at"])


def test_repeated_recipients_count_once(shared):
    api = shared.api()
    customer = api.funded(10)
    sent = api.sent(customer, ["0912", "0913", "0912", "0913", "0912"])
    assert sent["recipients"] == 2 and sent["price"] == 2
    assert api.wait_final(customer, sent["message_identifier"]) == {"0912": "done", "0913": "done"}
    assert api.balance(customer) == 8


def test_bodies_are_json_or_what_curl_says_of_itself(shared):
    api = shared.api()
    customer = api.funded()
    body = json.dumps({"customer_id": customer, "text": "hi", "recipients": ["0912"]}).encode()
    for content_type in ("application/json;charset=utf-8", "application/x-www-form-urlencoded", ""):
        response = api.post("/messages/send", body, **{"Content-Type": content_type})
        assert response.status_code == 200, (content_type, response.text)
        assert response.json()["price"] == 1  # type defaults to normal


def test_a_page_of_another_site_spends_and_adds_nothing(shared):
    """What a page may send without asking first is refused, and nobody says that it may ask."""
    api = shared.api()
    customer = api.funded(10)
    bodies = {"/balance/add": {"user_id": customer, "balance": 5},
              "/messages/send": {"customer_id": customer, "text": "hi", "recipients": ["0912"]}}
    page = {"Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    for path, body in bodies.items():
        data = json.dumps(body).encode()
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
            for headers in (page, {"Origin": "null"}, {"Sec-Fetch-Site": "none"}):
                response = api.post(path, data, **{"Content-Type": kind}, **headers)
                assert response.status_code == 415, (kind, headers, response.text)
                assert response.json()["error"] == "unsupported_media_type"
        asked = api.request("OPTIONS", path, headers={**page, "Access-Control-Request-Method": "POST"})
        assert asked.status_code == 405
        assert not [name for name in asked.headers if name.lower().startswith("access-control")]
    assert api.balance(customer) == 10 and api.history(user_id=customer) == []


def test_402_leaves_nothing_and_sends_nothing(shared):
    api = shared.api()
    customer = api.funded(5)
    response = api.send(customer, [f"0912{i}" for i in range(6)])
    assert response.status_code == 402 and response.json()["error"] == "insufficient_balance"
    response = api.send(customer, ["09120", "09121"], type="express")
    assert response.status_code == 402
    assert api.balance(customer) == 5 and api.history(user_id=customer) == []
    assert [row[0] for row in shared.db.ledger(customer)] == ["deposit"]
    # The last unit can be spent, nothing beyond it.
    api.sent(customer, [f"0912{i}" for i in range(5)])
    assert api.send(customer).status_code == 402
    assert api.balance(customer) == 0


def test_health_and_readiness(shared):
    api = shared.api()
    response = api.get("/healthz")
    assert response.status_code == 200 and response.json() == {"status": "ok"}
    ready = {"status": "ready", "dependencies": {"mysql": "ok", "rabbitmq": "ok"}}
    lanes = {"lanes": {"normal": "ok", "express": "ok"}}
    for url, more in (api.url, {}), (shared.url("outboxd-1"), lanes), (shared.url("consumerd-1"), lanes):
        response = type(api)(url).get("/readyz")
        assert response.status_code == 200 and response.json() == {**ready, **more}, url
    response = api.get("/readyz", **{"for": "traffic"})
    assert response.status_code == 200 and response.json()["status"] == "ready"


API_METRICS = {
    "http_requests_total", "http_request_duration_seconds_bucket", "rate_limited_requests_total",
    "backpressure_rejections_total", "current_outbox_pending_events", "db_queries_total",
    "db_query_duration_seconds_bucket"}
CONSUMER_METRICS = {
    "operator_calls_total", "operator_duration_seconds_bucket", "worker_events_total",
    "worker_event_duration_seconds_bucket", "db_queries_total"}


def test_metrics_keep_their_names_and_labels(shared):
    api = shared.api()
    customer = api.funded()
    before = api.metrics().sum("http_requests_total", path="/messages/send", method="POST",
                               status="200")
    sent = api.sent(customer)
    api.wait_final(customer, sent["message_identifier"])
    wait_until(lambda: api.metrics().sum("http_requests_total", path="/messages/send", method="POST",
                                         status="200") == before + 1, 5, "the send is counted")
    metrics = api.metrics()
    assert API_METRICS <= metrics.names(), API_METRICS - metrics.names()
    assert {l["scope"] for l, _ in metrics.series("rate_limited_requests_total")} \
        == {"global", "user", *(["address"] if shared.asks_keys else [])}  # that of keys that are none
    assert {"query", "result"} <= set(metrics.series("db_queries_total")[0][0])
    consumer = Metrics.of(shared.url("consumerd-1"))
    assert CONSUMER_METRICS <= consumer.names(), CONSUMER_METRICS - consumer.names()
    assert consumer.sum("operator_calls_total", operator="operatorA") > 0
    assert {l["operator"] for l, _ in consumer.series("operator_calls_total")} \
        == {"operatorA", "operatorB"}
    for url in (api.url, shared.url("outboxd-1"), shared.url("consumerd-1")):
        text = " ".join(str(l) for _, l, _ in Metrics.of(url).samples)
        assert str(customer) not in text and sent["message_identifier"] not in text


def test_logs_are_json_and_silent_about_content(shared):
    api = shared.api()
    customer = api.funded()
    number, text = "09351112223334", "a text that nobody else sends"
    sent = api.sent(customer, [number], text=text)
    api.wait_final(customer, sent["message_identifier"])
    for name in ("api-1", "outboxd-1", "consumerd-1"):
        log = shared.log_text(name)
        assert log.strip(), name
        for line in log.splitlines():
            json.loads(line)
        assert number not in log and text not in log, name
        assert shared.values["DB_PASSWORD"] not in log, name
