"""Spans over TLS: to a collector whose certificate is checked, and that may ask for ours."""

import pytest
from harness.authority import Authority
from harness.collector import GRPC_PATH, Collector, server_tls
from harness.metrics import Metrics
from harness.wait import wait_until

WAYS = {
    "http": lambda c: {"OTEL_EXPORTER_OTLP_ENDPOINT": c.url},
    "grpc": lambda c: {"OTEL_EXPORTER_OTLP_ENDPOINT": c.address},
    "grpc-url": lambda c: {"OTEL_EXPORTER_OTLP_ENDPOINT": c.url, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
}
over = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    class Files:
        folder = tmp_path_factory.mktemp("tls")
        ours, foreign = Authority(folder, "ours"), Authority(folder, "foreign")
        here = ours.issue("collector", "IP:127.0.0.1")
        elsewhere = ours.issue("elsewhere", "DNS:collector.example")
        expired = ours.issue("expired", "IP:127.0.0.1", days=-1)
        client = ours.issue("client", "DNS:client.example")
    return Files


@pytest.fixture(scope="module")
def api_alone(module_world):
    return module_world("api")


@pytest.fixture
def spans(api_alone):
    """spans(way, collector, SETTING=…): restarts the API; make(n) has it record n spans."""
    def start(way, collector, **settings):
        api_alone.restart("api-1", OTEL_BSP_SCHEDULE_DELAY=20, **WAYS[way](collector), **settings)

        def make(n=1):
            for _ in range(n):
                assert api_alone.api().get("/balance", user_id=1).status_code == 200
        return make
    return start


def results(stack):
    return {labels["result"]: int(value) for labels, value
            in Metrics.of(stack.url("api-1")).series("msg_trace_spans_total")}


@over
def test_an_authority_of_ones_own(api_alone, spans, files, way):
    with Collector(tls=server_tls(files.here)) as collector:
        make = spans(way, collector, OTEL_EXPORTER_OTLP_CERTIFICATE=files.ours.certificate)
        for n in (1, 2, 3):  # one export after the other
            make()
            collector.wait_spans(n)
            wait_until(lambda: results(api_alone)["exported"] == n, 10)
        lost = {k: v for k, v in results(api_alone).items() if k != "exported"}
        assert set(lost.values()) == {0}
        assert {r.path for r in collector.requests} == {"/v1/traces" if way == "http" else GRPC_PATH}
        assert collector.protocols == {"http": {"http/1.1"}}.get(way, {"h2"})
        assert collector.handshakes == 1, "the connection is kept"
        assert not collector.refused


@over
@pytest.mark.parametrize("case, said", [
    ("foreign", "unable to get local issuer certificate"), ("system", "unable to get local issuer certificate"),
    ("elsewhere", "no alternative certificate subject name matches"), ("expired", "certificate has expired"),
    ("old", "protocol version")])
def test_who_is_not_trusted_gets_nothing(api_alone, spans, files, way, case, said):
    """Spans are dropped and counted, the log says why, and requests are answered as ever."""
    authority = {"foreign": files.foreign.certificate, "system": ""}.get(case, files.ours.certificate)
    shown = {"elsewhere": files.elsewhere, "expired": files.expired}.get(case, files.here)
    with Collector(tls=server_tls(shown, old=case == "old")) as collector:
        make = spans(way, collector, OTEL_EXPORTER_OTLP_CERTIFICATE=authority, OTEL_BSP_EXPORT_TIMEOUT=1000)
        make(5)
        result = "unreachable" if case == "old" else "refused"
        wait_until(lambda: results(api_alone)[result] == 5, 15, lambda: results(api_alone))
        assert results(api_alone)["exported"] == 0
        assert not collector.requests
        last = [line for line in api_alone.log_text("api-1").splitlines() if "trace.export_failed" in line][-1]
        assert said in last, last


@over
def test_a_collector_that_asks_who_we_are(api_alone, spans, files, way):
    with Collector(tls=server_tls(files.here, clients=files.ours.certificate)) as collector:
        trust = {"OTEL_EXPORTER_OTLP_CERTIFICATE": files.ours.certificate}
        make = spans(way, collector, **trust, OTEL_BSP_EXPORT_TIMEOUT=1000)
        make()
        wait_until(lambda: sum(results(api_alone).values()) == 1, 15)
        assert results(api_alone)["exported"] == 0
        assert not collector.requests and collector.refused
        certificate, key = files.client
        make = spans(way, collector, **trust, OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE=certificate,
                     OTEL_EXPORTER_OTLP_CLIENT_KEY=key)
        make()
        collector.wait_spans(1)
