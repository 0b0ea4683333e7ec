"""Memory under attack, watched from outside: what clients send, do not finish or do not read costs a process no
more than its budgets, a healthy request is answered meanwhile, and what is over is given back. No daemon is
limited from outside here: the figures are well below the 256 MiB that its container has."""

import contextlib
import http.client
import json
import os
import re
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlparse

import pytest

from harness.client import assert_error
from harness.wait import wait_until

MIB = 1 << 20
BODY = 65600  # what msg-api takes at the default MAX_RECIPIENTS
HEALTHY_MS = 200  # 1 to 15 on a quiet machine


@pytest.fixture(scope="module", autouse=True)
def many_files():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    if before[1] < 5000:
        pytest.skip("needs 5,000 descriptors")
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Memory:
    """Of a daemon, in MiB; the peak is of the time since it was made."""

    def __init__(self, stack, name):
        self.pid = stack.pid(name)
        if re.search(r"/lib[at]san", open(f"/proc/{self.pid}/maps").read()):
            pytest.skip("a sanitizer keeps what is freed")
        self.before = self.now()
        with open(f"/proc/{self.pid}/clear_refs", "w") as f:
            f.write("5")

    def _read(self, field):
        return int(re.search(rf"^{field}:\s+(\d+)", open(f"/proc/{self.pid}/status").read(), re.MULTILINE)[1]) / 1024

    def now(self):
        return self._read("VmRSS")

    def growth(self):
        return self._read("VmHWM") - self.before

    def kept(self):
        return self.now() - self.before


class Health:
    """How long /healthz takes, asked every few ms on one connection by a process of its own."""

    ASK = """
import http.client, sys, time
connection = http.client.HTTPConnection(sys.argv[1], timeout=10)
while True:
    began = time.monotonic()
    connection.request("GET", "/healthz")
    response = connection.getresponse()
    response.read()
    assert response.status == 200
    print(time.monotonic() - began, flush=True)
    time.sleep(0.005)
"""

    def __init__(self, url):
        self.address = urlparse(url).netloc

    def __enter__(self):
        self.out = tempfile.NamedTemporaryFile("w")
        self.process = subprocess.Popen([sys.executable, "-c", self.ASK, self.address], stdout=self.out)
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.wait()
        self.out.close()

    def _seconds(self):
        with open(self.out.name) as f:
            return [float(line) for line in f.read().split("\n")[:-1]]

    def p99_ms(self, least=300):
        wait_until(lambda: self.process.poll() is not None or len(self._seconds()) >= least, 60, "healthz is asked")
        assert self.process.poll() is None, "healthz was not answered"
        return statistics.quantiles(self._seconds(), n=100)[-1] * 1000


@contextlib.contextmanager
def connections(stack, n, name="api-1", receive_bytes=None):
    address = urlparse(stack.url(name))
    opened = []

    def dial():
        s = socket.socket()
        if receive_bytes:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        s.settimeout(10)
        s.connect((address.hostname, address.port))
        opened.append(s)
        return s

    try:
        yield [dial() for _ in range(n)]
    finally:
        for s in opened:
            s.close()


def say(s, *parts):
    """What the other side lets us say; it may have had enough."""
    with contextlib.suppress(OSError):
        for part in parts:
            s.sendall(part)


def heard(s):
    """What has come; None: nothing."""
    s.setblocking(False)
    try:
        return s.recv(65536)
    except BlockingIOError:
        return None
    except OSError:
        return b"a reset"


def head(size, more=b""):
    return (b"POST /messages/send HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + more
            + b"Content-Length: %d\r\n\r\n" % size)


def bulk(size, filler="{},"):
    """A send of one recipient with as many values as its size allows."""
    start = json.dumps({"customer_id": 123456, "text": "x", "recipients": ["123"]})[:-1] + ',"x":['
    n = (size - len(start) - 4) // len(filler)
    return (start + filler * n + "{}]}").encode()


@pytest.fixture
def stack(world):
    return world("api")


@pytest.mark.parametrize("size", [BODY, MIB], ids=["the limit", "1 MiB"])
def test_a_dozen_bulky_bodies(stack, size):
    body, api = bulk(size), stack.api()
    memory = Memory(stack, "api-1")

    def post(_):
        with contextlib.suppress(OSError):  # 413 and the end, in the middle of ours
            return api.post("/messages/send", body).status_code

    with ThreadPoolExecutor(12) as pool, Health(api.url) as health:
        assert set(pool.map(post, range(12))) <= {400, 413, None}
        for _ in range(25):
            pool.submit(post, 0)
            time.sleep(0.2)  # the rate of the attack
        p99_ms = health.p99_ms()
    print(f"{memory.growth():.1f} MiB, healthz p99 {p99_ms:.1f} ms")
    assert memory.growth() < 16
    assert p99_ms < HEALTHY_MS


def test_bulk_is_refused_with_its_place(stack):
    api = stack.api()
    for filler in ("{},", "[],", "1,", '{"a":0},', "[[]],"):
        body = assert_error(api.post("/messages/send", bulk(BODY, filler)), 400, "invalid_input")
        assert body["field"].startswith("x[")
    many = {"customer_id": 1, "text": "x", "recipients": ["1"] * 5000}
    assert assert_error(api.post("/messages/send", many), 400, "invalid_input")["field"] == "recipients"
    assert_error(api.post("/balance/add", b'{"user_id":1,"balance":1,"x":[' + b"1," * 500 + b"1]}"), 400, "invalid_input")


def test_the_largest_send_fits(stack):
    """Every character of the text escaped, recipients on lines of their own."""
    api = stack.api()
    customer = api.funded(1000)
    text = '"text": "' + "\\u0041" * 4096 + '"'
    recipients = ",\n".join(" " * 8 + f'"+98912{n:014d}"' for n in range(1000))
    body = f'{{\n    "customer_id": {customer},\n    {text},\n    "recipients": [\n{recipients}\n    ]\n}}\n'
    response = api.post("/messages/send", body.encode())
    assert response.status_code == 200, response.text
    assert response.json()["recipients"] == 1000
    surplus = body.encode() + b" " * (BODY + 1 - len(body))
    assert_error(api.post("/messages/send", surplus), 413, "body_too_large")


def test_a_limit_is_never_below_what_a_send_may_need(world):
    stack = world("api", HTTP_MAX_BODY_BYTES=1024, MAX_RECIPIENTS=100)
    api = stack.api()
    needed = 1024 + 6 * 4096 + 100 * 40
    assert api.post("/messages/send", b" " * needed).status_code == 400
    assert api.post("/messages/send", b" " * (needed + 1)).status_code == 413
    stack.restart("api-1", HTTP_MAX_BODY_BYTES=200000, MAX_RECIPIENTS=100)
    assert api.post("/messages/send", b" " * 200000).status_code == 400
    assert api.post("/messages/send", b" " * 200001).status_code == 413


@pytest.mark.parametrize("size", [BODY, MIB], ids=["the limit", "1 MiB"])
def test_bodies_that_nobody_finishes(stack, size):
    memory = Memory(stack, "api-1")
    with Health(stack.url("api-1")) as health, connections(stack, 450) as slow:
        for s in slow:
            say(s, head(size, stack.header_lines), b" " * (size - 1))
        p99_ms = health.p99_ms()
        grown = memory.growth()
    print(f"{grown:.1f} MiB, healthz p99 {p99_ms:.1f} ms")
    assert grown < 64
    assert p99_ms < HEALTHY_MS
    wait_until(lambda: memory.kept() < 16, 30, lambda: f"{memory.kept():.1f} MiB are kept")


def test_a_budget_for_all_bodies(world):
    """Three times as much as may be held: the slow ones go, and who sends at once is served."""
    stack = world("api", HTTP_MEMORY_BYTES=32 * MIB)
    api = stack.api()
    customer = api.funded(1000)
    memory = Memory(stack, "api-1")
    with Health(stack.url("api-1")) as health, connections(stack, 1500) as slow:
        for i, s in enumerate(slow):
            say(s, head(BODY, stack.header_lines), b" " * (BODY - 1))
            if i % 100 == 0:
                assert api.send(customer).status_code == 200
        p99_ms = health.p99_ms()
        grown = memory.growth()
        told = [answer for answer in map(heard, slow) if answer]
    print(f"{grown:.1f} MiB, healthz p99 {p99_ms:.1f} ms, {len(told)} told")
    assert grown < 48
    assert len(told) > 500 and all(a.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: 1\r\n" in a for a in told)
    assert p99_ms < HEALTHY_MS
    metrics = api.metrics()
    assert metrics.sum("http_connections_dropped_total", reason="memory") > 500
    assert 0 < metrics.value("http_memory_bytes") < 32 * MIB
    wait_until(lambda: memory.kept() < 16, 30, lambda: f"{memory.kept():.1f} MiB are kept")


def test_headers_cost_what_they_take(world):
    """As many and as short as may be, of requests that nobody finishes."""
    stack = world("api", HTTP_MEMORY_BYTES=8 * MIB)
    memory = Memory(stack, "api-1")
    lines = "".join(f"a{i}:b\r\n" for i in range(97)).encode()
    with connections(stack, 1000) as slow:
        for s in slow:
            say(s, head(100)[:-2], lines, b"\r\n ")
        assert stack.status("api-1", "/healthz") == 200
        grown = memory.growth()
        assert stack.api().metrics().sum("http_connections_dropped_total", reason="memory") > 100
    print(f"{grown:.1f} MiB")
    assert grown < 10


def test_small_chunks_cost_what_they_bring(stack):
    """A byte a chunk, and a packet for each part of it."""
    memory = Memory(stack, "api-1")
    start = (b"POST /messages/send HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
             + stack.header_lines + b"Transfer-Encoding: chunked\r\n\r\n")
    with connections(stack, 16) as slow:
        for s in slow:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            say(s, start)
        for _ in range(4000):
            for part in (b"1\r\n", b" ", b"\r\n"):
                for s in slow:
                    say(s, part)
        grown = memory.growth()
    print(f"{grown:.1f} MiB")
    assert grown < 2  # of 64,000 bytes


@pytest.fixture
def swagger(tmp_path):
    """Files of the size that they have."""
    for name in ("index.html", "page.css", "page.js", "swagger-ui.css", "favicon-32x32.png", "openapi.yaml"):
        (tmp_path / name).write_bytes(b"x" * 1000)
    (tmp_path / "swagger-ui-bundle.js").write_bytes(os.urandom(3 * MIB // 2))
    return tmp_path


def test_clients_that_do_not_read(world, swagger):
    stack = world("api", SWAGGER_DIR=swagger)
    memory = Memory(stack, "api-1")
    wanted = b"GET /swagger/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"
    with Health(stack.url("api-1")) as health, connections(stack, 1000, receive_bytes=4096) as deaf:
        for s in deaf:
            s.sendall(wanted)
        wait_until(lambda: stack.api().metrics().sum("http_requests_total", path="/swagger/*") >= 1000, 10,
                   "all are answered")
        p99_ms = health.p99_ms()
        grown = memory.growth()
    print(f"{grown:.1f} MiB, healthz p99 {p99_ms:.1f} ms")
    assert grown < 32
    assert p99_ms < HEALTHY_MS
    whole = stack.api().get("/swagger/swagger-ui-bundle.js")
    assert whole.content == (swagger / "swagger-ui-bundle.js").read_bytes()


def test_answers_that_nobody_reads_are_in_the_budget(world):
    """Pages of the history are made for each client."""
    stack = world("api", HTTP_MEMORY_BYTES=16 * MIB, HTTP_WRITE_TIMEOUT_MS=60000,
                  READ_QUEUE_USER_MAX=1000)
    api = stack.api()
    customer = api.funded(2000)
    api.sent(customer, [f"0912{n:07d}" for n in range(1000)])
    page = len(api.get("/messages/history", user_id=customer, limit=1000).content)
    memory = Memory(stack, "api-1")
    wanted = (b"GET /messages/history?user_id=%d&limit=1000 HTTP/1.1\r\nHost: x\r\n" % customer + stack.header_lines
              + b"\r\n")
    n = 64 * MIB // page
    with Health(stack.url("api-1")) as health, connections(stack, n, receive_bytes=4096) as deaf:
        for s in deaf:
            say(s, wanted)
        wait_until(lambda: api.metrics().sum("http_connections_dropped_total", reason="memory") > n // 2, 30,
                   "those go that are too many")
        p99_ms = health.p99_ms()
        grown = memory.growth()
    print(f"{n} pages of {page}: {grown:.1f} MiB, healthz p99 {p99_ms:.1f} ms")
    assert grown < 40
    assert p99_ms < HEALTHY_MS


@pytest.mark.parametrize("name", ["outboxd-1", "consumerd-1"])
def test_no_body_where_nothing_is_posted(shared, name):
    for more in (b"Content-Length: 100000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n10\r\n"):
        with connections(shared, 1, name) as [s]:
            s.sendall(b"POST /healthz HTTP/1.1\r\nHost: x\r\n" + more)
            if b"chunked" in more:
                s.sendall(b"x" * 16 + b"\r\n")
            answer = s.recv(4096)
        assert answer.startswith(b"HTTP/1.1 413 "), answer
    assert shared.status(name, "/healthz") == 200


@pytest.mark.parametrize("shape", ["a message", "a bundle"])
@pytest.mark.parametrize("size", [4 * MIB, 256 * 1024], ids=["4 MiB", "256 KiB"])
def test_a_large_body_in_a_queue(world, shape, size):
    """It is put aside, whatever it holds, and deliveries go on."""
    stack = world("api", "operators", "outboxd", "consumerd", REPAIR_AFTER_SEC="0")
    api = stack.api()
    customer = api.funded(10)
    memory = Memory(stack, "consumerd-1")
    if shape == "a message":
        stack.broker.publish(stack.broker.normal, bulk(size), message_id="bulky", type="message.send")
    else:
        n = size // 3 - 10
        stack.broker.publish(stack.broker.normal, b'{"messages":[' + b"{}," * n + b"{}]}", headers={"bundle": 1},
                             content_type="application/vnd.messaging.bundle+json", message_id="bulky")
    wait_until(lambda: stack.broker.ready(stack.broker.dead) == 1, 30, "it is put aside")
    [(_, body)] = stack.broker.take(stack.broker.dead)
    assert len(body) > size - 100
    sent = api.sent(customer)
    assert set(api.wait_final(customer, sent["message_identifier"]).values()) == {"done"}
    print(f"{memory.growth():.1f} MiB")
    assert memory.growth() < 24
