"""A customer's endpoint, in this process: it takes what it is sent, keeps it, and answers as it is told.

    with Receiver() as r:
        r.answer(status=500)                     from now on
        r.answer(status=429, headers={"Retry-After": "2"}, first=1)
        r.answer(hangs=True)
        r.events                                 [event] of all requests that were answered with 2xx
"""

import base64
import contextlib
import hashlib
import hmac
import json
import socket
import socketserver
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from .metrics import Metrics
from .wait import wait_until


@dataclass
class Manner:
    status: int = 200
    headers: dict = field(default_factory=dict)
    body: bytes = b""
    hangs: bool = False
    delay: float = 0
    first: int = None  # only so many requests
    when: object = None  # only for these: a function of the request


@dataclass
class Request:
    at: float
    path: str
    headers: dict
    body: bytes
    connection: int
    status: int = None

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def events(self):
        whole = self.json
        return whole["data"] if whole["type"] == "batch" else [whole]


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass  # who called has hung up


class Receiver:
    def __init__(self, host="127.0.0.1", port=0):
        self.requests = []
        self.connections = 0
        self._lock = threading.Lock()
        self._manners = []
        self._open = set()
        self._closing = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self):
                super().setup()
                with receiver._lock:
                    receiver.connections += 1
                    self.number = receiver.connections
                    receiver._open.add(self.connection)

            def finish(self):
                with receiver._lock:
                    receiver._open.discard(self.connection)
                with contextlib.suppress(OSError):
                    super().finish()

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                receiver._answer(self, body)

            do_GET = do_POST

            def log_message(self, *_):
                pass

        self.server = Server((host, port), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://{host}:{self.port}/hook"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def answer(self, **manner):
        """The latest that fits a request is the one it is answered by."""
        with self._lock:
            self._manners.append(Manner(**manner))

    def heal(self):
        with self._lock:
            self._manners.clear()

    def _manner(self, request):
        with self._lock:
            for manner in reversed(self._manners):
                if manner.first == 0 or (manner.when and not manner.when(request)):
                    continue
                if manner.first:
                    manner.first -= 1
                return manner
        return Manner()

    def _answer(self, handler, body):
        request = Request(time.monotonic(), handler.path, {k.lower(): v for k, v in handler.headers.items()}, body,
                          handler.number)
        manner = self._manner(request)
        with self._lock:
            self.requests.append(request)
        if manner.hangs:
            self._closing.wait(120)
            handler.close_connection = True
            return
        self._closing.wait(manner.delay)
        handler.send_response(manner.status)
        for name, value in manner.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(manner.body)))
        handler.end_headers()
        handler.wfile.write(manner.body)
        request.status = manner.status

    @property
    def taken(self):
        with self._lock:
            return [r for r in self.requests if r.status and r.status // 100 == 2]

    @property
    def events(self):
        return [e for r in self.taken for e in r.events]

    def wait_events(self, n, deadline=20):
        wait_until(lambda: len(self.events) >= n, deadline, lambda: f"{n} events, have {len(self.events)}")
        return self.events

    def wait_requests(self, n, deadline=20):
        wait_until(lambda: len(self.requests) >= n, deadline, lambda: f"{n} requests, have {len(self.requests)}")
        return self.requests

    def close(self):
        self._closing.set()
        self.server.shutdown()
        self.server.server_close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def signature(secret, request):
    """What the header has to hold for this secret, by the words of the specification."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    text = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.body
    return "v1," + base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()


class Hooks:
    """A customer's endpoints by the API."""

    def __init__(self, api, customer):
        self.api = api
        self.customer = customer

    def create(self, url, **fields):
        response = self.api.post("/webhooks", {"user_id": self.customer, "url": url, **fields})
        assert response.status_code == 200, response.text
        return response.json()

    def call(self, method, path, **query):
        return self.api.request(method, f"/webhooks/{path}", params={"user_id": self.customer, **query})

    def done(self, method, path, **query):
        response = self.call(method, path, **query)
        assert response.status_code == 200, response.text
        return response.json()

    def show(self, hook):
        return self.done("GET", hook["id"])

    def attempts(self, hook, **query):
        return self.done("GET", f"{hook['id']}/attempts", **query)["attempts"]


def wait_known(stack, customers=1, names=("api-1", "consumerd-1"), deadline=15):
    """Until these processes know of so many customers with an endpoint."""
    for name in names:
        wait_until(lambda: Metrics.of(stack.url(name)).sum("msg_webhook_customers") == customers, deadline,
                   f"{name} knows who has webhooks")
