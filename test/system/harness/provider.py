"""A carrier with a protocol of its own, as its public documentation has it: an HTTP server that keeps every request
and answers as it is told to.

    with Provider() as provider:
        provider.answer = lambda request: (200, {"messages": [{"status": "4"}]})
"""

import http.server
import json
import threading
import time
import urllib.parse
from dataclasses import dataclass


@dataclass
class Request:
    at: float  # monotonic
    method: str
    path: str
    query: dict
    headers: dict
    body: str

    @property
    def form(self):
        return dict(urllib.parse.parse_qsl(self.body, keep_blank_values=True))

    @property
    def json(self):
        return json.loads(self.body)


class Provider:
    def __init__(self):
        provider = self
        self.requests = []
        self.answer = lambda request: (500, "")
        self._lock = threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self):
                url = urllib.parse.urlsplit(self.path)
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                request = Request(time.monotonic(), self.command, url.path, dict(urllib.parse.parse_qsl(url.query)),
                                  dict(self.headers), body)
                with provider._lock:
                    provider.requests.append(request)
                status, said, *headers = provider.answer(request)
                data = (said if isinstance(said, str) else json.dumps(said)).encode()
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = handle_one

            def log_message(self, *args):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def url(self):
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
