"""A trace collector that answers as it is told: OTLP over HTTP and, on the same port, over gRPC."""

import base64
import contextlib
import gzip
import importlib
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import h2.config
import h2.connection
import h2.events

from .secured import server_context
from .wait import wait_until

PROTO = Path(__file__).resolve().parents[3] / "libcommon/net/otlp.proto"
GRPC_PATH = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
FOREVER = 3600


def _load_protocol():
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["protoc", f"--proto_path={PROTO.parent}", f"--python_out={folder}", PROTO.name],
                       check=True)
        sys.path.insert(0, folder)
        try:
            return importlib.import_module("otlp_pb2")
        finally:
            sys.path.remove(folder)


pb = _load_protocol()


@dataclass
class Answer:
    """One answer; `garbage` and `silent` are no answers at all. body: bytes, or a pb message."""

    status: int = 200
    headers: dict = field(default_factory=dict)
    body: object = b""
    grpc: int = 0
    details: object = None
    trailers_only: bool = False
    garbage: bytes = None
    endless: bytes = None  # behind garbage, again and again until the client has had enough
    silent: bool = False
    byte_every: float = 0

    def raw_body(self):
        return self.body if isinstance(self.body, bytes) else self.body.SerializeToString()


def server_tls(issued, clients=None, old=False):
    """issued: certificate and key, files. clients: the authority of those who may come. old: see secured.py."""
    context = server_context(issued, old)
    context.set_alpn_protocols(["h2", "http/1.1"])
    if clients:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients)
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # later, who is refused hears of it late
    return context


def partial(rejected, message="no"):
    return pb.ExportTraceServiceResponse(
        partial_success=pb.ExportTracePartialSuccess(rejected_spans=rejected, error_message=message))


def retry_info(seconds):
    info = pb.RetryInfo(retry_delay=pb.RetryDelay(seconds=seconds))
    return pb.RpcStatus(code=8, details=[pb.RpcDetail(
        type_url="type.googleapis.com/google.rpc.RetryInfo", value=info.SerializeToString())])


@dataclass
class Request:
    at: float
    path: str
    headers: dict
    size: int
    spans: list


class Span:
    def __init__(self, resource, scope_spans, span):
        self.resource, self.pb = resource, span
        self.trace_id, self.id = span.trace_id.hex(), span.span_id.hex()
        self.parent = span.parent_span_id.hex()
        self.name, self.kind = span.name, span.kind
        self.attributes = _values(span.attributes)
        self.scope = scope_spans.scope.name


def _values(pairs):
    return {p.key: getattr(p.value, p.value.WhichOneof("value")) for p in pairs}


class Collector:
    """with Collector([Answer(…), …]) as c: the last answer is given for ever. tls: of server_tls()."""

    def __init__(self, answers=(), tls=None):
        self.answers = list(answers) or [Answer()]
        self.tls, self.handshakes, self.protocols = tls, 0, set()
        self.refused = []  # handshakes that came to nothing
        self.requests = []
        self.faults = []
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"{'https' if tls else 'http'}://{self.address}"

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind, *_):
        self._stop.set()
        self.refuse()
        if kind is None:
            assert not self.faults, self.faults

    def refuse(self):
        """From now on nothing listens on the port."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # else a waiting accept goes on
        self._listener.close()

    @property
    def spans(self):
        return [s for r in list(self.requests) for s in r.spans]

    def wait_spans(self, n, deadline=10):
        wait_until(lambda: len(self.spans) >= n, deadline, lambda: f"{n} spans: {self.spans}")
        return self.spans

    # -- serving ----------------------------------------------------------------------------------

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._guard, args=(connection,), daemon=True).start()

    def _guard(self, connection):
        try:
            with self._secured(connection) as connection:
                start = connection.recv(65536)
                if start.startswith(b"PRI * HTTP/2.0"):
                    self._serve_http2(connection, start)
                else:
                    self._serve_http1(connection, start)
        except OSError:
            pass  # the client has gone
        except Exception as fault:  # seen by the test, at its end
            self.faults.append(repr(fault))

    def _secured(self, connection):
        if not self.tls:
            return connection
        try:
            connection = self.tls.wrap_socket(connection, server_side=True)
        except OSError as error:
            connection.close()
            self.refused.append(error)
            raise
        with self._lock:
            self.handshakes += 1
            self.protocols.add(connection.selected_alpn_protocol())
        return connection

    def _take(self, path, headers, body):
        """Notes the request; the answer to it."""
        size = len(body)
        if path == GRPC_PATH:
            compressed, length = body[0], int.from_bytes(body[1:5], "big")
            body = body[5:]
            assert length == len(body), (length, len(body))
            assert compressed == (headers.get("grpc-encoding") == "gzip"), headers
            body = gzip.decompress(body) if compressed else body
        elif headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        message = pb.ExportTraceServiceRequest.FromString(body)
        spans = [Span(_values(r.resource.attributes), s, span) for r in message.resource_spans
                 for s in r.scope_spans for span in s.spans]
        with self._lock:
            answer = self.answers[min(len(self.requests), len(self.answers) - 1)]
            self.requests.append(Request(time.monotonic(), path, headers, size, spans))
        return answer

    def _serve_http1(self, connection, data):
        while data:
            while b"\r\n\r\n" not in data:
                data += self._more(connection)
            head, _, body = data.partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
            while len(body) < int(headers["content-length"]):
                body += self._more(connection)
            answer = self._take(first.split(" ")[1], headers, body)
            if answer.silent:
                self._stop.wait(FOREVER)
                return
            if answer.garbage is not None:
                connection.sendall(answer.garbage)
                while answer.endless and not self._stop.is_set():
                    connection.sendall(answer.endless)
                return
            body = answer.raw_body()
            given = {"Content-Length": len(body), **answer.headers}
            lines = [f"HTTP/1.1 {answer.status} X", *(f"{k}: {v}" for k, v in given.items()), "", ""]
            self._say(connection, "\r\n".join(lines).encode() + body, answer.byte_every)
            data = connection.recv(65536)

    @staticmethod
    def _more(connection):
        data = connection.recv(65536)
        if not data:
            raise ConnectionError
        return data

    def _say(self, connection, data, byte_every):
        if not byte_every:
            connection.sendall(data)
            return
        for i in range(len(data)):
            connection.sendall(data[i:i + 1])
            if self._stop.wait(byte_every):
                return

    def _serve_http2(self, connection, data):
        h2c = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        h2c.initiate_connection()
        streams = {}
        while data:
            for event in h2c.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    headers = {k.decode(): v.decode() for k, v in event.headers}
                    streams[event.stream_id] = (headers, bytearray())
                elif isinstance(event, h2.events.DataReceived):
                    streams[event.stream_id][1].extend(event.data)
                    h2c.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    headers, body = streams.pop(event.stream_id)
                    answer = self._take(headers[":path"], headers, bytes(body))
                    if answer.silent:
                        self._stop.wait(FOREVER)
                        return
                    if answer.garbage is not None:
                        connection.sendall(answer.garbage)
                        return
                    self._answer_grpc(h2c, event.stream_id, answer)
            connection.sendall(h2c.data_to_send())
            data = connection.recv(65536)

    @staticmethod
    def _answer_grpc(h2c, stream, answer):
        trailers = [("grpc-status", str(answer.grpc)), ("grpc-message", "told to")]
        if answer.details is not None:
            text = base64.b64encode(answer.details.SerializeToString()).decode().rstrip("=")
            trailers.append(("grpc-status-details-bin", text))
        head = [(":status", str(answer.status)), ("content-type", "application/grpc")]
        if answer.trailers_only:
            h2c.send_headers(stream, head + trailers, end_stream=True)
            return
        body = answer.raw_body()
        h2c.send_headers(stream, head)
        h2c.send_data(stream, b"\0" + len(body).to_bytes(4, "big") + body)
        h2c.send_headers(stream, trailers, end_stream=True)
