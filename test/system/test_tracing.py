"""Spans that leave msg-api, and collectors that behave badly."""

import gzip
import http.client  # where requests would join repeated headers
import re
import time
from email.utils import formatdate

import pytest
from harness.client import recipient
from harness.collector import GRPC_PATH, Answer, Collector, partial, retry_info
from harness.memory import peak_mib
from harness.metrics import Metrics
from harness.wait import wait_until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SERVER, UNSET, ERROR = 2, 0, 2
FAST = {"OTEL_BSP_SCHEDULE_DELAY": 20}


def over_http(collector):
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}


def over_grpc(collector):
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.address, "OTEL_EXPORTER_OTLP_INSECURE": "true"}


def over_grpc_by_url(collector):
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}


@pytest.fixture(scope="module")
def api_alone(module_world):
    return module_world("api")


@pytest.fixture
def traced(api_alone):
    """traced(collector settings…): an API, started anew, that exports at once."""
    def make(settings, **more):
        api_alone.restart("api-1", **{**FAST, **settings, **more})
        return api_alone
    return make


def counts(stack):
    metrics = Metrics.of(stack.url("api-1"))
    return {labels["result"]: value for labels, value in metrics.series("msg_trace_spans_total")}


def wait_counts(stack, deadline=15, **expected):
    def reached():
        have = counts(stack)
        return all(have[k] >= v for k, v in expected.items()) and have
    have = wait_until(reached, deadline, lambda: f"{expected}, not {counts(stack)}")
    assert {k: have[k] for k in expected} == expected
    return have


def traceparent(flags="01", trace=TRACE, parent=PARENT):
    return f"00-{trace}-{parent}-{flags}"


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("way", [over_http, over_grpc, over_grpc_by_url])
def test_server_spans_arrive(traced, way, compression):
    with Collector() as collector:
        stack = traced(way(collector), OTEL_EXPORTER_OTLP_COMPRESSION=compression,
                       OTEL_EXPORTER_OTLP_HEADERS="x-token=a%20b%3D1",
                       OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=t%20b")
        api = stack.api()
        customer = api.funded()
        before = time.time_ns()
        response = api.post("/messages/send", {"customer_id": customer, "text": "hi", "type": "normal",
                                               "recipients": [recipient()]},
                            traceparent=traceparent(), tracestate="k=v")
        after = time.time_ns()
        assert response.status_code == 200
        api.get("/balance", user_id=customer, limit="none")
        api.get("/healthz"), api.get("/readyz"), api.get("/nothing")
        spans = collector.wait_spans(4)
        wait_counts(stack, exported=4)

    top_up, send, balance = (s for s in spans if s.kind == SERVER)
    assert (send.trace_id, send.parent, send.kind) == (TRACE, PARENT, SERVER)
    assert send.id not in (PARENT, "0" * 16) and len(send.id) == 16
    assert send.name == "POST /messages/send" and send.pb.trace_state == "k=v"
    assert send.pb.flags == 0x301 and send.pb.status.code == UNSET
    # The clocks of two processes on one machine agree.
    assert before - 2_000_000 <= send.pb.start_time_unix_nano <= send.pb.end_time_unix_nano \
        <= after + 2_000_000
    host, port = stack.url("api-1").removeprefix("http://").split(":")
    assert send.attributes == {
        "http.request.method": "POST", "http.route": "/messages/send", "url.scheme": "http",
        "url.path": "/messages/send", "http.response.status_code": 200, "user.id": str(customer),
        "server.address": host, "server.port": int(port), "client.address": "127.0.0.1",
        "client.port": send.attributes["client.port"]}
    assert top_up.parent == "" and top_up.name == "POST /balance/add"
    assert balance.name == "GET /balance" and balance.attributes["http.response.status_code"] == 400
    assert "error.type" not in balance.attributes and balance.pb.status.code == UNSET
    assert send.resource["service.name"] == "msg-api"
    assert send.resource["deployment.environment.name"] == "t b"
    request = collector.requests[0]
    assert request.headers["x-token"] == "a b=1"
    if way is over_http:
        assert request.path == "/v1/traces"
        assert request.headers["content-type"] == "application/x-protobuf"
        assert request.headers.get("content-encoding", "none") == compression
    else:
        assert request.path == GRPC_PATH and request.headers["te"] == "trailers"
        assert request.headers["content-type"] == "application/grpc"
    assert "a b=1" not in stack.log_text("api-1") and "a%20b" not in stack.log_text("api-1")


def test_an_error_of_ours_is_one_in_the_span(traced):
    with Collector() as collector:
        stack = traced(over_http(collector), BACKPRESSURE_OUTBOX_PENDING_THRESHOLD=0)
        api = stack.api()
        customer = api.funded()
        wait_until(lambda: api.send(customer).status_code == 503, 10)
        failed = wait_until(lambda: [s for s in collector.spans if s.pb.status.code == ERROR], 10)[0]
        assert failed.attributes["http.response.status_code"] == 503
        assert failed.attributes["error.type"] == "503"


def test_context_headers_given_twice(traced):
    with Collector() as collector:
        api = traced(over_http(collector)).api()
        connection = http.client.HTTPConnection(api.url.removeprefix("http://"))
        for parents, states in (([traceparent()] * 2, ["a=1"]), ([traceparent()], ["a=1", "b=2"])):
            connection.putrequest("GET", "/balance?user_id=1")
            for value in parents:
                connection.putheader("traceparent", value)
            for value in states:
                connection.putheader("tracestate", value)
            for name, value in api.headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            assert connection.getresponse().read()
        ignored, joined = collector.wait_spans(2)
        assert ignored.trace_id != TRACE and ignored.parent == "" and ignored.pb.trace_state == ""
        assert joined.trace_id == TRACE and joined.pb.trace_state == "a=1,b=2"


def test_the_callers_decision_holds(traced):
    with Collector() as collector:
        stack = traced(over_http(collector), OTEL_TRACES_SAMPLER="parentbased_always_off")
        api = stack.api()
        for header in ({}, {"traceparent": traceparent("00")}, {"traceparent": traceparent("01")}):
            api.request("GET", "/balance?user_id=1", headers=header)
        assert [s.trace_id for s in collector.wait_spans(1)] == [TRACE]
        wait_counts(stack, exported=1)


def test_the_span_is_the_context_that_is_stored(traced):
    with Collector() as collector:
        stack = traced(over_http(collector))
        api = stack.api()
        identifier = api.sent(api.funded())["message_identifier"]
        sent = wait_until(
            lambda: [s for s in collector.spans if s.name == "POST /messages/send"], 10)[0]
        stored = stack.db.value("SELECT traceparent FROM messages WHERE message_identifier=%s",
                                identifier)
        assert stored == f"00-{sent.trace_id}-{sent.id}-03"


# -- collectors that behave badly ------------------------------------------------------------------

BUSY = Answer(status=503, grpc=14)


@pytest.mark.parametrize("way, answers, least, most", [
    (over_http, [Answer(429, {"Retry-After": "2"})], 1.9, 4),
    (over_http, [lambda: Answer(503, {"Retry-After": formatdate(time.time() + 3, usegmt=True)})], 0.9, 5),
    (over_http, [BUSY], 0.4, 3),
    (over_http, [Answer(502)], 0.4, 3),
    (over_http, [Answer(garbage=b"")], 0.4, 3),
    (over_grpc, [Answer(grpc=14)], 0.4, 3),
    (over_grpc, [Answer(grpc=14, trailers_only=True)], 0.4, 3),
    (over_grpc, [Answer(grpc=8, details=retry_info(2))], 1.9, 4),
    (over_grpc, [Answer(garbage=b"")], 0.4, 3),
], ids=["429", "503-date", "503", "502", "disconnect", "grpc-unavailable", "grpc-trailers-only",
        "grpc-retry-info", "grpc-disconnect"])
def test_repeated_when_it_may_help(traced, way, answers, least, most):
    with Collector([Answer()]) as collector:
        stack = traced(way(collector))
        collector.answers = [a() if callable(a) else a for a in answers] + [Answer()]
        stack.api().get("/balance", user_id=1)
        wait_until(lambda: len(collector.requests) == 2, 10)
        wait_counts(stack, exported=1, unreachable=0, refused=0)
        first, second = collector.requests
        assert [s.id for s in first.spans] == [s.id for s in second.spans]
        assert least <= second.at - first.at <= most


@pytest.mark.parametrize("way, answer, result", [
    (over_http, Answer(400), "refused"),
    (over_http, Answer(500), "refused"),
    (over_http, Answer(garbage=b"\x00\xffnonsense\r\n\r\n"), "refused"),
    (over_http, Answer(body=b"x" * 5_000_000), "refused"),
    (over_http, Answer(body=b"\xff" * 1000), "exported"),
    (over_http, Answer(body=partial(1)), "rejected"),
    (over_grpc, Answer(grpc=3), "refused"),
    (over_grpc, Answer(grpc=8), "refused"),
    (over_grpc, Answer(grpc=3, trailers_only=True), "refused"),
    (over_grpc, Answer(status=404, grpc=12), "refused"),
    (over_grpc, Answer(body=partial(1)), "rejected"),
    (over_grpc, Answer(body=b"\xff" * 1000), "exported"),
], ids=["400", "500", "garbage", "huge", "odd-body", "partial", "grpc-invalid", "grpc-exhausted",
        "grpc-trailers-only", "grpc-404", "grpc-partial", "grpc-odd-body"])
def test_not_repeated_when_it_cannot_help(traced, way, answer, result):
    with Collector([answer]) as collector:
        stack = traced(way(collector))
        for n in (1, 2):
            stack.api().get("/balance", user_id=1)
            wait_counts(stack, **{result: n})
        assert len(collector.requests) == 2


@pytest.mark.parametrize("way", [over_http, over_grpc])
@pytest.mark.parametrize("answer", [Answer(silent=True), Answer(byte_every=1), Answer(garbage=b""),
                                    BUSY, None],
                         ids=["silent", "byte-a-second", "disconnect", "503", "refused"])
def test_a_bad_collector_costs_dropped_spans_alone(traced, way, answer):
    """The API answers at its pace, spans are counted as lost, and SIGTERM is not held up."""
    if way is over_grpc and answer and answer.byte_every:
        answer = Answer(garbage=b"\0\0\x12\4\0\0\0\0\0")  # half of what it should say
    with Collector([answer or Answer()]) as collector:
        settings = way(collector)
        if not answer:
            collector.refuse()
        stack = traced(settings, OTEL_BSP_MAX_QUEUE_SIZE=20, OTEL_BSP_MAX_EXPORT_BATCH_SIZE=10)
        api = stack.api()
        slowest = 0
        for _ in range(300):
            began = time.monotonic()
            assert api.get("/balance", user_id=1).status_code == 200
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 2
        have = wait_counts(stack, exported=0)
        assert have["queue_full"] > 200, have
        began = time.monotonic()
        stack.stop("api-1")
        took = time.monotonic() - began
        stack.start("api-1")
        assert took < 8


OK = b"HTTP/1.1 200 OK\r\n"
HOSTILE = {
    "endless headers": Answer(garbage=OK, endless=b"X-Header: " + b"x" * 1000 + b"\r\n"),
    "an endless header": Answer(garbage=OK + b"X-Header: ", endless=b"x" * 4096),
    "an endless body": Answer(garbage=OK + b"Content-Length: 999999999999\r\n\r\n", endless=b"x" * 4096),
    "endless chunks": Answer(garbage=OK + b"Transfer-Encoding: chunked\r\n\r\n", endless=b"1\r\nx\r\n" * 500),
    "endless trailers": Answer(garbage=OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", endless=b"X: y\r\n" * 500),
    "endless interim answers": Answer(garbage=b"", endless=b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n" * 100),
    "a gzip bomb": Answer(headers={"Content-Encoding": "gzip"}, body=gzip.compress(bytes(1 << 28))),
    "a redirect inside": Answer(307, {"Location": "http://169.254.169.254/latest/meta-data/"}),
    "a length too short": Answer(headers={"Content-Length": 5}, body=b"x" * 50),
    "a length too long": Answer(headers={"Content-Length": 5000}, body=b"x" * 50),
    "a length beyond all numbers": Answer(headers={"Content-Length": "9" * 40}),
    "control characters": Answer(headers={"X": "\x1b[2J\x07"}, body=partial(1, "\x1b[2J\0\x07\r\n\u2028")),
    "a byte a second": Answer(byte_every=1),
    "no HTTP": Answer(garbage=bytes(range(256)) * 40),
}


@pytest.mark.parametrize("way", HOSTILE)
def test_a_hostile_collector_costs_little(traced, way):
    with Collector([HOSTILE[way]]) as collector:
        stack = traced(over_http(collector), OTEL_EXPORTER_OTLP_TIMEOUT=2000,
                       OTEL_BSP_EXPORT_TIMEOUT=3000)
        before, began = peak_mib(stack.pid("api-1"), begin=True), time.monotonic()
        for _ in range(20):
            assert stack.api().get("/balance", user_id=1).status_code == 200
        answered = time.monotonic() - began
        wait_until(lambda: sum(counts(stack).values()) >= 20, 30, "each span has its end")
        grown = peak_mib(stack.pid("api-1")) - before
        print(f"{way}: {counts(stack)}, {answered:.1f} s, {grown:.1f} MiB")
        assert answered < 5 and grown < 16
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", stack.log_text("api-1"))
        stack.stop("api-1")
        stack.start("api-1")


def test_what_waits_is_delivered_on_stop(traced):
    with Collector() as collector:
        stack = traced(over_http(collector), OTEL_BSP_SCHEDULE_DELAY=600000)
        for _ in range(5):
            stack.api().get("/balance", user_id=1)
        assert not collector.requests
        stack.stop("api-1")
        assert len(collector.spans) == 5
        stack.start("api-1")


def test_off_by_default(shared):
    shared.api().get("/balance", user_id=1)
    assert set(counts(shared).values()) == {0}
    assert '"event":"trace' not in shared.log_text("api-1")
