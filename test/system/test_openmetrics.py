"""/metrics as OpenMetrics: for a strict parser, and for a Prometheus that stores exemplars."""

import time

import pytest
import requests
from harness import prometheus
from harness.client import recipient
from harness.collector import Collector
from harness.metrics import Metrics
from harness.prometheus import Prometheus
from harness.wait import wait_until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
OPENMETRICS = "application/openmetrics-text"
DAEMONS = ["api-1", "outboxd-1", "consumerd-1"]
TRACED = {"http_request_duration_seconds", "msg_publish_confirm_seconds", "msg_delivery_seconds",
          "worker_event_duration_seconds", "operator_duration_seconds"}

with_prometheus = pytest.mark.skipif(not prometheus.available(),
                                     reason="no Prometheus (make observe-test)")


def strictly(text):
    parser = pytest.importorskip("prometheus_client.openmetrics.parser")
    return list(parser.text_string_to_metric_families(text))


@pytest.fixture(scope="module")
def stack(module_world):
    """One express message to one recipient is traced, the other sends are not."""
    with Collector() as collector:
        made = module_world(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_BSP_SCHEDULE_DELAY=20,
                            OTEL_TRACES_SAMPLER="parentbased_always_off")
        api = made.api()
        customer = api.funded(100)
        sent = [api.sent(customer) for _ in range(5)]
        answer = api.post("/messages/send", {"customer_id": customer, "text": "hi", "type": "express",
                                             "recipients": [recipient()]},
                          traceparent=f"00-{TRACE}-{PARENT}-01")
        assert answer.status_code == 200, answer.text
        for one in [*sent, answer.json()]:
            api.wait_final(customer, one["message_identifier"])
        made.spans = collector.wait_spans(6)
        yield made


def scrape(stack, name, accept):
    return requests.get(stack.url(name) + "/metrics", headers={"Accept": accept}, timeout=10)


@pytest.mark.parametrize("name", DAEMONS)
def test_openmetrics_is_for_who_asks(stack, name):
    plain = scrape(stack, name, "*/*")
    assert plain.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "# {" not in plain.text and "# EOF" not in plain.text
    asked = scrape(stack, name, f"{OPENMETRICS};version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1")
    assert asked.headers["Content-Type"] == f"{OPENMETRICS}; version=1.0.0; charset=utf-8"
    assert asked.text.endswith("\n# EOF\n")


@pytest.mark.parametrize("name", DAEMONS)
def test_a_strict_parser_reads_what_plain_text_says(stack, name):
    families = strictly(scrape(stack, name, OPENMETRICS).text)
    plain = Metrics.of(stack.url(name))

    def plainly(labels):
        """A bucket's bound is 5.0 in the one and 5 in the other."""
        return frozenset({k: float(v) if k == "le" else v for k, v in labels.items()}.items())

    assert {(s.name, plainly(s.labels)) for f in families for s in f.samples} \
        == {(n, plainly(l)) for n, l, _ in plain.samples}
    kinds = {f.name: f.type for f in families}
    assert {n.removesuffix("_total") if kind == "counter" else n: kind
            for n, kind in plain.types.items()} == kinds


def test_exemplars_are_spans_that_were_exported(stack):
    found = {}
    for name in DAEMONS:
        for family in strictly(scrape(stack, name, OPENMETRICS).text):
            for sample in family.samples:
                if sample.exemplar:
                    found.setdefault(family.name, []).append((sample, sample.exemplar))
    assert set(found) == TRACED
    spans = {s.id for s in stack.spans if s.trace_id == TRACE}
    for pairs in found.values():
        (sample, exemplar), = pairs
        assert exemplar.labels["trace_id"] == TRACE
        assert exemplar.value <= float(sample.labels["le"])
        assert abs(float(exemplar.timestamp) - time.time()) < 120
    # A batch's exemplar is a message's context; the others are spans of their own.
    sample, exemplar = found["http_request_duration_seconds"][0]
    assert (sample.labels["path"], sample.labels["method"]) == ("/messages/send", "POST")
    assert {pairs[0][1].labels["span_id"] for pairs in found.values()} <= spans
    assert found["msg_delivery_seconds"][0][0].labels["type"] == "express"


@with_prometheus
def test_prometheus_stores_them(stack):
    began = time.time() - 600
    with Prometheus(stack) as watcher:
        watcher.wait_scraped(2)

        def stored():
            answer = watcher.get("/api/v1/query_exemplars", start=began, end=time.time() + 60,
                                 query='{__name__=~".+_seconds_bucket"}')
            return {(series["seriesLabels"]["__name__"].removesuffix("_bucket"), e["labels"]["trace_id"])
                    for series in answer for e in series["exemplars"]}

        wanted = {(name, TRACE) for name in TRACED}
        assert wait_until(lambda: wanted <= stored() and stored(), 20, stored, pause=0.3) == wanted
        # Buckets as they come from OpenMetrics are those that the rules look for.
        late = watcher.query('msg_delivery_seconds_bucket{type="express",le=~"5([.]0)?"}')
        assert [s["value"][1] for s in late] == ["1"]
