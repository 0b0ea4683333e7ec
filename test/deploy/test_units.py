"""The installed units under a real systemd: what it makes of a hang, a crash, a long drain and bad
settings, and what it lets the daemons do.
"""

import contextlib
import re
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest
import requests
from machine import Authority, Platform, machine, packages, servers, wait_until  # noqa: F401

API = "msg-api.service"


@pytest.fixture(scope="module")
def installed(machine, servers, packages):  # noqa: F811
    machine.install(packages)
    platform = Platform(machine, servers)
    platform.configure()
    platform.start()
    return platform


@pytest.fixture
def platform(installed):
    """It runs, and runs again as it was afterwards."""
    installed.wait_ready()
    yield installed
    installed.machine.undrop(API)
    installed.configure()
    installed.machine.checked("systemctl", "reset-failed")
    installed.machine.checked("systemctl", "restart", *installed.units)


def restart_api(platform, unit_text="", **settings):
    platform.machine.drop_in(API, unit_text)
    platform.configure(**settings)
    platform.machine.checked("systemctl", "restart", API)
    platform.wait_ready()


@contextlib.contextmanager
def top_up_in_hand(platform):
    """A request that is being worked on; its answers, in the end."""
    answers = []

    def send():
        with contextlib.suppress(requests.RequestException):
            answer = platform.api.top_up(1, 5)
            answers.append((answer.status_code, answer.text))

    thread = threading.Thread(target=send)
    thread.start()
    wait_until(lambda: platform.api.metrics().value("http_requests_in_flight") >= 2, 5, "the top-up is in hand")
    yield answers
    thread.join(60)


def test_units_verify(platform):
    units = [f"/lib/systemd/system/{u}" for u in platform.units[:3]] + [
        f"/lib/systemd/system/msg-consumerd@.service", "/lib/systemd/system/messaging-platform.target"]
    assert platform.machine.checked("systemd-analyze", "verify", "--man=no", *units) == ""
    for unit in platform.units:
        platform.machine.checked("systemd-analyze", "security", "--threshold=20", unit)


def test_daemons_are_confined(platform):
    """No capability, a filter of system calls, a user of its own; secrets that only it can read."""
    machine = platform.machine  # noqa: F811
    users = set()
    for unit in platform.units:
        pid = machine.show(unit, "MainPID")
        status = dict(line.split(":\t", 1) for line in machine.checked("cat", f"/proc/{pid}/status").splitlines())
        assert (int(status["CapEff"], 16), int(status["CapBnd"], 16), status["NoNewPrivs"], status["Seccomp"]) == (
            0, 0, "1", "2"), unit
        assert re.search(r"^Max core file size +0 +0 ", machine.checked("cat", f"/proc/{pid}/limits"), re.MULTILINE), unit
        assert machine.show(unit, "TasksMax") == "512" and int(machine.show(unit, "MemoryMax")) >= 512 << 20, unit
        uid = status["Uid"].split()[0]
        assert 61184 <= int(uid) <= 65519, "a dynamic user"
        users.add(uid)
        if unit.startswith("msg-"):
            folder = f"/run/credentials/{unit}"
            stats = machine.checked("stat", "--format=%a %n", folder, f"{folder}/secret_db_password")
            assert all(int(line.split()[0], 8) & 0o7 == 0 for line in stats.splitlines()), stats
        assert "start.file_limit" not in machine.journal(unit)
    assert len(users) == len({unit.partition("@")[0] for unit in platform.units}), "one user a program"
    assert platform.stack.values["DB_PASSWORD"] not in "".join(map(machine.journal, platform.units))


def test_a_hang_ends_in_a_restart(platform):
    restart_api(platform, "[Service]\nWatchdogSec=4\n", MSG_FAILPOINT="api.before_begin:delay=120000")
    platform.configure()  # the next one does not hang
    before = platform.machine.show(API, "MainPID")
    with top_up_in_hand(platform):
        wait_until(lambda: platform.machine.show(API, "NRestarts") == "1", 60,
                   lambda: platform.machine.journal(API)[-3000:], pause=0.2)
    journal = platform.machine.journal(API)
    assert '"event":"watchdog.stale"' in journal and "Watchdog timeout" in journal, journal[-3000:]
    platform.wait_ready()
    assert platform.machine.show(API, "MainPID") != before
    platform.deliver()


def test_a_crash_ends_in_a_restart(platform):
    for unit in platform.units[:3]:
        before = platform.machine.show(unit, "MainPID")
        platform.machine.checked("systemctl", "kill", "--signal=KILL", unit)
        wait_until(lambda: platform.machine.show(unit, "MainPID") not in (before, "0"), 20, f"{unit} is back")
    platform.wait_ready()
    platform.deliver()


def test_wrong_settings_end_in_no_restart(platform):
    machine = platform.machine  # noqa: F811
    machine.checked("systemctl", "stop", API)
    platform.configure(DB_PORT="many")
    assert machine.run("systemctl", "start", API).returncode != 0
    wait_until(lambda: machine.active(API) == "failed", 10, lambda: machine.active(API))
    assert (machine.show(API, "ExecMainStatus"), machine.show(API, "NRestarts")) == ("78", "0")
    assert "DB_PORT" in machine.journal(API)


def test_a_missing_secret_is_named(platform):
    machine = platform.machine  # noqa: F811
    machine.checked("systemctl", "stop", API)
    (machine.root / "etc/messaging-platform/credentials/db_password").unlink()
    assert machine.run("systemctl", "start", API).returncode != 0
    wait_until(lambda: machine.active(API) == "failed", 10, lambda: machine.active(API))
    assert machine.show(API, "ExecMainStatus") == "78"
    assert "DB_PASSWORD_FILE: cannot read" in machine.journal(API)


def test_a_drain_may_be_longer_than_the_unit_says(platform):
    """The request in hand is answered although TimeoutStopSec and WatchdogSec end before it is."""
    restart_api(platform, "[Service]\nTimeoutStopSec=4\nWatchdogSec=4\n", DRAIN_TIMEOUT_MS=60000, REQUEST_DEADLINE_MS=60000,
                MSG_FAILPOINT="api.before_begin:delay=13000")
    with top_up_in_hand(platform) as answers:
        asked = time.monotonic()
        platform.machine.checked("systemctl", "stop", API)
        took = time.monotonic() - asked
    assert [status for status, _ in answers] == [200] and took > 8, (answers, took)
    assert platform.machine.show(API, "Result") == "success", platform.machine.journal(API)[-2000:]


def test_a_certificate_is_read_by_a_group_and_again_on_a_reload(platform, tmp_path):
    """As docs/tls.md has it: the key is open to root and a group alone, and new files are taken without a restart."""
    machine = platform.machine  # noqa: F811
    inside, ours = "/etc/ssl/private", Authority(tmp_path, "ours")
    names = {"HTTP_TLS_CERT_FILE": f"{inside}/chain.pem", "HTTP_TLS_KEY_FILE": f"{inside}/key.pem"}
    machine.checked("groupadd", "--force", "--system", "ssl-cert")
    machine.checked("install", "-d", "-g", "ssl-cert", "-m", "0710", inside)

    def put(issued):
        for target, source in zip(names.values(), issued):
            (machine.root / f"{target[1:]}.new").write_bytes(Path(source).read_bytes())
            machine.checked("chown", "root:ssl-cert", f"{target}.new")
            machine.checked("chmod", "0640", f"{target}.new")
        machine.checked("sh", "-ec", "".join(f"mv {t}.new {t};" for t in names.values()))

    def subject():
        with socket.create_connection(address, 5) as plain, context.wrap_socket(plain, server_hostname="localhost") as s:
            return dict(*s.getpeercert()["subject"])["commonName"]

    address = ("127.0.0.1", int(platform.api.url.rpartition(":")[2]))
    context = ssl.create_default_context(cafile=ours.certificate)
    put(ours.issue("first", "DNS:localhost"))
    machine.drop_in(API, "[Service]\nSupplementaryGroups=ssl-cert\n")
    platform.configure(**names)
    machine.checked("systemctl", "restart", API)
    assert requests.get(f"https://localhost:{address[1]}/healthz", verify=ours.certificate, timeout=5).status_code == 200
    assert subject() == "first"
    pid = machine.show(API, "MainPID")
    put(ours.issue("second", "DNS:localhost"))
    machine.checked("systemctl", "reload", API)
    wait_until(lambda: subject() == "second", 10, subject)
    assert machine.show(API, "MainPID") == pid
    assert machine.journal(API).count('"event":"tls.certificate"') >= 2


def test_the_target_stops_and_starts_all(platform):
    machine = platform.machine  # noqa: F811
    machine.checked("systemctl", "stop", "messaging-platform.target")
    wait_until(lambda: {machine.active(u) for u in platform.units} == {"inactive"}, 60, "all have stopped")
    assert {machine.show(u, "Result") for u in platform.units} == {"success"}
    machine.checked("systemctl", "start", "messaging-platform.target")
    platform.wait_ready()
    platform.deliver()


def test_further_consumers_take_part(platform):
    machine = platform.machine  # noqa: F811
    units = [f"msg-consumerd@{port}.service" for port in platform.consumers]
    machine.checked("systemctl", "start", *units)
    machine.checked("systemctl", "stop", "msg-consumerd.service")
    for port in platform.consumers:
        wait_until(lambda: requests.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200, 20, "ready")
    platform.deliver()
    machine.checked("systemctl", "start", "msg-consumerd.service")
    machine.checked("systemctl", "stop", *units)
    assert {machine.show(u, "Result") for u in units} == {"success"}
