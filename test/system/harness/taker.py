"""Who takes receipts, and other calls: keeps every request as it came, and answers what it is told to."""

import hashlib
import hmac
import json
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit


@dataclass
class Request:
    at: float  # monotonic, when it had come in whole
    method: str
    path: str
    query: str
    headers: dict
    body: bytes
    status: int  # what it was answered

    def signed_by(self, key, header="X-Signature"):
        what = self.body if self.method == "POST" else f"http://{self.headers['Host']}{self.path}?{self.query}".encode()
        return self.headers.get(header) == hmac.new(key.encode(), what, hashlib.sha256).hexdigest()

    def receipts(self):
        """What it says, as a list of objects, however it was written."""
        if self.method == "GET":
            return [dict(parse_qsl(self.query, keep_blank_values=True))]
        if self.headers["Content-Type"] != "application/json":
            return [dict(parse_qsl(self.body.decode(), keep_blank_values=True))]
        said = json.loads(self.body)
        return said.get("receipts", [said])


class Taker:
    """`answers`: a function of a Request that returns the status. port: 0: any free one."""

    def __init__(self, answers=lambda request: 200, port=0):
        self.answers = answers
        self._lock = threading.Lock()
        self._requests = []
        taker = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self):
                taker._take(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

            def do_GET(self):
                taker._take(self, b"")

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 256  # they may come all at once

        self._server = Server(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._server.server_port}"

    def _take(self, handler, body):
        parts = urlsplit(handler.path)
        request = Request(time.monotonic(), handler.command, parts.path, parts.query, dict(handler.headers), body, 0)
        request.status = self.answers(request)
        with self._lock:
            self._requests.append(request)
        handler.send_response(request.status)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def requests(self):
        with self._lock:
            return list(self._requests)

    def receipts(self):
        """(request, receipt) of all that were answered with 2xx."""
        return [(request, receipt) for request in self.requests() if request.status < 300
                for receipt in request.receipts()]

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
