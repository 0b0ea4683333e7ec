"""Storms: thousands of clients at once that want nothing but to be in the way, and one among them that asks. The
figures that each has come to are printed (-s)."""

import contextlib
import socket
import time
import urllib.request

import pytest
from harness.authority import Authority
from harness.raw import Server
from harness.secured import context, dial
from harness.slow import Slow
from harness.wait import wait_until
from test_memory import Health
from test_tls_listener import HERE, cut_off, hello

STORM = 10_000
MEMORY_MIB = 96
LIMIT_MS = 3000


class Issued:
    """As test_tls_listener.Files, as far as it is needed here."""

    def __init__(self, folder):
        self.ours = Authority(folder, "ours")
        self.good = self.ours.issue("good", HERE)


@pytest.fixture(scope="module")
def issued(tmp_path_factory):
    return Issued(tmp_path_factory.mktemp("tls"))


class Listener(Server):
    """`tls`: it speaks HTTPS, and so do its clients."""

    def __init__(self, issued=None, **options):
        self.tls = issued and context(issued.ours.certificate)
        if issued:
            options |= {"HTTP_TLS_CERT_FILE": issued.good[0], "HTTP_TLS_KEY_FILE": issued.good[1]}
        super().__init__(**{"HTTP_READ_TIMEOUT_MS": LIMIT_MS, "HTTP_WRITE_TIMEOUT_MS": LIMIT_MS, **options})

    def dial(self, timeout=10):
        return dial(self.port, self.tls, timeout) if self.tls else super().dial(timeout)

    def get(self, path):
        url = f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(url, timeout=10, context=self.tls) as answer:
            return answer.read().decode()

    def plain(self):
        return socket.create_connection(("127.0.0.1", self.port), 10)


@pytest.fixture
def listen():
    servers = []

    def start(*args, **options):
        servers.append(Listener(*args, **options))
        return servers[-1]
    yield start
    for server in servers:
        assert server.stop() == 0


@pytest.mark.parametrize("files", [None, 1024], ids=["descriptors enough", "1,024 descriptors"])
@pytest.mark.parametrize("way", ["HTTP", "HTTPS"])
def test_ten_thousand_that_never_finish(listen, issued, way, files):
    """Half a request, or half a ClientHello. Whoever asks is answered meanwhile, and all the others are cut in time."""
    limit_ms = 1000 if files else LIMIT_MS  # who has begun is given that long, a thousand at a time
    server = listen(issued if way == "HTTPS" else None, files=files, HTTP_READ_TIMEOUT_MS=limit_ms)
    half = hello(issued)[:-7] if way == "HTTPS" else b"GET /healthz HTTP/1.1\r\nX-Half: "
    before, storm, answered = server.resident_mib(), [], []
    began, cpu = time.monotonic(), server.cpu_seconds()
    for i in range(STORM):
        storm.append(server.plain())
        with contextlib.suppress(OSError):  # it may have had to go already
            storm[-1].send(half)
        if i % 1000 == 999:
            answered.append(server.healthy(20))
    grown = server.peak_mib() - before
    ended = cut_off(storm, 15)
    took, used = time.monotonic() - began, server.cpu_seconds() - cpu
    print(f"{way}: {grown:.0f} MiB, healthz at most {max(answered) * 1000:.0f} ms, {took:.1f} s,"
          f" {used:.1f} s of processor time")
    assert ended == STORM
    assert not before or grown < MEMORY_MIB, "MiB"
    assert max(answered) < LIMIT_MS / 1000 + 1
    for s in storm:
        s.close()
    wait_until(lambda: server.metric("http_connections") == 1, 10, "all are gone")


@pytest.mark.parametrize("way", ["HTTP", "HTTPS"])
def test_nothing_spins_for_want_of_descriptors(listen, issued, way):
    """More at the door than there are descriptors, and nothing that could be done about it."""
    server = listen(issued if way == "HTTPS" else None, files=128, HTTP_IDLE_TIMEOUT_MS=60000)
    half = hello(issued)[:-7] if way == "HTTPS" else b"GET /healthz HTTP/1.1\r\nX-Half: "
    storm = [server.plain() for _ in range(2000)]
    for s in storm:
        with contextlib.suppress(OSError):
            s.send(half)
    cpu, began = server.cpu_seconds(), time.monotonic()
    ended = cut_off(storm, 2)
    spent = (server.cpu_seconds() - cpu) / (time.monotonic() - began)
    print(f"{way}: {spent * 100:.0f} % of a processor, {ended} of {len(storm)} ended")
    assert spent < 0.5
    for s in storm:
        s.close()
    server.healthy(20)


SLOW = 2000
ROUNDS = 3
WORSE, NOISE_MS = 1.5, 5


def p99_ms(server, least=400):
    with Health(f"http://127.0.0.1:{server.port}") as health:
        return health.p99_ms(least)


def test_two_thousand_slow_clients(listen):
    """Headers, bodies and reads at a byte a second: nobody waits for them, and each is cut when its time is up."""
    server = listen()
    quiet, crowded, seconds = [], [], {}
    for _ in range(ROUNDS):
        quiet.append(p99_ms(server))
        with Slow(server.port, SLOW) as slow:
            crowded.append(p99_ms(server))
            for kind, ended in slow.ended().items():
                assert None not in ended, kind
                seconds[kind] = max(*ended, seconds.get(kind, 0))
        wait_until(lambda: server.metric("http_connections") == 1, 10, "all are gone")
    alone, beside = min(quiet), min(crowded)  # whatever else the machine does adds to it
    print(f"healthz p99 {alone:.2f} ms alone, {beside:.2f} ms beside them; the last were cut after {seconds}")
    # A reader's time begins with the first answer that the kernel does not take whole.
    assert all(s < LIMIT_MS / 1000 + (7 if kind == "reads" else 4) for kind, s in seconds.items())
    assert beside < max(alone * WORSE, alone + NOISE_MS)
