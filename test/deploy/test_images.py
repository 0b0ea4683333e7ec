"""The images of `make docker`: what is in them, and how they run (make images-test)."""

import contextlib
import hashlib
import json
import re
import time
import uuid

import pytest
import requests
from containers import PORTS, PROGRAMS, REPOSITORY, container, image
from harness.wait import wait_until

DAEMONS = list(PORTS)
# Servers that are not there: a daemon runs, and goes on trying.
NOWHERE = {"DB_HOST": "127.0.0.1", "DB_PASSWORD": "none", "RABBIT_URI": "amqp://nobody:none@127.0.0.1:1/"}
CONFINED = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
SHARE = "/usr/share/distributed-messaging-platform"
# (image, first argument): each program's own image, and the one that holds them all.
WAYS = [(program, program, []) for program in DAEMONS] + [(program, None, [program]) for program in DAEMONS]
ways = pytest.mark.parametrize("program, of, words", WAYS, ids=[f"{p}-{'own' if of else 'all'}" for p, of, _ in WAYS])


@pytest.fixture(scope="module", autouse=True)
def built():
    for program in (*PROGRAMS, None):
        done = container("image", "inspect", image(program), check=False)
        assert done.returncode == 0, f"make docker first: {done.stderr}"


def config(of):
    """(the image's configuration, its health check)"""
    data = json.loads(container("image", "inspect", image(of)))[0]
    health = data["Config"].get("Healthcheck") or data.get("Healthcheck") or data.get("HealthCheck") or {}
    return data["Config"], health.get("Test")


def shell(of, script):
    return container("run", "--rm", "--entrypoint", "/bin/sh", image(of), "-c", script)


@contextlib.contextmanager
def running(of, *words, options=()):
    name = f"messaging-test-{uuid.uuid4().hex[:12]}"
    environment = [w for k, v in NOWHERE.items() for w in ("-e", f"{k}={v}")]
    container("run", "-d", "--name", name, *CONFINED, *environment, *options, image(of), *words)
    try:
        yield name
    finally:
        container("rm", "-f", name, check=False)


def health(name, test, *options):
    """No shell stands between the engine and a program, and nothing else is needed."""
    assert test[0] == "CMD" and not any("curl" in w for w in test), test
    assert test[1].rpartition("/")[2] != "sh" or test[3].startswith("exec "), test
    return container("exec", *options, name, *test[1:], check=False)


# ---- what is in them ----

@pytest.mark.parametrize("of", [*PROGRAMS, None], ids=str)
def test_configuration(of):
    settings, test = config(of)
    assert settings["User"] == "65532:65532" and settings["StopSignal"] == "SIGTERM"
    assert settings["Entrypoint"] == ([f"/usr/bin/{of}"] if of else ["/usr/bin/env"])
    labels = settings["Labels"]
    assert labels["org.opencontainers.image.title"] == (of or "distributed-messaging-platform")
    for label in ("version", "revision", "licenses", "description", "base.name"):
        assert labels[f"org.opencontainers.image.{label}"], label
    if of == "msg-loadtest":
        assert not test or test == ["NONE"]
    else:
        assert test and test[0] == "CMD"
        ports = [PORTS[of]] if of else PORTS.values()
        assert set(settings["ExposedPorts"]) == {f"{p}/tcp" for p in ports}


@pytest.mark.parametrize("of", [*PROGRAMS, None], ids=str)
def test_nothing_of_the_build_is_left(of):
    found = shell(of, "for p in gcc cc cmake ninja pkg-config make npm node curl wget git python3; do command -v $p; done; "
                      "find / -xdev \\( -name '*.h' -o -name '*.a' -o -name '*.o' -o -name CMakeLists.txt \\) -not -path '*/perl*' 2>/dev/null; "
                      "ls -A /var/lib/apt/lists /var/cache/apt /src /out 2>/dev/null | grep -v :; "
                      "dpkg-query -W -f '${Package}\\n' | grep -e '-dev$'; true")
    assert found == ""
    programs = shell(of, "ls /usr/bin | grep -e ^msg- -e ^operator-sim").split()
    assert programs == ([of] if of else sorted(PROGRAMS))


@pytest.mark.parametrize("program", PROGRAMS)
def test_libraries_are_all_there(program):
    out = container("run", "--rm", "--entrypoint", "/usr/bin/ldd", image(program), f"/usr/bin/{program}")
    assert "libc.so.6" in out and "not found" not in out


def test_small():
    """Beside its base an image has the libraries, which all share, and the programs."""
    base = container("image", "inspect", "--format", "{{.Size}}", "docker.io/library/debian:bookworm-slim", check=False)
    if base.returncode:
        pytest.skip("the base image is not kept here")
    for of in (*PROGRAMS, None):
        size = int(container("image", "inspect", "--format", "{{.Size}}", image(of))) - int(base.stdout)
        print(f"{image(of)}: {size / 1e6:.1f} MB beside its base")
        assert size < 30e6, of


def test_the_api_has_its_page_and_its_migrations():
    sums = dict(line.split()[::-1] for line in shell("msg-api", f"cd {SHARE}/sql && sha256sum *").splitlines())
    assert sums == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (REPOSITORY / "sql").glob("*.sql")}
    with running("msg-api", options=["-p", "127.0.0.1::8080"]) as name:
        url = "http://" + container("port", name, "8080").splitlines()[0].replace("0.0.0.0", "127.0.0.1")

        def page():
            try:
                return requests.get(f"{url}/swagger/index.html", timeout=5)
            except requests.ConnectionError:
                return None

        assert wait_until(page, 20, "the page").status_code == 200
        bundle = requests.get(f"{url}/swagger/swagger-ui-bundle.js", timeout=10)
        assert bundle.status_code == 200 and len(bundle.content) > 500_000
        assert requests.get(f"{url}/swagger/openapi.yaml", timeout=5).text == (REPOSITORY / "api" / "openapi.yaml").read_text()


@pytest.mark.parametrize("of", ["msg-api", "msg-consumerd", None], ids=str)
def test_operators_files_are_in_it(of):
    """Where docs/operators.md says, for both that read them."""
    files = {p.name: p for p in (REPOSITORY / "consumerd" / "operators.d").glob("*.ini")}
    sums = dict(line.split()[::-1] for line in shell(of, f"cd {SHARE}/operators.d && sha256sum *").splitlines())
    assert sums == {name: hashlib.sha256(p.read_bytes()).hexdigest() for name, p in files.items()}
    if of != "msg-api":
        words = [*([] if of else ["msg-consumerd"]), "operator", "list", "--file", f"{SHARE}/operators.d"]
        listed = container("run", "--rm", *CONFINED, image(of), *words).splitlines()
        assert [line.split()[0] for line in listed] == sorted(name.removesuffix(".ini") for name in files)


# ---- how they run ----

@ways
def test_runs_confined_and_stops_cleanly(program, of, words):
    """Neither root nor a file to write; its own health check; exit 0 on SIGTERM."""
    _, test = config(of)
    with running(of, *words) as name:
        wait_until(lambda: health(name, test).returncode == 0, 20, lambda: container("logs", name, check=False).stdout)
        answer = health(name, test)
        assert answer.stdout.strip() == f"{program}: http://127.0.0.1:{PORTS[program]}/healthz answered 200"
        sick = health(name, test, "-e", "LISTEN_ADDR=:9")
        assert sick.returncode == 1 and ":9/healthz" in sick.stderr

        status = container("exec", name, "/bin/cat", "/proc/1/status")
        values = dict(re.findall(r"^(\w+):\s+(.*)$", status, re.MULTILINE))
        assert values["Name"] == program[:15], "not the container's first process"
        assert set(values["Uid"].split() + values["Gid"].split()) == {"65532"}
        assert int(values["CapEff"], 16) == 0 and values["NoNewPrivs"] == "1"
        assert container("exec", name, "/usr/bin/touch", "/usr/x", check=False).returncode != 0

        began = time.monotonic()
        container("stop", "-t", "25", name)
        seconds = time.monotonic() - began
        state = json.loads(container("container", "inspect", name))[0]["State"]
        assert state["ExitCode"] == 0 and not state.get("OOMKilled"), state
        assert seconds < 15
        events = [json.loads(line).get("event") for line in container("logs", name).splitlines() if line.startswith("{")]
        assert "ready" in events and events[-1] == "stop"


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_first_argument_chooses(program):
    own = container("run", "--rm", image(program), "--help", check=False)
    both = container("run", "--rm", image(None), program, "--help", check=False)
    assert own.stdout + own.stderr and own.returncode == both.returncode
    assert program in own.stdout + own.stderr
    assert container("run", "--rm", image(None), "msg-nothing", check=False).returncode == 127


def test_verbs():
    """As a Job or a one-off container runs them: the database is away, which is an answer, not a hang."""
    for of, words in (("msg-api", ["migrate"]), (None, ["msg-api", "migrate"])):
        done = container("run", "--rm", *CONFINED, *(w for k, v in NOWHERE.items() for w in ("-e", f"{k}={v}")),
                         image(of), *words, check=False)
        assert done.returncode == 1 and "msg-api migrate:" in done.stderr, done
    assert container("run", "--rm", image("msg-api"), check=False).returncode == 78  # no password: it says so
