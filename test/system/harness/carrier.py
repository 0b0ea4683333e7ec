"""An operator that goes wrong in the ways of real ones, in this process, on a port of its own. What
operator-sim cannot do is here: it speaks HTTP badly, and lies.

It keeps its own record, of every call and of every SMS, whatever it answered: what the platform
believes is judged against that.

    with Carrier("operatorA") as a:
        a.on_post(cut="answer")              taken, and the connection cut without an answer
        a.on_post(status=401, takes=False)   refused
        a.on_post(**LIES["html"])            and what it says is no acceptance
        a.on_lookup(status=404)              it never tells
        a.heal()

`on_post` and `on_lookup` take the fields of Manner, `on_idle` those of Idle; each replaces what was
said before about the same. The fields go together in any way that makes sense.
"""

import json
import random
import select
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from .secured import server_context
from .wait import wait_until

POLL_SEC = 0.05  # how soon a thread that waits sees that the carrier closes
HANG_SEC = 60    # nobody waits longer for an answer that does not come
REASONS = {200: "OK", 404: "Not Found", 408: "Request Timeout"}


@dataclass
class Manner:
    """How one kind of call is treated."""

    takes: bool = True      # a POST becomes an SMS, whatever is answered
    share: float = 1        # of the calls; the others are treated well
    first: int = None       # only so many calls
    on_kept: bool = None    # only on a connection that had a call before (False: had none)
    delay: float = 0        # before the answer
    hangs: bool = False     # no answer, and no end
    cut: str = None         # the connection ends: before the "answer", after its "headers", in its "body"
    resets: bool = False    # where it is cut or closed, with a reset
    status: int = None      # instead of the honest answer
    headers: tuple = ()     # (name, value) more
    body: object = None     # bytes, or a function of the honest answer's object that returns bytes
    length: int = None      # Content-Length, where it is not the body's
    raw: bytes = None       # these bytes instead of a whole answer
    endless: bytes = None   # behind it, again and again, until the other side has had enough
    every: float = 0        # a byte of the answer at a time, so long apart
    again: bytes = None     # a second answer, that nobody has asked for
    again_after: float = 0  # so long after the first; not if a call comes before. 0: right behind it
    closes: bool = False    # the connection after the answer, without having said so


@dataclass
class Idle:
    """What is done on a connection that had a call and has none."""

    after: float = None
    says: bytes = b""
    closes: bool = True


@dataclass
class Call:
    at: float  # monotonic
    method: str
    reference: str
    to: str  # None: of a lookup
    connection: int
    nth: int  # call on its connection, from 1
    key: str


@dataclass
class Sms:
    at: float
    reference: str
    to: str
    id: object


def answer(status=200, body=b"", headers=()):
    """A whole answer as bytes, for `raw`, `again` and `Idle.says`."""
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'So')}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if not any(name.lower() == "content-length" for name, _ in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def taken(id="nobody"):
    return answer(200, json.dumps({"id": id, "status": "accepted"}).encode())


REQUEST_TIMEOUT = answer(408, b"<html>408</html>", (("Connection", "close"), ("Content-Type", "text/html")))

# What is no acceptance, and no "found" either, though it says 2xx.
LIES = {
    "html": {"status": 200, "body": b"<html><body>Welcome</body></html>"},
    "empty": {"status": 200, "body": b""},
    "no content": {"status": 204, "body": b""},
    "null id": {"status": 200, "body": b'{"id":null,"status":"accepted"}'},
    "empty id": {"status": 200, "body": b'{"id":"","status":"accepted"}'},
    "no id": {"status": 200, "body": b'{"status":"accepted"}'},
    "rejected": {"status": 200, "body": b'{"id":"no-1","status":"rejected"}'},
    "rejected, no id": {"status": 200, "body": b'{"status":"rejected"}'},
    "list": {"status": 200, "body": b"[]"},
    "nested": {"status": 200, "body": b'{"messages":[{"status":"4"}]}'},
    "cut 206": {"status": 206, "body": b'{"id":"cut-1","sta', "length": 200, "closes": True},
    "cut": {"status": 200, "body": b'{"id":"cut-2"}', "length": 200, "closes": True},
    "large": {"status": 200, "body": b'{"id":"large-1","text":"' + b"x" * 100_000 + b'"}'},
}


class Carrier:
    """`issued`: certificate and key, files: it speaks TLS. old: an old one. seed: of the shares."""

    def __init__(self, name, issued=None, old=False, seed=1):
        self.name = name
        self.knows_references = True  # else each POST is a new SMS
        self.knows_after = 0          # seconds from the SMS until a lookup finds it
        self.make_id = lambda n: f"{name}-{n}"  # a value for JSON, or bytes: the JSON itself
        self._lock = threading.RLock()
        self._random = random.Random(seed)
        self._tls = server_context(issued, old) if issued else None
        self._calls, self._sms = [], []
        self._of_reference, self._duplicates = {}, 0
        self._connections, self._open, self._dropped = 0, set(), set()
        self._closing = self._refusing = False
        self.heal()
        self._port = 0
        self._listener = self._bound()
        self._listener.listen(128)
        self._port = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    # -- how it behaves ---------------------------------------------------------------------------

    def heal(self):
        """Every call is treated well from now on. What it knows, and how well it knows it, stays."""
        with self._lock:
            self._manners = {"POST": Manner(), "GET": Manner()}
            self._struck = Counter()
            self.idle = Idle()
            if self._refusing:
                self._listener.listen(128)
            self._refusing = False

    def on_post(self, **fields):
        self._treat("POST", fields)

    def on_lookup(self, **fields):
        self._treat("GET", fields)

    def on_idle(self, **fields):
        with self._lock:
            self.idle = Idle(**fields)

    def _treat(self, method, fields):
        with self._lock:
            self._manners[method] = Manner(**fields)
            self._struck[method] = 0

    def refuse(self):
        """Refuses connections and drops those it has, until healed."""
        with self._lock:
            self._refusing = True
            # A socket that is bound and does not listen keeps the port.
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = self._bound()
        self.drop_connections()

    def drop_connections(self):
        with self._lock:
            for connection in list(self._open):
                self._dropped.add(connection)
        wait_until(lambda: not self._dropped & self._open, 10, "connections are dropped")

    # -- what it knows ----------------------------------------------------------------------------

    @property
    def url(self):
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    def calls(self, method=None, reference=None):
        with self._lock:
            return [c for c in self._calls if method in (None, c.method)
                    and reference in (None, c.reference)]

    def posts(self, reference=None):
        return self.calls("POST", reference)

    def lookups(self, reference=None):
        return self.calls("GET", reference)

    def sms(self, reference=None):
        with self._lock:
            return [s for s in self._sms if reference in (None, s.reference)]

    def posts_by_reference(self):
        return Counter(c.reference for c in self.posts())

    def sms_by_reference(self):
        return Counter(s.reference for s in self.sms())

    def sms_by_recipient(self):
        return Counter(s.to for s in self.sms())

    @property
    def open_connections(self):
        with self._lock:
            return len(self._open)

    # -- as operators.Operator, and over HTTP as operator-sim, for the audits ---------------------

    def ledger(self):
        """Every SMS: a reference that was delivered twice is there twice."""
        return [self._entry(s) for s in self.sms()]

    def entry(self, reference):
        return next((self._entry(s) for s in self.sms(reference)), None)

    def counts(self):
        with self._lock:
            return {"accepted": len(self._of_reference), "requests": len(self.posts()),
                    "lookups": len(self.lookups()), "duplicates": self._duplicates}

    @staticmethod
    def _entry(sms):
        id = sms.id.decode() if isinstance(sms.id, bytes) else sms.id
        return {"reference": sms.reference, "id": id, "to": sms.to}

    def administer(self, path, body):
        if path.startswith("/ledger/count"):
            return self.counts()
        if path.startswith("/ledger/find"):
            wanted = set(json.loads(body)["references"])
            return {"ledger": [e for e in self.ledger() if e["reference"] in wanted]}
        return {"ledger": self.ledger(), "next_cursor": None}

    # -- connections ------------------------------------------------------------------------------

    def _bound(self):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.1", self._port))
        return s

    def _accept(self):
        while not self._closing:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                time.sleep(POLL_SEC)  # refusing
                continue
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, sock):
        with self._lock:
            self._connections += 1
            number = self._connections
            self._open.add(number)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls:
                sock = self._tls.wrap_socket(sock, server_side=True)
            _Connection(self, sock, number).serve()
        except (OSError, ValueError):
            pass
        finally:
            sock.close()
            with self._lock:
                self._open.discard(number)
                self._dropped.discard(number)

    def gone(self, number):
        return self._closing or number in self._dropped

    # -- calls ------------------------------------------------------------------------------------

    def receive(self, method, path, headers, body, connection, nth):
        """Records the call; returns how it is treated, and the honest status and object."""
        with self._lock:
            manner = self._choose(method, nth)
            message = json.loads(body) if method == "POST" else {}
            reference = message.get("reference") or path.rpartition("/")[2]
            self._calls.append(Call(time.monotonic(), method, reference, message.get("to"), connection, nth,
                                    headers.get("idempotency-key")))
            if method == "POST":
                self._duplicates += reference in self._of_reference
                sms = self._take(message) if manner.takes else None
                return manner, 200, self._told(sms)
            sms = self._of_reference.get(reference)
            if sms and time.monotonic() - sms.at >= self.knows_after:
                return manner, 200, self._told(sms)
            return manner, 404, {"error": "not_found"}

    def _choose(self, method, nth):
        manner = self._manners[method]
        if ((manner.first is not None and self._struck[method] >= manner.first)
                or (manner.on_kept is not None and manner.on_kept != (nth > 1))
                or (manner.share < 1 and self._random.random() >= manner.share)):
            return Manner()
        self._struck[method] += 1
        return manner

    def _take(self, message):
        known = self._of_reference.get(message["reference"])
        if known and self.knows_references:
            return known
        sms = Sms(time.monotonic(), message["reference"], message["to"], self.make_id(len(self._sms) + 1))
        self._sms.append(sms)
        self._of_reference[sms.reference] = sms
        return sms

    @staticmethod
    def _told(sms):
        return {"id": sms.id if sms else "not-taken", "status": "accepted"}

    # -- lifetime ---------------------------------------------------------------------------------

    def close(self):
        self._closing = True
        self._listener.close()
        wait_until(lambda: not self._open, 10, "connections end")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class _Connection:
    def __init__(self, carrier, sock, number):
        self.carrier, self.sock, self.number = carrier, sock, number
        self.input = b""
        self.nth = 0

    def serve(self):
        while self._wait_for_call() and (call := self._read_call()):
            method, path, headers, body = call
            if path.startswith("/ledger"):
                self._send(answer(200, json.dumps(self.carrier.administer(path, body)).encode()))
                continue
            self.nth += 1
            manner, status, told = self.carrier.receive(method, path, headers, body, self.number, self.nth)
            if not self._answer(manner, status, told):
                return

    # Whether there is something to read before `seconds` are over; None: for ever.
    def _readable(self, seconds):
        end = None if seconds is None else time.monotonic() + seconds
        while not self.carrier.gone(self.number):
            if self.input or (isinstance(self.sock, ssl.SSLSocket) and self.sock.pending()):
                return True
            left = POLL_SEC if end is None else min(POLL_SEC, max(0, end - time.monotonic()))
            if select.select([self.sock], [], [], left)[0]:
                return True
            if end is not None and time.monotonic() >= end:
                return False
        return False

    def _wait_for_call(self):
        spoken = False
        began = time.monotonic()
        while not self.carrier.gone(self.number):
            if self._readable(POLL_SEC):
                return True
            idle = self.carrier.idle
            if self.nth and idle.after is not None and not spoken \
                    and time.monotonic() - began >= idle.after:
                spoken = True
                self._send(idle.says)
                if idle.closes:
                    return False
        return False

    def _read_call(self):
        while b"\r\n\r\n" not in self.input:
            if not self._more():
                return None
        head, _, self.input = self.input.partition(b"\r\n\r\n")
        request, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        while len(self.input) < length:
            if not self._more():
                return None
        body, self.input = self.input[:length], self.input[length:]
        method, path, _ = request.split(" ")
        return method, path, headers, body

    def _more(self):
        if not self._readable(None):
            return False
        data = self.sock.recv(65536)
        self.input += data
        return data

    def _send(self, data):
        if data:
            self.sock.sendall(data)

    # Whether the connection lives on.
    def _answer(self, manner, status, told):
        if manner.delay:
            self._pause(manner.delay)
        if manner.hangs:
            self._pause(HANG_SEC)
            return False
        head, body = self._made(manner, status, told)
        data = head + body
        if manner.cut:
            data = {"answer": b"", "headers": head, "body": head + body[:len(body) // 2]}[manner.cut]
        elif manner.again and not manner.again_after:
            data += manner.again
        if manner.every:
            return self._drip(data, manner.every)
        self._send(data)
        while manner.endless and not self.carrier.gone(self.number):
            self._send(manner.endless)
        if manner.again_after and not self._readable(manner.again_after):
            self._send(manner.again)
        if not (manner.cut or manner.closes):
            return True
        if manner.resets:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    def _drip(self, data, every):
        for i in range(len(data)):
            self._send(data[i:i + 1])
            self._pause(every)
        return True

    # Until the other side gives up, at most.
    def _pause(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.carrier.gone(self.number):
            if self._readable(min(POLL_SEC, end - time.monotonic())) and not self._more():
                raise ConnectionError("the other side has gone")

    @staticmethod
    def _made(manner, status, told):
        if manner.raw is not None:
            return manner.raw, b""
        body = manner.body(told) if callable(manner.body) else manner.body
        if body is None:
            body = _json(told)
        headers = list(manner.headers)
        if manner.length is not None:
            headers.append(("Content-Length", manner.length))
        elif manner.status == 204:
            return b"HTTP/1.1 204 No Content\r\n\r\n", b""
        whole = answer(manner.status or status, body, headers)
        return whole[:len(whole) - len(body)], body


def _json(told):
    if isinstance(told.get("id"), bytes):
        return b'{"id":' + told["id"] + b',"status":"accepted"}'
    return json.dumps(told).encode()
