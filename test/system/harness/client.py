"""The platform's HTTP interface as a client sees it."""

import http.client
import itertools
import json
import queue
import random
import threading
import time
import uuid
from urllib.parse import urlparse

import requests

from .metrics import Metrics
from .wait import wait_until

TIMEOUT = 30
_numbers = itertools.count(int(time.time()) % 1_000_000 * 1000 + 1)


def new_customer():
    """An id that no other test of this run uses."""
    return next(_numbers)


def recipient(n=0):
    return f"09{n:09d}"


class Api:
    """`headers`: what every call brings, an API key above all."""

    def __init__(self, url, headers=None):
        self.url, self.headers = url, headers or {}

    def get(self, path, **parameters):
        return self.request("GET", path, params=parameters or None)

    def post(self, path, body, key=None, **headers):
        """body: anything for JSON, or bytes as they are."""
        if key is not None:
            headers["Idempotency-Key"] = key
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", path, data=data, headers={"Content-Type": "application/json", **headers})

    def request(self, method, path, headers=None, **options):
        return requests.request(method, self.url + path, timeout=TIMEOUT, headers={**self.headers, **(headers or {})},
                                **options)

    def send(self, customer, recipients=None, text="hi", type="normal", key=None):
        return self.post("/messages/send", {"customer_id": customer, "text": text, "type": type,
                                            "recipients": recipients or [recipient()]}, key=key)

    def sent(self, *args, **options):
        """A send that has to be accepted; returns the answer."""
        response = self.send(*args, **options)
        assert response.status_code == 200, response.text
        return response.json()

    def top_up(self, customer, amount, key=None, **fields):
        return self.post("/balance/add", {"user_id": customer, "balance": amount, **fields}, key=key)

    def funded(self, amount=1000):
        """A customer of its own with money."""
        customer = new_customer()
        response = self.top_up(customer, amount)
        assert response.status_code == 200, response.text
        return customer

    def balance(self, customer):
        response = self.get("/balance", user_id=customer)
        assert response.status_code == 200, response.text
        return response.json()["balance"]

    def history(self, **parameters):
        response = self.get("/messages/history", **parameters)
        assert response.status_code == 200, response.text
        return response.json()["history"]

    def statuses(self, customer, identifier):
        rows = self.history(user_id=customer, message_identifier=identifier, limit=1000)
        return {row["recipient"]: row["status"] for row in rows}

    def wait_final(self, customer, identifier, deadline=30):
        """{recipient: status} once every recipient of the message is done or failed."""
        seen = {}

        def final():
            seen.clear()
            seen.update(self.statuses(customer, identifier))
            return seen and all(s in ("done", "failed") for s in seen.values())

        wait_until(final, deadline, lambda: f"final states of {identifier}: {seen}")
        return seen

    def metrics(self):
        return Metrics.of(self.url)


def assert_error(response, status, *codes):
    """The one shape of every error."""
    assert response.status_code == status, (response.status_code, response.text)
    body = response.json()
    assert body["error"] in codes, body
    assert isinstance(body["message"], str) and body["message"], body
    if status in (429, 503):
        assert int(response.headers["Retry-After"]) >= 1
    return body


class Load:
    """Many sends from several connections over several replicas. Every send has an
    Idempotency-Key and is repeated with it until it is answered, as a careful client would: a 503,
    a refused or a cut connection are no end. Any other answer is recorded as refused.
    """

    def __init__(self, apis, customers, count, connections=16, express_share=0.2, seed=1,
                 recipients=1):
        self.addresses = [urlparse(api.url).netloc for api in apis]
        self.headers = {"Content-Type": "application/json", **apis[0].headers}
        rng = random.Random(seed)
        self.jobs = queue.SimpleQueue()
        for n in range(count):
            body = {"customer_id": customers[n % len(customers)], "text": f"message {n}",
                    "recipients": [recipient(n * recipients + i) for i in range(recipients)],
                    "type": "express" if rng.random() < express_share else "normal"}
            self.jobs.put((uuid.UUID(int=rng.getrandbits(128)).hex, json.dumps(body).encode()))
        self.count = count
        self.accepted = {}   # key -> identifier
        self.refused = []    # (status, body)
        self.repeats = 0
        self.latencies = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(i,), daemon=True)
                         for i in range(connections)]

    def __enter__(self):
        self.began = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(TIMEOUT + 5)

    def wait_accepted(self, n, deadline=120):
        wait_until(lambda: len(self.accepted) + len(self.refused) >= min(n, self.count), deadline,
                   lambda: f"{n} sends accepted, have {len(self.accepted)}", pause=0.02)

    def finish(self, deadline=180):
        """Waits for the last answer; every send was accepted."""
        self.wait_accepted(self.count, deadline)
        self.seconds = time.monotonic() - self.began
        assert not self.refused, self.refused[:3]
        assert len(self.accepted) == self.count
        assert len(set(self.accepted.values())) == self.count, "two keys share one message"

    def _work(self, number):
        turn = number
        connection = None
        while not self._stop.is_set():
            try:
                key, body = self.jobs.get_nowait()
            except queue.Empty:
                break
            while not self._stop.is_set():
                if connection is None:
                    connection = http.client.HTTPConnection(
                        self.addresses[turn % len(self.addresses)], timeout=TIMEOUT)
                answer = self._attempt(connection, key, body)
                if answer is None or answer[0] in (503, 409):
                    # To the next replica, at a pace that leaves the daemons the processor.
                    connection.close()
                    connection = None
                    turn += 1
                    self.repeats += 1
                    self._stop.wait(0.05)
                    continue
                if answer[0] == 200:
                    self.accepted[key] = answer[1]["message_identifier"]
                else:
                    self.refused.append(answer)
                break
        if connection:
            connection.close()

    def _attempt(self, connection, key, body):
        start = time.monotonic()
        try:
            connection.request("POST", "/messages/send", body,
                               {**self.headers, "Idempotency-Key": key})
            response = connection.getresponse()
            answer = response.status, json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            return None
        self.latencies.append(time.monotonic() - start)
        return answer
