"""compose/local itself: what it starts is ready, and what it stops is gone."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from harness.stack import LOCAL, REPOSITORY, PortRange, Stack
from harness.wait import wait_until

sys.path.insert(0, str(REPOSITORY / "compose"))
from localstack import services  # noqa: E402


def processes_of(directory):
    """Every process with the folder in its command line, its environment or its working folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            text += os.readlink(entry / "cwd").encode()
        except OSError:
            continue
        if directory.encode() in text:
            found.append((int(entry.name), (entry / "comm").read_text().strip()))
    return found


@pytest.fixture
def whole():
    stack = Stack("whole", replicas={"api": 2, "outboxd": 1, "consumerd": 1})
    yield stack
    stack.purge()


def test_up_status_env_down(whole):
    whole.up()
    lines = whole.local("status").splitlines()[1:]
    names = [line.split()[0] for line in lines]
    assert names == ["mariadb", "rabbitmq", "operator-a", "operator-b", "api-1", "api-2", "outboxd-1",
                     "consumerd-1"]
    assert all(line.split()[3] == "ready" for line in lines), lines
    listening = {int(line.split()[2]) for line in lines}
    assert all(whole.ports.base <= port < whole.ports.base + 70 for port in listening)

    values = whole.values
    told = subprocess.run(["env", "-i", "/bin/sh", "-ec", whole.local("env") + "\nset"], capture_output=True, text=True).stdout
    assert all(f"{name}='{value}'" in told.splitlines() for name, value in values.items()), told
    for name in ("API_URL", "OPERATOR_A_URL", "OPERATOR_B_URL", "OUTBOXD_URLS", "CONSUMERD_URLS",
                 "DB_HOST", "DB_PORT", "DB_NAME", "DB_USER_NAME", "DB_PASSWORD", "RABBIT_URI"):
        assert values[name], name
    assert values["API_URLS"].split()[0] == values["API_URL"]
    assert whole.api(2).get("/readyz").status_code == 200

    for port in listening:  # nothing is reachable from outside
        with socket.socket() as s:
            s.settimeout(1)
            assert s.connect_ex(("127.0.0.2", port)) != 0, port

    assert "up in" in whole.local("up")  # a second time changes nothing
    assert processes_of(whole.state)
    whole.local("down", "--purge")
    assert not os.path.exists(whole.state)
    wait_until(lambda: not processes_of(whole.state), 5, lambda: str(processes_of(whole.state)))


def test_the_verbs_for_one_service(world):
    stack = world("operators")

    def state():
        pid = stack.pid("operator-a")
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] if pid else None

    stack.local("pause", "operator-a")
    wait_until(lambda: state() == "T", 5)
    stack.local("resume", "operator-a")
    wait_until(lambda: state() != "T", 5)
    stack.local("kill", "operator-a")
    assert not stack.pid("operator-a") and stack.pid("operator-b")
    stack.local("start", "operator-a")
    first = stack.pid("operator-a")
    stack.local("restart", "operator-a")
    assert stack.pid("operator-a") not in (0, first)
    stack.local("stop", "operator-a")
    assert not stack.pid("operator-a") and stack.pid("operator-b")


def test_start_waits_for_the_port_of_what_was_killed(world):
    stack = world("operators")
    stack.kill("operator-a")
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", int(urlsplit(stack.values["OPERATOR_A_URL"]).port)))
        held.listen()
        release = threading.Timer(1, held.close)
        release.start()
        stack.start("operator-a")
        release.join()
    assert stack.pid("operator-a")


def closing_port():
    """One from which a connection was made and ended here: nobody has it for the next minute, and nobody gets it."""
    with socket.socket() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.bind(("127.0.0.1", 0))
        port = client.getsockname()[1]
        client.connect(listener.getsockname())
        accepted = listener.accept()[0]
        client.close()
        accepted.close()
    return port


def test_a_port_that_is_only_closing_is_waited_for_longer(monkeypatch):
    monkeypatch.setattr(services, "PORT_WAIT", 0)
    monkeypatch.setattr(services, "CLOSING_WAIT", 3)
    service = services.Service.__new__(services.Service)
    service.name = "a service"
    port = closing_port()
    wait_until(lambda: services.port_is_closing(port), 5)
    assert services.port_in_use(port)
    began = time.monotonic()
    with pytest.raises(services.StackError, match=str(port)):
        service.await_port(port)
    assert time.monotonic() - began >= 3
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert services.port_in_use(port) and not services.port_is_closing(port)
        began = time.monotonic()
        with pytest.raises(services.StackError, match=str(port)):
            service.await_port(port)
        assert time.monotonic() - began < 3
    assert not services.port_in_use(port)
    service.await_port(port)


def test_down_leaves_other_processes_alone(world):
    """A recorded pid that belongs to somebody else by now is not touched."""
    stack = world("operators")
    bystander = subprocess.Popen(["sleep", "600"])
    try:
        stack.kill("operator-a")
        record = Path(stack.state) / "run" / "operator-a.json"
        record.write_text(re.sub(r'"pid": \d+', f'"pid": {bystander.pid}', record.read_text()))
        assert "stopped" in [l.split() for l in stack_status(stack)][0]
        stack.local("down")
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def stack_status(stack):
    done = subprocess.run([LOCAL, "status"], env={**os.environ, "STATE_DIR": stack.state},
                          stdout=subprocess.PIPE, text=True)
    return done.stdout.splitlines()[1:]


def test_a_start_that_fails_says_why(world):
    stack = world("operators")
    done = subprocess.run([LOCAL, "start", "consumerd-1", "OPERATORS=nonsense"], text=True,
                          env={**os.environ, "STATE_DIR": stack.state},
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 1
    assert "consumerd-1 ended while starting" in done.stdout and "OPERATORS" in done.stdout


@pytest.mark.parametrize("auth", ["off", "required"])
def test_make_run(auth):
    """One command: a message in `done`, the stack running, calls to try that work, and all of it gone after SIGINT."""
    ports = PortRange()
    state = Path(f"/tmp/msg-run-{os.getpid()}")
    environ = {**os.environ, "STATE_DIR": str(state), "PORT_BASE": str(ports.base), "API_PORT": "",
               "API_AUTH": auth}
    try:
        process = subprocess.Popen([REPOSITORY / "compose" / "run"], stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True, start_new_session=True,
                                   env={**environ, "API_PORT": str(ports.base + 10)})
        seen = []
        for line in process.stdout:
            seen.append(line.rstrip())
            if "Ctrl-C stops all of it" in line:
                break
        assert any(line.strip().startswith("done by operatorA") for line in seen), "\n".join(seen)
        calls = [line for line in seen if re.match(rf" *(KEY=|curl .*http://127.0.0.1:{ports.base + 10}/)", line)]
        assert len(calls) == (3 if auth == "off" else 4), calls
        script = "\n".join(calls).replace("curl ", "curl -sf --noproxy '*' ")
        tried = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, timeout=30)
        assert tried.returncode == 0 and '"processing"' in tried.stdout, tried
        process.send_signal(signal.SIGINT)
        assert process.wait(90) == 0
        wait_until(lambda: not processes_of(str(state)), 5, lambda: str(processes_of(str(state))))
    finally:
        subprocess.run([LOCAL, "down", "--purge"], env=environ, check=True)
        ports.release()
    assert not state.exists()


def test_servers_of_two_stacks_share_no_temporary_folder(servers):
    """Else two that are made at the same time meet in temporary tables of the same name."""
    assert Path(servers.db.value("SELECT @@tmpdir")).is_relative_to(servers.state)
