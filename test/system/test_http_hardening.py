"""The HTTP server of every daemon under hostile clients, over raw sockets. operator-sim carries it
here: it needs no database."""

import contextlib
import json
import os
import random
import re
import signal
import socket
import struct
import time

import pytest

from harness.raw import CLOSE, HEALTH, Server, cut_off, read_all, send_in_segments
from harness.wait import wait_until


@pytest.fixture
def serve():
    servers = []

    def start(**settings):
        servers.append(Server(**settings))
        return servers[-1]
    yield start
    for server in servers:
        if server.process.poll() is None:
            assert server.stop() == 0
        assert server.process.returncode == 0


def test_slow_clients_are_cut_and_harm_nobody(serve):
    """Headers or a body byte by byte: the time counts from the first byte, not the last."""
    server = serve()
    starts = [b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ",
              b"POST /messages HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n{",
              b"POST /messages HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1"]
    slow = [server.dial() for _ in range(300)]
    for i, s in enumerate(slow):
        s.sendall(starts[i % 3])
    began, worst, alive = time.monotonic(), 0, list(slow)
    while alive and time.monotonic() < began + 5:
        for s in list(alive):
            try:
                s.sendall(b"1")
            except OSError:
                alive.remove(s)
        worst = max(worst, server.healthy())
        time.sleep(0.1)
    assert not alive, f"{len(alive)} slow connections live on"
    assert worst < 1, f"a healthy request took {worst:.2f} s"
    for s in slow:
        s.close()


def test_connection_limit_makes_room(serve):
    """At the limit nobody is turned away for good: idle connections go first."""
    server = serve(HTTP_MAX_CONNECTIONS=16, HTTP_THREADS=1)
    idle = [server.dial() for _ in range(40)]
    for s in idle[:10]:
        s.sendall(HEALTH)
    time.sleep(0.3)
    assert server.healthy() < 6
    assert server.metric("http_accept_pauses_total") >= 1
    for s in idle:
        s.close()
    assert server.healthy() < 6


def test_who_has_been_refused_makes_room(serve):
    """It is waited for, that it may read why; but not while others wait to come in."""
    server = serve(HTTP_MAX_CONNECTIONS=16, HTTP_THREADS=1)
    refused = [server.dial() for _ in range(16)]
    for s in refused:
        s.sendall(b"nonsense\r\n\r\n")
        assert s.recv(100).startswith(b"HTTP/1.1 400 ")
    assert server.healthy() < 1
    for s in refused:
        s.close()


def test_out_of_descriptors(serve):
    """No spinning while descriptors are short, and service again once they are back."""
    server = serve(files=64, HTTP_THREADS=1)
    many = [server.dial() for _ in range(150)]
    time.sleep(0.3)
    before = server.cpu_seconds()
    time.sleep(1)
    assert server.cpu_seconds() - before < 0.3
    for s in many:
        s.close()
    deadline = time.monotonic() + 10
    while server.metric("process_open_fds") > 40 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert server.metric("process_open_fds") <= 40
    assert server.metric("http_accept_pauses_total") >= 1


@pytest.mark.parametrize("kind", ["operator-sim", "api"])
def test_a_crowd_of_idle_connections_keeps_nobody_waiting(serve, kind):
    """Few descriptors, and 1,500 who say nothing before each who asks."""
    server = serve(kind=kind, files=128)
    worst = 0
    for _ in range(4):
        crowd = [server.dial() for _ in range(1500)]
        worst = max(worst, server.healthy())
        for s in crowd:
            s.close()
    assert worst < 1, f"a healthy request took {worst:.2f} s"
    assert server.metric("http_connections_dropped_total") >= 1500
    assert server.metric("process_open_fds") <= 110


def test_a_full_server_does_not_spin(serve):
    server = serve(HTTP_MAX_CONNECTIONS=16, HTTP_THREADS=1, HTTP_READ_TIMEOUT_MS=60000)
    busy = [server.dial() for _ in range(60)]
    for s in busy:
        s.sendall(b"GET /heal")
    time.sleep(0.5)
    before = server.cpu_seconds()
    time.sleep(1)
    assert server.cpu_seconds() - before < 0.1
    for s in busy:
        s.close()
    server.healthy()


def test_a_client_that_does_not_read(serve):
    """Answers pile up for it no further than one, and it is cut off."""
    server = serve()
    before = server.resident_mib()
    deaf = []
    for _ in range(20):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        s.connect(("127.0.0.1", server.port))
        s.setblocking(False)
        try:
            for _ in range(1000):
                s.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        except BlockingIOError:
            pass
        deaf.append(s)
    deadline = time.monotonic() + 15
    while server.metric("http_connections") > 1 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert server.metric("http_connections") <= 1
    assert server.resident_mib() - before < 64
    for s in deaf:
        s.close()


def test_a_huge_body_is_answered(serve):
    """The client hears 413 although it goes on sending what nobody reads."""
    server = serve()
    for size in (2 << 20, 10 << 20):
        with server.dial() as s:
            s.sendall(b"POST /messages HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
            s.sendall(bytes(size))
            answer = read_all(s)
        assert answer.startswith(b"HTTP/1.1 413 "), answer[:200]
        head, body = answer.split(b"\r\n\r\n", 1)
        assert b"Connection: close" in head
        assert json.loads(body)["error"] == "body_too_large"
    assert server.resident_mib() < 64


def heard(s):
    """All that the server has said, if it has come to its end."""
    s.settimeout(0.1)
    try:
        return read_all(s)
    except TimeoutError:
        return None


def test_who_is_over_the_budget_is_told(serve):
    """In the middle of a body: when to try again, whoever goes on sending and whoever waits."""
    server = serve(HTTP_MEMORY_BYTES=9 << 20, HTTP_THREADS=1, HTTP_READ_TIMEOUT_MS=30000)  # 230 over TLS may connect
    slow = [server.dial() for _ in range(200)]
    for s in slow:
        s.sendall(b"POST /messages HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n" + b" " * 50000)
    wait_until(lambda: server.metric("http_connections_dropped_total") >= 40, 10, "those go that are too many")
    answers = list(filter(None, map(heard, slow)))
    assert len(answers) >= 40
    for answer in answers:
        head, body = answer.split(b"\r\n\r\n", 1)
        assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n"), answer
        assert b"\r\nRetry-After: 1\r\n" in head and b"\r\nConnection: close" in head
        assert json.loads(body)["error"] == "system_overloaded"
    for s in slow:
        s.close()
    server.healthy()


ENDLESS = {"request line": (b"GET /", b"a" * 4096), "header": (b"GET / HTTP/1.1\r\nX: ", b"a" * 4096),
           "headers": (b"GET / HTTP/1.1\r\n", b"X: y\r\n" * 512),
           "chunk size": (b"POST /messages HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
                          b"0" * 4096),
           "chunks": (b"POST /messages HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
                      b"1000\r\n" + b"x" * 4096 + b"\r\n")}


@pytest.mark.parametrize("what", ENDLESS)
def test_endless_input_is_bounded(serve, what):
    server = serve()
    start, more = ENDLESS[what]
    with server.dial() as s:
        s.sendall(start)
        sent, ended, deadline = 0, False, time.monotonic() + 10
        try:
            while sent < 32 << 20 and time.monotonic() < deadline:
                s.sendall(more)
                sent += len(more)
        except OSError:
            ended = True
        assert ended or cut_off([s], 5) == 1, f"still read after {sent} bytes"
    assert server.resident_mib() < 64
    server.healthy()


POST = b"POST /messages HTTP/1.1\r\nHost: x\r\n"
AMBIGUOUS = [
    POST + b"Content-Length: 0\r\nContent-Length: 40\r\n\r\n",
    POST + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding : chunked\r\n\r\n",
    POST + b"Content-Length : 5\r\n\r\n",
    POST + b"Content-Length: 0x5\r\n\r\n",
    POST + b"Content-Length: -1\r\n\r\n",
    POST + b"Content-Length: 99999999999999999999\r\n\r\n",
    POST + b"Content-Length:\r\n\r\n",
    b"HEAD /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n",
    b"TRACE /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n",
    b"GET http://x/healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    b"GET /healthz HTTP/2.0\r\nHost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"CONNECT /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /messages HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
]


@pytest.mark.parametrize("request_", AMBIGUOUS, ids=range(len(AMBIGUOUS)))
def test_what_a_proxy_may_read_differently_ends_the_connection(serve, request_):
    """One refusal, and nothing behind it is taken for a request."""
    server = serve()
    with server.dial() as s:
        s.sendall(request_ + HEALTH * 3)
        answer = read_all(s)
    assert re.match(rb"HTTP/1\.1 (400|413) ", answer), answer[:200]
    assert answer.count(b"HTTP/1.1 ") == 1, answer
    assert b"Connection: close" in answer


def order(reference, text="x"):
    """A message to take, as a request."""
    body = json.dumps({"reference": reference, "to": "0912", "text": text, "type": "normal"}).encode()
    return POST + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked(body, rng):
    """The body in chunks of any length, with extensions here and there."""
    out = b""
    while body:
        n = rng.randrange(1, len(body) + 1)
        out += b"%x%s\r\n%s\r\n" % (n, rng.choice([b"", b";a=b", b" ;c"]), body[:n])
        body = body[n:]
    return out + b"0\r\n" + rng.choice([b"", b"X-Sum: 1\r\n"]) + b"\r\n"


def clean(reference, hidden, rng):
    """A request that carries another one in its body, where it is text."""
    text = json.dumps(hidden.decode())[1:-1].encode() if rng.random() < 0.5 else b"\\r\\n\\r\\n"
    body = b'{"reference":"%s","to":"0912","type":"normal","text":"%s"}' % (reference.encode(), text)
    body += b"\r\n" * rng.randrange(3)
    blank = rng.choice([b" ", b"\t", b"", b" \t "])
    start = rng.choice([b"", b"\r\n", b"\r\n\r\n"]) + POST
    if rng.random() < 0.5:
        return start + b"Content-Length:%s%d\r\n\r\n" % (blank, len(body)) + body
    return start + b"Transfer-Encoding:%schunked\r\n\r\n" % blank + chunked(body, rng)


def spoilt(hidden, rng):
    """A request that some would take for the end of one, with another one behind it."""
    n, chunks = len(hidden), POST + b"Transfer-Encoding: chunked\r\n\r\n"
    head = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Some: thing\r\n\r\n"
    at = rng.randrange(len(head) - 1)
    return rng.choice([
        head[:at] + rng.choice([b"\0", b"\n", b"\r", b"\x01", b"\0\r\n", b"\n\n"]) + head[at:] + hidden,
        head[:-2] + b"\0\r\n" + hidden,
        head[:-2] + b"\n" + hidden,
        head[:-2] + b" Content-Length: %d\r\n\r\n" % n + hidden,
        head[:-2] + b"Content-Length : %d\r\n\r\n" % n + hidden,
        head[:-2] + b"Content-Length: +%d\r\n\r\n" % n + hidden,
        head[:-2] + b"Content-Length: %d\r\nContent-Length: 0\r\n\r\n" % n + hidden,
        head[:-2] + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % n + hidden,
        head.replace(b"GET", b"HEAD")[:-2] + b"Content-Length: %d\r\n\r\n" % n + hidden,
        chunks + b"1;\0\r\nx\r\n0\r\n\r\n" + hidden,
        chunks + b"%x;a\nx\r\n" % n + hidden + b"\r\n0\r\n\r\n",
        chunks + b"0x%x\r\n" % n + hidden + b"\r\n0\r\n\r\n",
        chunks + b"1\r\nx" + hidden + b"\r\n0\r\n\r\n",
        chunks + b"1\r\nx\n0\r\n\r\n" + hidden,
        chunks + b"0\r\n\0\r\n\r\n" + hidden,
        chunks + b"0\r\nA: b\n\r\n" + hidden,
        chunks + b"0\r\n" + hidden,
        chunks.replace(b"1.1", b"1.0") + b"0\r\n\r\n" + hidden,
    ])


def test_no_request_runs_out_of_another(serve):
    """Whatever is hidden in a body stays text, and whatever stands behind a spoilt request is not read;
    what came before it is answered. Segments end anywhere."""
    server = serve()
    seed = int(os.environ.get("SEED", 12))
    print(f"SEED={seed}")
    rng = random.Random(seed)
    taken, hidden = [], []
    for i in range(400):
        parts = []
        for k in range(rng.randrange(3)):
            taken.append(f"t-{i}-{k}")
            hidden.append(f"h-{i}-{k}")
            parts.append(clean(taken[-1], order(hidden[-1]), rng))
        hidden.append(f"h-{i}")
        spoil = rng.random() < 0.7
        parts.append(spoilt(order(hidden[-1]), rng) + HEALTH if spoil else CLOSE)
        with server.dial() as s:
            send_in_segments(s, b"".join(parts), rng)
            answer = read_all(s)
        codes = re.findall(rb"HTTP/1\.1 (\d+)", answer)
        assert codes == [b"200"] * (len(parts) - 1) + [b"400" if spoil else b"200"], (parts, answer)
        assert answer.rsplit(b"HTTP/1.1 ", 1)[1].count(b"Connection: close\r\n") == 1, answer

    def known(references):
        with server.dial() as s:
            s.sendall(b"".join(b"GET /messages/%s HTTP/1.1\r\nHost: x\r\n\r\n" % r.encode()
                               for r in references) + CLOSE)
            return [c == b"200" for c in re.findall(rb"HTTP/1\.1 (\d+)", read_all(s))[:-1]]
    assert all(known(taken)) and len(taken) > 100
    assert not any(known(hidden)) and len(hidden) > 400


def test_a_client_may_end_its_side_when_it_has_asked(serve):
    """Its requests are answered, the one in hand and those behind it."""
    server = serve(SIM_FAULTS='{"latency_ms":50}')
    for n in (1, 2, 20):
        with server.dial() as s:
            s.sendall(b"".join(order(f"e-{n}-{i}") + HEALTH for i in range(n)))
            s.shutdown(socket.SHUT_WR)
            assert re.findall(rb"HTTP/1\.1 (\d+)", read_all(s)) == [b"200"] * 2 * n


def test_pipelined_requests_are_answered_in_order(serve):
    server = serve()
    n = 500
    with server.dial() as s:
        s.sendall(b"".join(b"GET /messages/r-%d HTTP/1.1\r\nHost: x\r\n\r\n" % i if i % 2 else HEALTH
                           for i in range(n - 1)) + CLOSE)
        answer = read_all(s)
    codes = re.findall(rb"HTTP/1\.1 (\d+)", answer)
    assert codes == [b"404" if i % 2 else b"200" for i in range(n - 1)] + [b"200"]


def test_rubbish_ends_nothing_but_its_connection(serve):
    server = serve(HTTP_MAX_BODY_BYTES=4096)
    seed = int(os.environ.get("SEED") or random.randrange(1 << 32))
    print(f"SEED={seed}")
    rng = random.Random(seed)
    parts = [b"GET ", b"POST ", b"/", b"/healthz", b"/messages", b" HTTP/1.1\r\n", b"\r\n", b"\n", b"\0",
             b"Content-Length: ", b"Transfer-Encoding: chunked\r\n", b"Host: x\r\n", b"5", b"-1", b": ",
             b"{\"reference\":\"a\"}", b"ffffffff", b"0\r\n", b"%00", b"%zz", b"?a=b&", b"Expect: ",
             b"100-continue\r\n", b"Connection: close\r\n", b" ", b"\t", b"\xff\xfe", b"a" * 300]
    for _ in range(400):
        with server.dial() as s:
            s.sendall(b"".join(rng.choices(parts, k=rng.randrange(1, 25))))
            if rng.random() < 0.3:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert server.process.poll() is None
    assert server.healthy() < 1


def test_ten_thousand_connections_come_and_go(serve):
    """No connection is forgotten: neither one that says nothing nor one that leaves in the middle."""
    server = serve(HTTP_READ_TIMEOUT_MS=120000, HTTP_IDLE_TIMEOUT_MS=120000)  # no limit ends them for us
    for i in range(10000):
        s = server.dial()
        if i % 3 == 1:
            s.sendall(b"GET /heal")
        elif i % 3 == 2:
            s.sendall(HEALTH)
        s.close()
    # One whose handshake met a full queue comes in only when TCP tries again, after seconds.
    wait_until(lambda: server.metric("http_connections") == 1, 60, lambda: f"{server.metric('http_connections')} are left")
    assert server.metric("http_requests_in_flight") == 1
    assert server.resident_mib() < 64


def test_a_stop_answers_what_has_come(serve):
    """SIGTERM with requests in hand, kept-alive connections and a slow sender: all is answered, and
    the process ends well before its deadline."""
    server = serve(SIM_FAULTS='{"latency_ms":400}', DRAIN_TIMEOUT_MS=20000)
    order = json.dumps({"reference": "r-0", "to": "0912", "text": "x", "type": "normal"}).encode()
    request = POST + b"Content-Length: %d\r\n\r\n" % len(order) + order
    busy = [server.dial() for _ in range(50)]
    idle = [server.dial() for _ in range(20)]
    half = server.dial()
    for s in busy:
        s.sendall(request)
    for s in idle:
        s.sendall(HEALTH)
        assert s.recv(4096)
    half.sendall(request[:-5])
    time.sleep(0.1)
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    half.sendall(request[-5:])
    for s in [*busy, half]:
        answer = read_all(s)
        assert answer.startswith(b"HTTP/1.1 200 ") and b"Connection: close" in answer
    assert server.process.wait(20) == 0
    assert time.monotonic() - began < 5
    with pytest.raises(OSError):
        server.dial(1)
    for s in [*busy, *idle, half]:
        s.close()


@pytest.mark.parametrize("why", ["limit", "stop"])
def test_the_last_answer_is_not_overtaken(serve, why):
    """Who goes on sending where the server ends the connection still reads all that was answered."""
    limit = 10 if why == "limit" else 0
    server = serve(HTTP_MAX_REQUESTS_PER_CONNECTION=limit, HTTP_WRITE_TIMEOUT_MS=20000, DRAIN_TIMEOUT_MS=20000)
    ask = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    with server.dial() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        s.sendall(ask * 20)
        data = b""
        while piece := s.recv(4000):
            if why == "stop" and not data:
                server.process.terminate()
            data += piece
            with contextlib.suppress(OSError):
                s.sendall(ask)
    last = data[data.rindex(b"HTTP/1.1 200 "):]
    head, _, body = last.partition(b"\r\n\r\n")
    assert b"Connection: close" in head
    assert len(body) == int(re.search(rb"Content-Length: (\d+)", head)[1])
    assert not limit or data.count(b"HTTP/1.1 200 ") == limit


def test_a_second_signal_ends_the_patience(serve):
    server = serve(HTTP_READ_TIMEOUT_MS=60000, DRAIN_TIMEOUT_MS=60000)
    with server.dial() as s:
        s.sendall(b"GET /healthz HTTP/1.1\r\n")
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(5) == 0
