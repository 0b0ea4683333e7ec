"""TLS on the HTTP server of every daemon: who gets in, what it costs who does not, and that HTTP behaves over
it as without. operator-sim carries it here: it needs no database."""

import contextlib
import copy
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.request

import pytest
from harness import raw
from harness.authority import Authority
from harness.collector import Collector
from harness.raw import CLOSE, HEALTH, read_all
from harness.secured import Secured, context, dial
from harness.stack import binary
from harness.wait import wait_until
# Over TLS as well, with the fixtures `server` and `serve` of this file.
from test_hostile_http import test_a_hostile_request_gets_its_answer_and_nothing_more  # noqa: F401
from test_http_hardening import (POST, order,
                                 test_a_client_may_end_its_side_when_it_has_asked,  # noqa: F401
                                 test_a_huge_body_is_answered,  # noqa: F401
                                 test_a_second_signal_ends_the_patience,  # noqa: F401
                                 test_a_stop_answers_what_has_come,  # noqa: F401
                                 test_endless_input_is_bounded,  # noqa: F401
                                 test_no_request_runs_out_of_another,  # noqa: F401
                                 test_pipelined_requests_are_answered_in_order,  # noqa: F401
                                 test_rubbish_ends_nothing_but_its_connection,  # noqa: F401
                                 test_slow_clients_are_cut_and_harm_nobody,  # noqa: F401
                                 test_the_last_answer_is_not_overtaken,  # noqa: F401
                                 test_what_a_proxy_may_read_differently_ends_the_connection,  # noqa: F401
                                 test_who_is_over_the_budget_is_told)  # noqa: F401

HERE = "IP:127.0.0.1,DNS:localhost"
V1_1, V1_2, V1_3 = ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
METRICS = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


class Files:
    def __init__(self, folder):
        self.folder = folder
        self.ours, self.foreign = Authority(folder, "ours"), Authority(folder, "foreign")
        self.good = self.ours.issue("good", HERE)
        self.other = self.ours.issue("other", HERE, days=100)
        self.client = self.ours.issue("client", "DNS:client.example")
        self.stranger = self.foreign.issue("stranger", "DNS:client.example")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("tls"))


class Server(raw.Server):
    """`log`: what it has said. `tls`, `notify`: of its clients."""

    def __init__(self, issued, log, certificate=None, client=None, notify=True, **options):
        self.tls, self.notify, self.log = context(issued.ours.certificate, client), notify, log
        certificate = certificate or issued.good
        with open(log, "wb") as out:
            super().__init__(log=out, HTTP_TLS_CERT_FILE=certificate[0], HTTP_TLS_KEY_FILE=certificate[1], **options)

    def dial(self, timeout=10, tls=None, **options):
        return dial(self.port, tls or self.tls, timeout, **{"notify": self.notify, **options})

    def plain(self, timeout=10):
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def get(self, path):
        with urllib.request.urlopen(f"https://127.0.0.1:{self.port}{path}", timeout=10, context=self.tls) as answer:
            return answer.read().decode()

    def series(self, name, **labels):
        wanted = ",".join(f'{k}="{v}"' for k, v in labels.items())
        return float(re.search(rf"^{name}{{{wanted}}} (.+)$", self.get("/metrics"), re.MULTILINE)[1])

    def said(self, event):
        lines = [json.loads(line) for line in open(self.log) if line.startswith("{")]
        return [line for line in lines if line["event"] == event]


@pytest.fixture(params=["notified", "cut"])
def serve(request, files, tmp_path):
    """Whose clients end their sides as TLS has it, and as many do."""
    yield from _servers(files, tmp_path, request.param == "notified", HTTP_READ_TIMEOUT_MS=3000)


@pytest.fixture(scope="module", params=["operator-sim", "api"])
def server(request, files, tmp_path_factory):
    server = Server(files, tmp_path_factory.mktemp("hostile") / "log", kind=request.param, HTTP_READ_TIMEOUT_MS=30000)
    server.knows_messages = request.param == "operator-sim"
    yield server
    assert server.process.poll() is None
    assert server.stop() == 0


@pytest.fixture
def server_of(files, tmp_path):
    yield from _servers(files, tmp_path, True)


def _servers(files, tmp_path, notify, **initial):
    servers = []

    def start(**options):
        servers.append(Server(files, tmp_path / f"{len(servers)}.log", notify=notify, **{**initial, **options}))
        return servers[-1]
    yield start
    for server in servers:
        if server.process.poll() is None:
            server.stop()
        assert server.process.returncode == 0
        text = open(server.log).read()
        assert "Sanitizer" not in text and "PRIVATE KEY" not in text


def refused(server, tls):
    """The sentence with which a client does not get in (under 1.3 it may hear of it later)."""
    with pytest.raises(ssl.SSLError) as error:
        with server.dial(tls=tls) as s:
            s.recv(100)
    return str(error.value).upper().replace(" ", "_")


# ---- who gets in ----

def test_versions_and_protocols(server_of, files):
    server = server_of()
    for version in (V1_2, V1_3):
        tls = context(files.ours.certificate, lowest=version, highest=version)
        tls.set_alpn_protocols(["h2", "http/1.1"])
        with server.dial(tls=tls) as s:
            assert s.tls.version() == {V1_2: "TLSv1.2", V1_3: "TLSv1.3"}[version]
            assert s.tls.selected_alpn_protocol() == "http/1.1"
            assert s.tls.compression() is None
            assert "ECDHE" in s.tls.cipher()[0] or version == V1_3
            s.sendall(CLOSE)
            assert read_all(s).startswith(b"HTTP/1.1 200 ")
    assert "PROTOCOL_VERSION" in refused(server, context(old=True, highest=V1_1))
    weak = context(highest=V1_2, old=True)
    weak.set_ciphers("AES128-SHA:AES128-GCM-SHA256:@SECLEVEL=0")  # no forward secrecy
    assert "HANDSHAKE_FAILURE" in refused(server, weak)
    other = context(files.ours.certificate)
    other.set_alpn_protocols(["h2"])
    assert "NO_APPLICATION_PROTOCOL" in refused(server, other)
    assert server.series("http_tls_handshakes_total", result="failed") == 3


def test_the_lowest_version_is_a_setting(server_of, files):
    server = server_of(HTTP_TLS_MIN_VERSION="1.3")
    assert "PROTOCOL_VERSION" in refused(server, context(files.ours.certificate, highest=V1_2))
    server.healthy()


def test_no_renegotiation(server_of):
    server = server_of()
    client = subprocess.run(["openssl", "s_client", "-tls1_2", "-connect", f"127.0.0.1:{server.port}"],
                            input="R\n", capture_output=True, text=True, timeout=30)
    assert "no renegotiation" in client.stderr, client.stderr
    server.healthy()


@pytest.mark.parametrize("version", [V1_2, V1_3])
def test_a_session_goes_on_with_a_ticket(server_of, files, version):
    server = server_of(HTTP_TLS_CLIENT_CA_FILE=files.ours.certificate, client=files.client)
    tls = context(files.ours.certificate, files.client, lowest=version, highest=version)
    with server.dial(tls=tls) as s:
        s.sendall(CLOSE)
        assert read_all(s).startswith(b"HTTP/1.1 200 ")
        session = s.tls.session
    with server.dial(tls=tls, session=session) as s:
        assert s.tls.session_reused
        s.sendall(METRICS)  # what the certificate before is good for
        assert s.recv(100).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("auth", ["optional", "required"])
@pytest.mark.parametrize("version", [V1_2, V1_3])
def test_clients_certificates(server_of, files, auth, version):
    server = server_of(HTTP_TLS_CLIENT_CA_FILE=files.ours.certificate, HTTP_TLS_CLIENT_AUTH=auth)

    def answer(certificate, request=METRICS):
        with server.dial(tls=context(files.ours.certificate, certificate, highest=version)) as s:
            s.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            return read_all(s)
    assert answer(files.client).startswith(b"HTTP/1.1 200 ")
    nobody = answer(None)
    if auth == "optional":
        assert nobody.startswith(b"HTTP/1.1 200 ")
    else:
        assert nobody.startswith(b"HTTP/1.1 403 ") and b'"certificate_required"' in nobody
        assert answer(None, b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 403 ")
    assert answer(None, HEALTH).startswith(b"HTTP/1.1 200 "), "a probe has none"
    assert "UNKNOWN_CA" in refused(server, context(files.ours.certificate, files.stranger, highest=version))
    server.tls = context(files.ours.certificate, files.client)  # for what follows
    assert server.series("http_tls_handshakes_total", result="failed") == 1


@pytest.mark.parametrize("said", [HEALTH, b"POST /messages HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"])
def test_http_on_the_port_of_https(server_of, said):
    server = server_of()
    with server.plain() as s:
        s.sendall(said)
        answer = read_all(s)
    assert answer.startswith(b"HTTP/1.1 400 ") and b"HTTPS" in answer
    head, body = answer.split(b"\r\n\r\n")
    assert int(re.search(rb"Content-Length: (\d+)", head)[1]) == len(body)
    assert json.loads(body)["error"] == "bad_request"
    with server.plain() as s:
        s.sendall(os.urandom(200))
        assert raw.cut_off([s], 3) == 1
    server.healthy()


# ---- certificates that change ----

class Shown:
    """The files that a server shows, to be changed."""

    def __init__(self, folder, issued):
        self.certificate, self.key = folder / "shown.pem", folder / "shown.key"
        self.use(*issued)

    def __getitem__(self, i):
        return (self.certificate, self.key)[i]

    def use(self, certificate, key):
        for source, target in ((certificate, self.certificate), (key, self.key)):
            new = target.with_suffix(".new")
            shutil.copy(source, new)
            new.rename(target)


def serial(server):
    with server.dial() as s:
        return s.tls.getpeercert()["serialNumber"]


def test_a_changed_certificate_is_shown_and_old_connections_live(server_of, files, tmp_path):
    shown = Shown(tmp_path, files.good)
    server = server_of(certificate=shown, HTTP_READ_TIMEOUT_MS=30000)
    old = [server.dial() for _ in range(10)]
    half = server.dial()
    half.sendall(HEALTH[:20])
    before = serial(server)
    left = server.metric("msg_tls_certificate_expiry_seconds")
    assert 86400 < left < 3 * 86400
    shown.use(*files.other)
    wait_until(lambda: serial(server) != before, 10, "the new one is shown")
    assert server.metric("msg_tls_certificate_expiry_seconds") > 90 * 86400
    half.sendall(HEALTH[20:])
    for s in [half, *old]:
        for _ in range(0 if s is half else 2):
            s.sendall(HEALTH)
            assert s.recv(4096).startswith(b"HTTP/1.1 200 ")
        if s is half:
            assert s.recv(4096).startswith(b"HTTP/1.1 200 ")
        s.close()
    assert len(server.said("tls.certificate")) == 2


def test_a_wrong_pair_keeps_the_one_before(server_of, files, tmp_path):
    shown = Shown(tmp_path, files.good)
    server = server_of(certificate=shown)
    before = serial(server)
    shown.use(files.other[0], files.good[1])
    failures = wait_until(lambda: server.said("tls.reload_failed"), 10, "it is told")
    assert "is not the key of the certificate" in failures[0]["error"]
    assert serial(server) == before
    shown.certificate.write_text("rubbish")
    wait_until(lambda: len(server.said("tls.reload_failed")) == 2, 10, "each change is told")
    assert "HTTP_TLS_CERT_FILE" in server.said("tls.reload_failed")[1]["error"]
    shown.certificate.unlink()
    wait_until(lambda: len(server.said("tls.reload_failed")) == 3, 10, "each change is told")
    assert serial(server) == before
    shown.use(*files.other)
    wait_until(lambda: serial(server) != before, 10, "the new one is shown")
    assert len(server.said("tls.reload_failed")) == 3, "once for each"


def test_sighup_reads_again_what_looks_the_same(server_of, files, tmp_path):
    server = server_of(certificate=Shown(tmp_path, files.good))
    with server.dial() as s:
        s.sendall(HEALTH)  # from now on it may be idle for longer
        assert s.recv(65536).startswith(b"HTTP/1.1 200 ")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(server.said("tls.certificate")) == 2, 10, "it was read again")
        s.sendall(CLOSE)
        assert read_all(s).startswith(b"HTTP/1.1 200 ")
    assert server.said("signal")[0]["signal"] == "SIGHUP"


@pytest.mark.parametrize("case, said", [
    ("pair", "is not the key of the certificate"), ("missing", "No such file or directory"), ("rubbish", "HTTP_TLS_CERT_FILE"),
    ("clients", "HTTP_TLS_CLIENT_CA_FILE"), ("encrypted", "HTTP_TLS_KEY_FILE")])
def test_what_cannot_be_shown_is_no_start(files, tmp_path, case, said):
    (tmp_path / "rubbish").write_text("rubbish")
    locked = tmp_path / "locked.key"
    subprocess.run(["openssl", "pkey", "-in", files.good[1], "-aes256", "-passout", "pass:x", "-out", locked], check=True)
    names = {"CERT": files.good[0], "KEY": files.good[1]}
    names |= {"pair": {"KEY": files.other[1]}, "missing": {"CERT": tmp_path / "none"}, "rubbish": {"CERT": tmp_path / "rubbish"},
              "clients": {"CLIENT_CA": tmp_path / "rubbish"}, "encrypted": {"KEY": locked}}[case]
    env = {"LISTEN_ADDR": "127.0.0.1:0", **{f"HTTP_TLS_{k}_FILE": str(v) for k, v in names.items()}}
    done = subprocess.run([binary("operator-sim")], env=env, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1 and said in done.stdout, done.stdout
    assert "PRIVATE KEY" not in done.stdout


@pytest.mark.parametrize("given, missing", [("CERT", "KEY"), ("KEY", "CERT"), ("CLIENT_CA", "CERT")])
def test_settings_that_belong_together(files, given, missing):
    env = {f"HTTP_TLS_{given}_FILE": str(files.good[0])}
    done = subprocess.run([binary("operator-sim"), "--check"], env=env, capture_output=True, text=True, timeout=20)
    assert done.returncode == 78 and f"HTTP_TLS_{missing}_FILE is missing" in done.stderr


def test_health_asks_over_tls(server_of, files):
    server = server_of(HTTP_TLS_CLIENT_CA_FILE=files.ours.certificate, client=files.client)
    env = {"LISTEN_ADDR": f"127.0.0.1:{server.port}", "HTTP_TLS_CERT_FILE": files.good[0], "HTTP_TLS_KEY_FILE": files.good[1]}
    done = subprocess.run([binary("operator-sim"), "--health"], env=env, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr


# ---- handshakes that come to nothing ----

def hello(files):
    """A ClientHello."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context(files.ours.certificate).wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


def cut_off(connections, deadline):
    """As raw.cut_off, of more than select takes."""
    poll, alive, end = select.poll(), {s.fileno(): s for s in connections}, time.monotonic() + deadline
    for s in connections:
        poll.register(s, select.POLLIN)
    while alive and time.monotonic() < end:
        for fd, _ in poll.poll(50):
            with contextlib.suppress(ConnectionResetError):
                if alive[fd].recv(65536):
                    continue
            poll.unregister(fd)
            del alive[fd]
    return len(connections) - len(alive)


def worst_while(server, seconds):
    worst, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        worst = max(worst, server.healthy())
    return worst


def test_two_thousand_handshakes_that_never_finish(server_of, files):
    """Silent ones, ones cut in the middle and ones that wait for the end: all are cut within the time of slow
    headers, and nobody else waits for them."""
    server = server_of(HTTP_READ_TIMEOUT_MS=3000)
    start, before = hello(files), server.resident_mib()
    many = [server.plain() for _ in range(2000)]
    for i, s in enumerate(many):
        s.sendall([b"", start[:3], start[:-7], start][i % 4])
    began = time.monotonic()
    assert worst_while(server, 1) < (3 if before else 15), "a sanitizer makes handshakes slow"
    assert server.resident_mib() - before < 64
    assert cut_off(many, 10) == 2000
    assert time.monotonic() - began < 8
    late, crowded = (server.series("http_connections_dropped_total", reason=r) for r in ("handshake_timeout", "crowded"))
    assert late + crowded == 2000 and late <= 512, (late, crowded)
    assert 0 < server.series("http_tls_handshakes_total", result="failed") <= 1500, "who says nothing has not tried"
    for s in many:
        s.close()
    wait_until(lambda: server.metric("http_connections") == 1, 5, "all are gone")


def test_what_openssl_keeps_is_in_the_budget(server_of):
    """Handshakes that are done, and behind each a record whose end does not come."""
    server = server_of(HTTP_MEMORY_BYTES=16 << 20, HTTP_READ_TIMEOUT_MS=30000)
    before, many = server.resident_mib(), []
    for _ in range(1000):
        many.append(server.dial())  # who waits for longest makes room
        with contextlib.suppress(OSError):
            many[-1].raw(b"\x17\x03\x03\x40\x00" + bytes(16000))
    assert server.healthy() < 5
    grown = server.resident_mib() - before
    print(f"{grown:.1f} MiB")
    assert grown < 24
    held = wait_until(lambda: server.metric("http_memory_bytes"), 5, "it is counted")
    assert (8 << 20) < held <= (16 << 20)
    for s in many:
        s.close()
    wait_until(lambda: server.metric("http_connections") == 1, 5, "all are gone")
    wait_until(lambda: server.metric("http_memory_bytes") < 1 << 16, 5, "nothing of them is counted")


def test_half_open_handshakes_make_room(server_of, files):
    """At the limit those that do not come on go early."""
    server = server_of(HTTP_MAX_CONNECTIONS=64, HTTP_READ_TIMEOUT_MS=30000)
    start = hello(files)
    many = [server.plain() for _ in range(300)]
    for s in many:
        with contextlib.suppress(OSError):
            s.sendall(start[:-1])
    began = time.monotonic()
    assert server.healthy(20) < 15
    assert time.monotonic() - began < 15
    for s in many:
        s.close()


def test_a_slow_handshake_counts_from_the_start(server_of, files):
    """A byte now and then does not begin the time anew."""
    server = server_of()
    start, began = hello(files), time.monotonic()
    with server.plain() as s:
        with pytest.raises(OSError):
            for i in range(len(start)):
                s.sendall(start[i:i + 1])
                if cut_off([s], 0.1):
                    raise ConnectionError
    assert 0.9 < time.monotonic() - began < 3
    with server.dial() as s:  # nor does a handshake that is done, without a request behind it
        assert cut_off([s], 5) == 1
    assert server.series("http_connections_dropped_total", reason="idle_timeout") == 1


def test_out_of_descriptors(server_of, files):
    """No spinning while handshakes use them up, and service again afterwards."""
    server = server_of(files=64, HTTP_THREADS=1, HTTP_READ_TIMEOUT_MS=3000)
    start = hello(files)
    many = [server.plain() for _ in range(150)]
    for s in many:
        with contextlib.suppress(OSError):
            s.sendall(start)
    before, began = server.cpu_seconds(), time.monotonic()
    assert raw.cut_off(many[:10], 10) == 10
    assert server.cpu_seconds() - before < 0.3 * (time.monotonic() - began) + 0.3
    for s in many:
        s.close()
    assert server.healthy(20) < 15


# ---- HTTP over it ----

def test_large_answers_to_a_slow_reader(server_of):
    """All of them come whole, whatever the kernel takes at a time; who reads nothing is cut off."""
    server = server_of(HTTP_WRITE_TIMEOUT_MS=5000)
    n = 60
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.settimeout(20)
        s.connect(("127.0.0.1", server.port))
        client = Secured(s, server.tls)
        client.sendall(METRICS * n + CLOSE)
        data = b""
        while piece := client.recv(3000):
            data += piece
            time.sleep(0.0005)
    for _ in range(n):
        head, _, rest = data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        length = int(re.search(rb"Content-Length: (\d+)", head)[1])
        assert rest[:length].startswith(b"# HELP") and rest[:length].endswith(b"\n")
        data = rest[length:]
    assert data.startswith(b"HTTP/1.1 200 ") and data.endswith(b"}")


def test_a_client_that_does_not_read(server_of):
    server = server_of()
    before, deaf = server.resident_mib(), []
    for _ in range(20):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        s.settimeout(10)
        s.connect(("127.0.0.1", server.port))
        client = Secured(s, server.tls)
        s.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for _ in range(1000):
                client.sendall(METRICS)
        deaf.append(client)
    wait_until(lambda: server.metric("http_connections") <= 1, 15, "they are cut off")
    assert server.series("http_connections_dropped_total", reason="write_timeout") == 20
    assert server.resident_mib() - before < 64


def test_an_answer_right_behind_100_continue(server_of):
    """The body comes at any moment around the interim answer; the final one is never lost."""
    server = server_of()
    rng = random.Random(5)
    with server.dial(timeout=5) as s:
        for i in range(400):
            body = order(f"c-{i}").split(b"\r\n\r\n", 1)[1]
            s.sendall(POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
            time.sleep(rng.random() * 0.0006)
            s.sendall(body)
            answer = b""
            while not re.search(rb"HTTP/1\.1 [2-5].*\r\n\r\n.*}", answer, re.DOTALL):
                answer += s.recv(4096)
            assert b"HTTP/1.1 200 " in answer, answer


def test_a_reset_is_one(server_of):
    server = server_of(SIM_FAULTS='{"reset_share":1}')
    for _ in range(20):
        with server.dial() as s:
            s.sendall(order("r-1"))
            with pytest.raises(ConnectionResetError):
                s.recv(100)
    server.healthy()


def test_a_span_says_https(server_of):
    with Collector() as collector:
        server = server_of(kind="api", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_BSP_SCHEDULE_DELAY=20)
        with server.dial() as s:
            s.sendall(b"GET /balance HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert read_all(s).startswith(b"HTTP/1.1 401 ")
        assert collector.wait_spans(1)[0].attributes["url.scheme"] == "https"


def test_records_of_all_sizes(server_of):
    """A body in one record, in records of a byte, and in more than OpenSSL holds at once."""
    server = server_of()
    text = "x" * 40000
    for step in (1, 7, 1000, 16384, 100000):
        request = order(f"s-{step}", text if step > 7 else "short")
        with server.dial() as s:
            for at in range(0, len(request), step):
                s.sendall(request[at:at + step])
            s.sendall(CLOSE)
            codes = re.findall(rb"HTTP/1\.1 (\d+)", read_all(s))
        assert codes[1] == b"200" and codes[0] in (b"200", b"422", b"400"), codes


def test_a_thousand_connections_come_and_go(server_of, files):
    server = server_of()
    start = hello(files)
    for i in range(1000):
        if i % 2:
            with server.plain() as s:
                s.sendall(start[:random.randrange(len(start))])
        else:
            with server.dial() as s:
                s.sendall([b"GET /heal", HEALTH][i % 4 // 2])
    wait_until(lambda: server.metric("http_connections") == 1, 10, "all are gone")
    assert server.metric("http_requests_in_flight") == 1
    assert server.resident_mib() < 64


# ---- the API itself ----

def with_admin(server_of, **options):
    """msg-api, and the same with the port of its second listener."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    first = server_of(kind="api", ADMIN_LISTEN_ADDR=f"127.0.0.1:{port}", **options)
    admin = copy.copy(first)
    admin.port = port
    return first, admin


def status_of(server, tls, request=METRICS):
    with server.dial(tls=tls) as s:
        s.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        return int(read_all(s)[9:12])


def test_the_admin_listener_speaks_https_as_well(server_of, files, tmp_path):
    shown = Shown(tmp_path, files.good)
    first, admin = with_admin(server_of, certificate=shown)
    assert (status_of(first, first.tls), status_of(admin, admin.tls)) == (404, 200)
    assert status_of(admin, admin.tls, HEALTH) == 200
    assert "PROTOCOL_VERSION" in refused(admin, context(old=True, highest=V1_1))
    with admin.plain() as s:
        s.sendall(METRICS)
        assert b"this port speaks HTTPS" in read_all(s)
    before = serial(first)
    assert serial(admin) == before
    shown.use(*files.other)
    for server in (first, admin):
        wait_until(lambda: serial(server) != before, 10, "the new one is shown")
    assert admin.metric("msg_tls_certificate_expiry_seconds") > 90 * 86400
    loaded = len(first.said("tls.certificate"))
    first.process.send_signal(signal.SIGHUP)
    wait_until(lambda: len(first.said("tls.certificate")) == loaded + 2, 10, "both have read it again")


@pytest.mark.parametrize("auth", ["optional", "required"])
def test_the_admin_listener_asks_for_certificates_as_well(server_of, files, auth):
    first, admin = with_admin(server_of, HTTP_TLS_CLIENT_CA_FILE=files.ours.certificate, HTTP_TLS_CLIENT_AUTH=auth)
    known, nobody, stranger = (context(files.ours.certificate, c) for c in (files.client, None, files.stranger))
    assert status_of(admin, known) == 200
    assert status_of(admin, nobody) == (200 if auth == "optional" else 403)
    assert status_of(admin, nobody, HEALTH) == 200, "a probe has none"
    assert "UNKNOWN_CA" in refused(admin, stranger)
    assert status_of(first, known) == 404


def test_a_crowd_at_the_admin_listener(server_of, files):
    """It has few connections of its own, and takes none from the first."""
    first, admin = with_admin(server_of, files=256, HTTP_READ_TIMEOUT_MS=30000)
    start = hello(files)
    crowd = [admin.plain() for _ in range(400)]
    for s in crowd:
        with contextlib.suppress(OSError):
            s.sendall(start[:-7])
    assert first.healthy(20) < 15 and admin.healthy(20) < 15
    assert admin.metric("process_open_fds") < 100
    for s in crowd:
        s.close()


def test_the_main_path_over_tls(shared, world, files):
    stack = world()
    certificate, key = files.good
    stack.stop("api-1")
    stack.start_without_waiting("api-1", HTTP_TLS_CERT_FILE=certificate, HTTP_TLS_KEY_FILE=key)
    api = stack.api()
    api.url = api.url.replace("http://", "https://")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REQUESTS_CA_BUNDLE", str(files.ours.certificate))

        def ready():
            try:
                return api.get("/readyz").status_code == 200
            except OSError:
                return False
        wait_until(ready, 30, "the API is ready")
        customer = api.funded()
        api.wait_final(customer, api.sent(customer, type="express")["message_identifier"])
    stack.stop("api-1")
