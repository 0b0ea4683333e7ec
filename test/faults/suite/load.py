"""Senders."""

import http.client
import json
import random
import threading
import time
import uuid
from collections import Counter
from urllib.parse import urlparse

from .site import REJECTED, TAKEN

TIMEOUT = 20
FUNDS = 1_000_000
REPEATED = (409, 502, 503, 504)
TEXT = "a text for nobody else"


class Load:
    """A steady stream of sends until it is ended. Each has an Idempotency-Key and a trace, and is
    repeated with them until it is accepted: 503, 409, a refused or a cut connection are no end, nor is a proxy's 502 or
    504.

    strict: a request is repeated only when its connection was refused, so nothing of it was sent; any
    other failure is recorded in `failures`. Every request then has a connection of its own, unless a proxy
    stands at `front`, whose connections are kept.
    burst: so many are due at once, at the same rate: what the outbox holds together travels together.
    """

    def __init__(self, site, seed, rate=120, connections=8, rejected_share=0.1, customers=50,
                 express_share=0.25, strict=False, burst=1, front=None):
        self.site = site
        self.addresses = [front] if front else [urlparse(a.url).netloc for a in site.apis]
        self.kept = front is not None
        self.rng = random.Random(seed)
        self.rate, self.rejected_share, self.express_share = rate, rejected_share, express_share
        self.strict, self.burst = strict, burst
        self.customers = site.new_customers(customers, FUNDS)
        self.accepted = {}  # key -> identifier
        self.bodies = {}    # key -> body
        self.traces = {}    # key -> trace id
        self.refused, self.failures, self.changed = [], [], []
        self.repeats = 0
        self.made = 0
        self.answers = Counter()  # status -> answers, repeats among them
        self.cut = 0              # connections that ended in mid-request
        self.impolite = []        # 503 and 429 that do not say when to come back
        self.times = []           # when each was accepted, monotonic
        self.slowest = 0.0
        self._lock = threading.Lock()
        self._ended = threading.Event()   # no new sends
        self._abandoned = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(i,), daemon=True)
                         for i in range(connections)]

    def __enter__(self):
        self.began = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._abandoned.set()
        for thread in self._threads:
            thread.join(TIMEOUT + 5)

    def end(self, deadline=60):
        """No new sends; waits until every one that was begun is accepted."""
        self._ended.set()
        end = time.monotonic() + deadline
        for thread in self._threads:
            thread.join(max(0, end - time.monotonic()))

    @property
    def unanswered(self):
        return set(self.bodies) - set(self.accepted)

    def _next(self):
        """A send when it is due; None when no more shall be."""
        with self._lock:
            due = self.began + self.made // self.burst * self.burst / self.rate
            self.made += 1
            number = self.made
            rejected = self.rng.random() < self.rejected_share
            body = {"customer_id": self.rng.choice(self.customers), "text": f"{TEXT}, {number}",
                    "recipients": [f"{REJECTED if rejected else TAKEN}{number:08d}"],
                    "type": "express" if self.rng.random() < self.express_share else "normal"}
            key, trace = (uuid.UUID(int=self.rng.getrandbits(128)).hex for _ in range(2))
        if self._ended.wait(max(0, due - time.monotonic())):
            return None
        if time.monotonic() - due > 1:  # after an outage go on at the rate, do not catch up
            with self._lock:
                self.began = time.monotonic() - self.made / self.rate
        data = json.dumps(body).encode()
        self.traces[key] = trace
        self.bodies[key] = data
        return key, data

    def _work(self, number):
        turn, connection = number, None
        while (job := self._next()) is not None:
            key, body = job
            while not self._abandoned.is_set():
                if connection is None:
                    connection = http.client.HTTPConnection(
                        self.addresses[turn % len(self.addresses)], timeout=TIMEOUT)
                answer = self._attempt(connection, key, body)
                if answer is None or answer[0] in REPEATED:
                    connection.close()
                    connection = None
                    turn += 1
                    self.repeats += 1
                    self._abandoned.wait(0.05)
                    continue
                if answer[0] == 200:
                    self.accepted[key] = answer[1]["message_identifier"]
                    self.times.append(time.monotonic())
                else:
                    self.refused.append(answer)
                if self.strict and not self.kept:
                    connection.close()
                    connection = None
                    turn += 1
                break
        if connection:
            connection.close()

    def _headers(self, key):
        return {**self.site.headers, "Content-Type": "application/json", "Idempotency-Key": key,
                "traceparent": f"00-{self.traces[key]}-{key[:16]}-01"}

    def _attempt(self, connection, key, body):
        began = time.monotonic()
        try:
            if connection.sock is None:
                connection.connect()
        except OSError as e:
            if self.strict and not isinstance(e, ConnectionRefusedError):
                self.failures.append(f"connect: {e!r}")
            return None
        try:
            connection.request("POST", "/messages/send", body, self._headers(key))
            response = connection.getresponse()
            answer = response.status, json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as e:
            self.cut += 1
            if self.strict:
                self.failures.append(f"{connection.port}: {e!r}")
            return None
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.answers[answer[0]] += 1
        if answer[0] in (429, 503) and not (response.headers["Retry-After"] or "").isdigit():
            self.impolite.append(answer)
        if self.strict and answer[0] != 200:
            self.failures.append(f"{connection.port}: {answer}")
        return answer

    def accepted_since(self, moment):
        """Sends accepted after that moment (monotonic)."""
        return sum(t > moment for t in list(self.times))

    def replay(self, count=None):
        """Sends accepted keys again; returns what was not answered as the first time."""
        wrong = []
        keys = list(self.accepted)
        if count is not None and count < len(keys):
            keys = self.rng.sample(keys, count)
        connection = http.client.HTTPConnection(self.addresses[0], timeout=TIMEOUT)
        for key in keys:
            connection.request("POST", "/messages/send", self.bodies[key], self._headers(key))
            response = connection.getresponse()
            answer = json.loads(response.read())
            if (response.status != 200 or response.headers["Idempotency-Replayed"] != "true"
                    or answer["message_identifier"] != self.accepted[key]):
                wrong.append(f"replay of {key}: {response.status} {answer}, "
                             f"first {self.accepted[key]}")
        connection.close()
        return wrong
