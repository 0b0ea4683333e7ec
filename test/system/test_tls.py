"""TLS to database, broker and operators: who is trusted, who is not, and why not."""

import json
import shutil
import socket
import threading

import pytest
from harness.authority import Authority
from harness.carrier import Carrier
from harness.secured import server_context
from harness.stack import Stack
from harness.wait import wait_until

HERE = "IP:127.0.0.1,DNS:localhost"
DAEMONS = ("api-1", "outboxd-1", "consumerd-1")
USER = "tls_user"  # the server lets it in over TLS alone


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Certificates:
    """What the servers show (`use`), and the authorities that clients may trust."""

    def __init__(self, folder):
        self.ours, self.foreign = Authority(folder, "ours"), Authority(folder, "foreign")
        self.issued = {"good": self.ours.issue("good", HERE),
                       "elsewhere": self.ours.issue("elsewhere", "DNS:other.example,IP:127.0.0.2"),
                       "expired": self.ours.issue("expired", HERE, days=-1)}
        self.certificate, self.key = folder / "server.pem", folder / "server.key"
        self.use("good")

    def use(self, name):
        for source, target in zip(self.issued[name], (self.certificate, self.key)):
            shutil.copy(source, target)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def secure(certificates):
    """A stack whose MariaDB and RabbitMQ speak TLS too; its daemons are not started."""
    c, port = certificates, free_port()
    stack = Stack("secure", servers={
        "MARIADB_OPTIONS": f"--ssl-ca={c.ours.certificate} --ssl-cert={c.certificate} --ssl-key={c.key}",
        "RABBIT_CONF": f"listeners.ssl.1 = 127.0.0.1:{port}; ssl_options.cacertfile = {c.ours.certificate};"
                       f"ssl_options.certfile = {c.issued['good'][0]}; ssl_options.keyfile = {c.issued['good'][1]};"
                       "ssl_options.verify = verify_none; ssl_options.fail_if_no_peer_cert = false"})
    stack.amqps = port
    try:
        stack.up("backends", "operators")
        stack.database_root(f"CREATE USER {USER}@'%' IDENTIFIED BY 'tls_pass' REQUIRE SSL;"
                            f"GRANT ALL ON `messaging\\_platform%`.* TO {USER}@'%'")
        yield stack
    finally:
        stack.purge()


def settings(stack, certificates, **changes):
    return {"DB_USER_NAME": USER, "DB_PASSWORD": "tls_pass", "DB_TLS_CA": certificates.ours.certificate,
            "RABBIT_URI": f"amqps://rabbit_user:rabbit_pass@127.0.0.1:{stack.amqps}/",
            "RABBIT_TLS_CA": certificates.ours.certificate, **changes}


def test_the_main_path_and_a_restart_of_both(secure, certificates):
    for name in DAEMONS:
        secure.start(name, **settings(secure, certificates))
    api = secure.api()
    customer = api.funded()
    api.wait_final(customer, api.sent(customer, type="express")["message_identifier"])
    assert USER in secure.database_root("SHOW PROCESSLIST"), "through the account that is let in over TLS alone"
    for server in ("mariadb", "rabbitmq"):
        secure.kill(server)
        wait_until(lambda: all(secure.status(name) == 503 for name in DAEMONS), 60, f"{server} is missed")
        secure.start(server)
        wait_until(lambda: all(secure.status(name) == 200 for name in DAEMONS), 90, f"{server} is back")
        api.wait_final(customer, api.sent(customer)["message_identifier"], 60)
    for name in DAEMONS:
        secure.stop(name)


def refusal(stack, dependency, **options):
    """Why msg-outboxd does not trust the dependency: what its log says."""
    known = len(stack.log_text("outboxd-1"))
    stack.start_without_waiting("outboxd-1", **options)

    def told():
        for line in stack.log_text("outboxd-1")[known:].splitlines():
            if '"dependency.down"' in line and f'"dependency":"{dependency}"' in line:
                return json.loads(line)["error"]
        return None
    try:
        said = wait_until(told, 60, f"{dependency} is refused")
        assert stack.status("outboxd-1") == 503
        return said
    finally:
        stack.stop("outboxd-1")


def reload_certificates(stack):
    stack.database_root("FLUSH SSL" if stack.db.is_mariadb else "ALTER INSTANCE RELOAD TLS")


@pytest.mark.parametrize("case, said", [
    ("foreign", "self-signed certificate"), ("elsewhere", "for another host than DB_HOST 127.0.0.1"),
    ("expired", "certificate has expired"), ("missing", "DB_TLS_CA")])
def test_a_database_that_is_not_trusted(secure, certificates, tmp_path, case, said):
    if case == "expired" and not secure.db.is_mariadb:
        pytest.skip("MySQL does not load one that has expired")
    authority = {"foreign": certificates.foreign.certificate, "missing": tmp_path / "none.pem"}
    try:
        if case in certificates.issued:
            certificates.use(case)
            reload_certificates(secure)
        text = refusal(secure, "mysql", **settings(
            secure, certificates, DB_TLS_CA=authority.get(case, certificates.ours.certificate)))
        assert said in text
    finally:
        certificates.use("good")
        reload_certificates(secure)


def test_a_database_without_tls(shared, certificates, world):
    if not shared.db.is_mariadb:
        pytest.skip("MySQL makes itself a certificate")
    stack = world("operators")
    text = refusal(stack, "mysql", DB_TLS_CA=certificates.ours.certificate)
    assert "the server does not support it" in text


def test_a_database_that_speaks_old_tls(secure, certificates):
    """Its greeting is the real one; in TLS 1.1 it would be told the password."""
    impostor = Impostor(certificates.issued["good"], old=True, begin=greet(int(secure.values["DB_PORT"])))
    try:
        text = refusal(secure, "mysql", **settings(secure, certificates, DB_PORT=impostor.port))
        assert "protocol version" in text or "unsupported protocol" in text, text
        assert not impostor.heard
    finally:
        impostor.close()


def greet(port):
    """How a MariaDB at this port begins, up to the client's wish for TLS."""
    def begin(client):
        with socket.create_connection(("127.0.0.1", port), 5) as real:
            client.sendall(real.recv(4096))
        length = int.from_bytes(receive(client, 4)[:3], "little")
        receive(client, length)
    return begin


def receive(sock, n):
    data = b""
    while len(data) < n:
        piece = sock.recv(n - len(data))
        if not piece:
            raise ConnectionError
        data += piece
    return data


class Impostor:
    """Shows a certificate, and takes nothing that a client says afterwards. begin: what comes before TLS."""

    def __init__(self, files, old=False, begin=lambda client: None):
        self.context, self.begin = server_context(files, old), begin
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.heard = b""
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            try:
                self.begin(connection)
                with self.context.wrap_socket(connection, server_side=True) as tls:
                    tls.settimeout(5)
                    self.heard += tls.recv(100)
            except OSError:
                connection.close()

    def close(self):
        self.socket.close()


def reload_certificates(stack):
    stack.database_root("FLUSH SSL" if stack.db.is_mariadb else "ALTER INSTANCE RELOAD TLS")


@pytest.mark.parametrize("case, said", [
    ("foreign", "unable to get local issuer certificate"), ("elsewhere", "IP address mismatch"), ("expired", "certificate has expired"),
    ("missing", "RABBIT_TLS_CA"), ("old", "protocol version")])
def test_a_broker_that_is_not_trusted(secure, certificates, tmp_path, case, said):
    authority = {"foreign": certificates.foreign.certificate, "missing": tmp_path / "none.pem"}
    impostor = Impostor(certificates.issued.get(case, certificates.issued["good"]), old=case == "old")
    try:
        text = refusal(secure, "rabbitmq", **settings(
            secure, certificates, RABBIT_URI=f"amqps://rabbit_user:rabbit_pass@127.0.0.1:{impostor.port}/",
            RABBIT_TLS_CA=authority.get(case, certificates.ours.certificate)))
        assert said in text
        assert not impostor.heard, "nothing was said to it"
    finally:
        impostor.close()


def test_a_broker_without_tls(secure, certificates):
    plain = secure.values["RABBIT_URI"].replace("amqp://", "amqps://")
    text = refusal(secure, "rabbitmq", **settings(secure, certificates, RABBIT_URI=plain))
    assert "SSL handshake failed" in text


def reload_certificates(stack):
    stack.database_root("FLUSH SSL" if stack.db.is_mariadb else "ALTER INSTANCE RELOAD TLS")


@pytest.mark.parametrize("case, said", [
    ("foreign", "unable to get local issuer certificate"), ("elsewhere", "no alternative certificate subject name matches"),
    ("expired", "certificate has expired"), ("old", "protocol version"), ("missing", "none.pem")])
def test_an_operator_that_is_not_trusted(world, certificates, tmp_path, case, said):
    """It hears nothing of the message, which waits."""
    authority = {"foreign": certificates.foreign.certificate, "missing": tmp_path / "none.pem"}
    with Carrier("operatorA", certificates.issued.get(case, certificates.issued["good"]), old=case == "old") as carrier:
        stack = world(carriers=[carrier], OPERATOR_TLS_CA=authority.get(case, certificates.ours.certificate),
                      DELIVERY_RETRY_BASE_MS=100)
        api = stack.api()
        api.sent(api.funded(), type="express")

        def told():
            lines = [line for line in stack.log_text("consumerd-1").splitlines() if '"delivery.retry"' in line]
            return json.loads(lines[-1])["last_error"] if lines else None
        assert said in wait_until(told, 30, "it is refused")
        assert not carrier.calls()
