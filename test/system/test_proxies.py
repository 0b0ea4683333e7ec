"""Behind nginx and HAProxy, alone and one behind the other, with connections kept on both sides: whatever a hostile
client sends, everybody else gets the answers to their own requests; and who the client is comes through."""

import collections
import http.client
import json
import os
import random

import pytest

from harness.fronts import HAPROXY, NGINX, Front
from harness.hostile import FORMS
from harness.raw import Server, read_all
from harness.wait import wait_until

pytestmark = pytest.mark.skipif(not (NGINX and HAPROXY), reason="nginx and HAProxy are not installed (test/deps)")

ROUNDS = int(os.environ.get("PROXY_ROUNDS", 300))
CHAINS = {"nginx": ["nginx"], "HAProxy": ["haproxy"], "HAProxy before nginx": ["nginx", "haproxy"],
          "nginx before HAProxy": ["haproxy", "nginx"]}  # the one next to the server first
REFERENCES = 40
HOSTILE_AT_ONCE = 12
# What a proxy says of itself when its connection to the server has ended under the request.
GATEWAY = (502, 503, 504)

HIDDEN = b"GET /messages/hidden HTTP/1.1\r\nHost: x\r\nX-Request-Id: hidden\r\n"
TAILS = [b"", HIDDEN + b"\r\n", HIDDEN + b"X: ", b"GET /messages/hidden HTTP/1.1\r\nX-Request-Id: hidden\r\nX: "]


@pytest.fixture
def begin(tmp_path):
    """make(chain, options="", **settings) -> (server, the outermost front)"""
    running = []

    def make(chain, options="", **settings):
        server = Server(**{"HTTP_READ_TIMEOUT_MS": 3000, **settings})
        running.append(server)
        port = server.port
        for kind in chain:
            running.append(Front(kind, tmp_path, port, options))
            port = running[-1].port
        return server, running[-1]
    yield make
    for each in reversed(running):
        each.stop()


class Honest:
    """A client that keeps its connection and knows what it has to be answered."""

    def __init__(self, front):
        self.front = front
        self.ids = {}
        self.gateway = 0
        self.connect()

    def connect(self):
        self.connection = http.client.HTTPConnection("127.0.0.1", self.front.port, timeout=10)

    def call(self, tag, method, path, body=None):
        headers = {"X-Request-Id": tag, **({"Content-Type": "application/json"} if body else {})}
        for last in (False, True):
            try:
                self.connection.request(method, path, body, headers)
                answer = self.connection.getresponse()
                break
            except (http.client.RemoteDisconnected, ConnectionError):
                if last:
                    raise
                self.connect()
        text = answer.read()
        if answer.status in GATEWAY:
            self.gateway += 1
            return None
        assert answer.status == 200, (tag, answer.status, text)
        assert answer.headers["X-Request-Id"] == tag, (tag, dict(answer.headers), text)
        return json.loads(text)

    def order(self, reference):
        body = json.dumps({"reference": reference, "to": "0912", "text": "x", "type": "normal"})
        answer = self.call(f"order-{reference}", "POST", "/messages", body)
        self.ids[reference] = answer["id"]

    def ask(self, tag, reference):
        answer = self.call(tag, "GET", f"/messages/{reference}")
        assert answer is None or answer["id"] == self.ids[reference], (tag, reference, answer)


def attack(front, rng, spare):
    """One form from the table, in one segment or two, with another request behind it or the beginning of one. The
    connection is left open for a while: who gives an answer too many gives it late."""
    _, data, _ = rng.choice(FORMS)
    data += rng.choice(TAILS)
    s = front.dial()
    spare.append(s)
    at = rng.choice([len(data), rng.randrange(len(data) + 1)])
    try:
        for part in (data[:at], data[at:]):
            s.sendall(part)
    except OSError:  # refused already
        pass
    if len(spare) > HOSTILE_AT_ONCE:
        old = spare.popleft()
        old.setblocking(False)
        try:
            read_all(old)
        except BlockingIOError:
            pass
        old.close()


@pytest.mark.parametrize("chain", CHAINS)
def test_everybody_gets_the_answers_to_their_own_requests(begin, chain):
    server, front = begin(CHAINS[chain])
    seed = int(os.environ.get("SEED") or random.randrange(1 << 32))
    print(f"SEED={seed}")
    rng, spare = random.Random(seed), collections.deque()
    honest = Honest(front)
    for i in range(REFERENCES):
        honest.order(f"o-{i}")
    for i in range(ROUNDS):
        attack(front, rng, spare)
        honest.ask(f"a-{i}", f"o-{rng.randrange(REFERENCES)}")
    for s in spare:
        s.close()
    assert honest.gateway <= ROUNDS // 20, f"{honest.gateway} times no answer at all"
    wait_until(lambda: server.metric("http_requests_in_flight") == 1, 10)


FORWARDED = {"nginx": (["nginx"], "", {}), "HAProxy": (["haproxy"], "", {}),
             "HAProxy before nginx": (["nginx", "haproxy"], "", {}),
             "PROXY 1": (["haproxy"], "send-proxy", {"HTTP_PROXY_PROTOCOL": "true"}),
             "PROXY 2": (["haproxy"], "send-proxy-v2", {"HTTP_PROXY_PROTOCOL": "true"})}


@pytest.mark.parametrize("way", FORWARDED)
def test_who_the_client_is_comes_through(begin, tmp_path, way):
    """Whatever the client says of itself."""
    chain, options, settings = FORWARDED[way]
    with open(tmp_path / "log", "wb") as log:
        _, front = begin(chain, options, log=log, source="127.0.0.8", LOG_LEVEL="debug",
                         TRUSTED_PROXIES="127.0.0.1", **settings)
    for tag, lie in (("plain", b""), ("liar", b"X-Forwarded-For: 192.0.2.1\r\n")):
        with front.dial("127.0.0.9") as s:
            s.sendall(b"GET /messages/none HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-Id: " + tag.encode() +
                      b"\r\n" + lie + b"\r\n")
            assert read_all(s).startswith(b"HTTP/1.1 404 ")

        def line(tag=tag):
            lines = [json.loads(text) for text in (tmp_path / "log").read_text().splitlines()]
            return next((each for each in lines if each.get("request_id") == tag), None)
        assert wait_until(line, 10)["client"] == "127.0.0.9"
