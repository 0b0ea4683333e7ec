"""What msg-api exports, as OpenTelemetry's own code for JavaScript reads it (make observe-test).

The daemon has no database here: its answers are errors, and those are spans too.
"""

import base64
import json
import os
import queue
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
BUILD = Path(os.environ.get("BUILD_DIR") or HERE.parents[1] / "build").resolve()
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
SERVER, ERROR = 2, 2


class Receiver:
    def __init__(self):
        self.process = subprocess.Popen(["node", "receiver.js"], cwd=HERE, stdout=subprocess.PIPE, text=True)
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.ports = self.next()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(json.loads(line))

    def next(self):
        return self.lines.get(timeout=20)

    def stop(self):
        self.process.terminate()
        self.process.wait(10)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def status(url, **headers):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.stop()


@pytest.fixture
def api(tmp_path):
    """api(SETTING=…): the URL of a msg-api with these settings."""
    processes = []

    def start(**settings):
        port = free_port()
        env = {"PATH": os.environ["PATH"], "LISTEN_ADDR": f"127.0.0.1:{port}", "API_AUTH": "off", "DB_PORT": "1",
               "DB_PASSWORD": "none", "RABBIT_URI": "amqp://a:b@127.0.0.1:1/", "REQUEST_DEADLINE_MS": "200",
               "OTEL_BSP_SCHEDULE_DELAY": "20", **settings}
        with open(tmp_path / "log", "w") as log:
            processes.append(subprocess.Popen([BUILD / "api" / "msg-api"], env=env, stdout=log, stderr=log))
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 20
        while status(url + "/healthz") != 200:
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.05)
        return url

    yield start
    for process in processes:
        process.terminate()
        assert process.wait(30) == 0


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("via", ["http", "grpc"])
def test_others_read_what_is_exported(receiver, api, via, compression):
    address = f"127.0.0.1:{receiver.ports[via]}"
    url = api(OTEL_EXPORTER_OTLP_ENDPOINT=address if via == "grpc" else f"http://{address}",
              OTEL_EXPORTER_OTLP_INSECURE="true", OTEL_EXPORTER_OTLP_COMPRESSION=compression)
    before = time.time_ns()
    assert status(f"{url}/balance?user_id=7", traceparent=f"00-{TRACE}-{PARENT}-01", tracestate="k=v") == 503
    after = time.time_ns()

    got = receiver.next()
    assert (got["via"], got["path"]) == (via, EXPORT if via == "grpc" else "/v1/traces")
    (resource_spans,) = got["request"]["resourceSpans"]
    (scope_spans,) = resource_spans["scopeSpans"]
    (span,) = scope_spans["spans"]
    resource = values(resource_spans["resource"]["attributes"])
    assert resource["service.name"] == "msg-api" and int(resource["process.pid"]) > 1
    assert resource_spans["schemaUrl"].startswith("https://opentelemetry.io/schemas/1.")
    assert scope_spans["scope"]["name"]
    trace, own, parent = (base64.b64decode(span[k]).hex() for k in ("traceId", "spanId", "parentSpanId"))
    assert (trace, parent, span["traceState"]) == (TRACE, PARENT, "k=v")
    assert len(own) == 16 and own != PARENT
    assert (span["name"], span["kind"]) == ("GET /balance", SERVER)
    assert before <= int(span["startTimeUnixNano"]) + 2_000_000
    assert int(span["startTimeUnixNano"]) < int(span["endTimeUnixNano"]) <= after + 2_000_000
    assert span["status"]["code"] == ERROR
    attributes = values(span["attributes"])
    assert attributes["http.route"] == "/balance" and attributes["user.id"] == "7"
    assert int(attributes["http.response.status_code"]) == 503 and attributes["error.type"] == "503"


def values(pairs):
    found = {}
    for pair in pairs:
        kinds = [k for k in pair["value"] if pair["value"][k] is not None]
        assert len(kinds) == 1, pair
        found[pair["key"]] = pair["value"][kinds[0]]
    return found
