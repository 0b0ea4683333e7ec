"""One message, one trace: through HTTP, the commit, the outbox, the broker, operators and the settle; and what is
heard and told of it later.
"""

import pytest
from harness.audit import quiesce
from harness.carrier import Carrier
from harness.collector import Collector
from harness.receipts import KEY, Bringer, section
from harness.receiver import Hooks, Receiver, wait_known
from harness.wait import wait_until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
INTERNAL, SERVER, CLIENT, PRODUCER, CONSUMER = 1, 2, 3, 4, 5
UNSET, ERROR = 0, 2
REJECTED = "0999"


@pytest.fixture(scope="module")
def collector():
    with Collector() as c:
        yield c


@pytest.fixture(scope="module")
def platform(module_world, collector):
    return module_world(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_BSP_SCHEDULE_DELAY=20,
                        OPERATOR_TRIES=1, DELIVERY_RETRY_BASE_MS=300, DELIVERY_RETRY_MAX_MS=300)


@pytest.fixture
def healthy(platform):
    yield platform
    for operator in platform.operators:
        operator.heal()


def send(stack, recipients, trace, type="express", customer=None, flags="01"):
    """Sends as a part of somebody's trace; the identifier, once all is settled."""
    api = stack.api()
    customer = customer or api.funded(100)
    response = api.post("/messages/send", {"customer_id": customer, "text": "a secret text",
                                           "recipients": recipients, "type": type},
                        traceparent=f"00-{trace}-{PARENT}-{flags}", tracestate="k=v")
    assert response.status_code == 200, response.text
    identifier = response.json()["message_identifier"]
    api.wait_final(customer, identifier)
    return identifier


def spans_of(collector, trace, **names):
    """{name: [spans]} of a trace, once there are as many of each as wanted (dots for underscores)."""
    def found():
        by_name = {}
        for span in collector.spans:
            if span.trace_id == trace:
                by_name.setdefault(span.name.split(" ")[0] if span.kind != SERVER else "server",
                                   []).append(span)
        return all(len(by_name.get(n, [])) >= count for n, count in names.items()) and by_name

    by_name = wait_until(found, 15, lambda: f"{names} of {[s.name for s in collector.spans]}")
    assert {n: len(s) for n, s in by_name.items()} == names
    for spans in by_name.values():
        spans.sort(key=lambda s: s.pb.start_time_unix_nano)
    return by_name


def nothing_secret(spans, recipients):
    text = "".join(str(s.pb) for group in spans.values() for s in group)
    assert "secret text" not in text
    assert not [r for r in recipients if r in text]


def test_delivered(healthy, collector):
    stack = healthy
    identifier = send(stack, ["0912345", "0912346"], TRACE)
    spans = spans_of(collector, TRACE, server=1, commit=1, publish=1, process=1, POST=2, settle=2)
    server, commit = spans["server"][0], spans["commit"][0]
    publish, process = spans["publish"][0], spans["process"][0]

    assert (server.parent, server.kind) == (PARENT, SERVER)
    assert (commit.parent, commit.kind) == (server.id, INTERNAL)
    assert (publish.parent, publish.kind) == (server.id, PRODUCER)
    assert (process.parent, process.kind) == (server.id, CONSUMER)
    assert [l.span_id.hex() for l in process.pb.links] == [server.id]
    exchange, queue = stack.broker.exchange, stack.broker.express
    assert publish.name == f"publish {exchange}:{queue}"
    assert process.name == f"process {exchange}:{queue}"
    assert publish.attributes["messaging.batch.message_count"] == publish.attributes["msg.bundle.size"] == 1
    assert process.attributes["msg.done"] == 2 and process.attributes["msg.failed"] == 0
    for call in spans["POST"]:
        assert (call.parent, call.kind) == (process.id, CLIENT)
        assert call.attributes["peer.service"] == "operatorA"
        assert call.attributes["msg.result"] == "accepted"
    for settle in spans["settle"]:
        assert (settle.parent, settle.kind) == (process.id, INTERNAL)
        assert settle.attributes["msg.outcome"] == "done"
        assert settle.attributes["msg.refunded"] is False
    every = [s for group in spans.values() for s in group]
    assert {s.pb.trace_state for s in every} == {"k=v"}
    assert {s.attributes["messaging.message.id"] for s in every if s is not server} == {identifier}
    assert all(s.pb.status.code == UNSET for s in every)
    # In the order of what happened: waits are the gaps.
    times = [commit.pb.end_time_unix_nano, publish.pb.end_time_unix_nano,
             spans["POST"][0].pb.end_time_unix_nano, spans["settle"][0].pb.end_time_unix_nano]
    assert times == sorted(times)
    assert {s.resource["service.name"] for s in every} == {"msg-api", "msg-outboxd", "msg-consumerd"}
    # The operator continues the trace at its own call.
    entry = stack.operator_a.entry(f"{identifier}-0")
    assert entry["traceparent"].split("-")[2] in {c.id for c in spans["POST"]}
    nothing_secret(spans, ["0912345", "0912346"])


def test_failed_over(healthy, collector):
    trace = "b" * 31 + "1"
    healthy.operator_a.faults(status=503, status_share=1)
    send(healthy, ["0912347"], trace)
    spans = spans_of(collector, trace, server=1, commit=1, publish=1, process=1, POST=2, settle=1)
    refused, accepted = spans["POST"]
    assert (refused.attributes["peer.service"], refused.attributes["msg.result"]) == (
        "operatorA", "transient")
    assert refused.pb.status.code == ERROR and "503" in refused.pb.status.message
    assert (accepted.attributes["peer.service"], accepted.pb.status.code) == ("operatorB", UNSET)


def test_failed_and_refunded(healthy, collector):
    trace = "c" * 31 + "1"
    for operator in healthy.operators:
        operator.faults(reject_prefix=REJECTED)
    send(healthy, [REJECTED + "1"], trace, type="normal")
    spans = spans_of(collector, trace, server=1, commit=1, publish=1, process=1, POST=2, settle=1)
    assert spans["settle"][0].attributes["msg.outcome"] == "failed"
    assert spans["settle"][0].attributes["msg.refunded"] is True
    assert spans["process"][0].pb.status.code == ERROR
    nothing_secret(spans, [REJECTED + "1"])


def test_a_retry_is_in_the_same_trace(healthy, collector):
    """Both operators refuse once; the second round delivers."""
    trace = "d" * 31 + "1"
    for operator in healthy.operators:
        operator.faults(status=503, status_times=1)
    send(healthy, ["0912348"], trace)
    spans = spans_of(collector, trace, server=1, commit=1, publish=2, process=2, POST=3, settle=2)
    server = spans["server"][0]
    assert {s.parent for s in spans["publish"] + spans["process"]} == {server.id}
    assert [s.attributes["msg.outcome"] for s in spans["settle"]] == ["retry", "done"]
    first, second = spans["process"]
    # The backoff is the gap between the two.
    assert second.pb.start_time_unix_nano - first.pb.end_time_unix_nano > 50_000_000
    quiesce(healthy)


def test_what_nobody_samples_costs_no_span(healthy, collector):
    trace = "e" * 31 + "1"
    api = healthy.api()
    customer = api.funded(10)
    response = api.post("/messages/send", {"customer_id": customer, "text": "hi", "recipients": ["0912"],
                                           "type": "normal"}, traceparent=f"00-{trace}-{PARENT}-00")
    identifier = response.json()["message_identifier"]
    assert set(api.wait_final(customer, identifier).values()) == {"done"}
    sampled = "f" * 31 + "1"
    send(healthy, ["0912349"], sampled)
    spans_of(collector, sampled, server=1, commit=1, publish=1, process=1, POST=1, settle=1)
    assert not [s for s in collector.spans if s.trace_id == trace]
    entry = healthy.operator_a.entry(f"{identifier}-0")
    assert entry["traceparent"].split("-")[1] == trace


# -- what comes later ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def carrier():
    with Carrier("operatorA") as c:
        yield c


@pytest.fixture(scope="module")
def told(module_world, collector, carrier, tmp_path_factory):
    """One whose operator gives receipts, and whose customers may be called."""
    file = tmp_path_factory.mktemp("operators") / "operators.ini"
    file.write_text(section(carrier.name, carrier.url))
    return module_world(carriers=[carrier], OPERATORS_FILE=file, RECEIPT_REFERENCE_KEY=KEY,
                        RECEIPTS_PUBLIC_URL="http://127.0.0.1:1", WEBHOOK_ALLOW_PRIVATE="127.0.0.1",
                        WEBHOOK_SCHEDULE_SEC="1,1,1", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
                        OTEL_BSP_SCHEDULE_DELAY=20)


def later(collector, trace, name, count):
    """So many spans of that name in a trace, by their beginning, and the one that the message has stored."""
    def found():
        return len([s for s in collector.spans if (s.trace_id, s.name) == (trace, name)]) >= count
    wait_until(found, 20, lambda: f"{count} × {name} of {[s.name for s in collector.spans if s.trace_id == trace]}")
    ours = [s for s in collector.spans if s.trace_id == trace]
    spans = [s for s in ours if s.name == name]
    assert len(spans) == count
    stored, = (s for s in ours if s.name == "POST /messages/send")
    assert {s.parent for s in spans} == {stored.id} and {s.pb.trace_state for s in spans} == {"k=v"}
    assert all(s.pb.flags & 0x300 == 0x300 for s in spans), "the parent is another process's"
    return sorted(spans, key=lambda s: s.pb.start_time_unix_nano)


def test_receipts_are_in_their_messages_trace(told, collector, carrier):
    trace, unsampled = "1" * 32, "2" * 32
    message = send(told, ["0912345", "0912346"], trace)
    other = send(told, ["0912347"], unsampled, flags="00")
    bring = Bringer(told.url("api-1"), carrier.name)
    bring.tell("delivered", other)
    bring.tell("delivered", message, 0, text="a secret text")
    bring.tell("undelivered", message, 1, code=27)
    bring.tell("delivered", message, 0)
    first, second, again = spans = later(collector, trace, "receipt", 3)
    assert [s.kind for s in spans] == [INTERNAL] * 3
    assert {k: first.attributes[k] for k in ("peer.service", "messaging.message.id", "msg.position", "msg.result",
                                             "msg.outcome", "msg.early")} == {
        "peer.service": carrier.name, "messaging.message.id": message, "msg.position": 0, "msg.result": "delivered",
        "msg.outcome": "changed", "msg.early": False}
    assert (second.attributes["msg.position"], second.attributes["msg.reason"]) == (1, "expired")
    assert again.attributes["msg.outcome"] == "repeated"
    assert not [s for s in collector.spans if s.trace_id == unsampled]
    nothing_secret({"receipt": spans}, ["0912345", "0912346"])


def test_a_receipt_that_had_to_wait_is_in_its_messages_trace(told, collector, carrier):
    trace = "3" * 32
    bring = Bringer(told.url("api-1"), carrier.name)
    bring.tell_of("delivered", "early-1")
    carrier.make_id = lambda n: "early-1"
    try:
        send(told, ["0912345"], trace)
    finally:
        carrier.make_id = lambda n: f"{carrier.name}-{n}"
    span, = later(collector, trace, "receipt", 1)
    assert (span.attributes["msg.early"], span.attributes["msg.outcome"]) == (True, "changed")


@pytest.mark.parametrize("batch", [1, 10])
def test_calls_of_endpoints_are_in_their_messages_trace(told, collector, batch):
    trace, unsampled = f"{batch:x}" * 31 + "4", f"{batch:x}" * 31 + "5"
    with Receiver() as receiver:
        api = told.api()
        hooks = Hooks(api, api.funded(100))
        hook = hooks.create(receiver.url + "?token=secret", batch=batch)
        wait_known(told)
        receiver.answer(status=500, first=1)
        message = send(told, ["0912345"], trace, customer=hooks.customer)
        receiver.wait_events(1)
        send(told, ["0912346"], unsampled, customer=hooks.customer, flags="00")
        receiver.wait_events(2)
        failed, taken = spans = later(collector, trace, "POST webhook", 2)
        hooks.call("DELETE", hook["id"])
        wait_known(told, 0)
    assert [s.kind for s in spans] == [CLIENT] * 2
    assert failed.pb.status.code == ERROR and failed.attributes["error.type"] == "500"
    assert failed.attributes["msg.result"] == "error"
    assert taken.pb.status.code == UNSET and "error.type" not in taken.attributes
    assert {k: taken.attributes[k] for k in (
        "http.request.method", "http.response.status_code", "server.address", "server.port", "messaging.message.id",
        "msg.position", "msg.event", "msg.attempt", "msg.result", "messaging.batch.message_count")} == {
        "http.request.method": "POST", "http.response.status_code": 200, "server.address": "127.0.0.1",
        "server.port": receiver.port, "messaging.message.id": message, "msg.position": 0, "msg.event": "message.done", "msg.attempt": 2,
        "msg.result": "delivered", "messaging.batch.message_count": 1}
    assert not [s for s in collector.spans if s.trace_id == unsampled]
    nothing_secret({"webhook": spans}, ["0912345", "token"])
