"""The units beside the daemons, and the daemons under them, as a service manager sees them."""

import re
import shutil
import subprocess
import threading
import time

import pytest
from harness.client import Api
from harness.manager import PACKAGING, Service, UnitFile, read_environment, unit_files
from harness.stack import REPOSITORY, binary
from harness.wait import Timeout, wait_until

DAEMONS = {"api": "msg-api.service", "outboxd": "msg-outboxd.service", "consumerd": "msg-consumerd.service"}
SERVICES = [path for path in unit_files() if path.suffix == ".service"]
TEMPLATES = {"msg-consumerd@.service": "8083", "operator-sim@.service": "9001"}
FEED = 2.0  # half of the watchdog's time, as sd_watchdog_enabled(3) advises
needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")


def kind_of(path):
    return path.parent.name


def program(kind):
    return kind if kind == "operator-sim" else f"msg-{kind}"


# -- the files ------------------------------------------------------------------------------------

@needs_systemd
def test_units_verify(tmp_path):
    """In a tree of their own, with the programs where packages put them."""
    units, names = tmp_path / "usr/lib/systemd/system", []
    units.mkdir(parents=True)
    (tmp_path / "usr/bin").mkdir()
    (tmp_path / "bin").symlink_to("usr/bin")
    for path in unit_files():
        names.append(path.name.replace("@.", f"@{TEMPLATES.get(path.name)}."))
        shutil.copy(path, units)
        if path.suffix == ".service":
            shutil.copy(binary(kind_of(path)), tmp_path / "usr/bin")
    # What every Debian has, however small.
    for name in ("usr/bin/env", "usr/bin/sh", "usr/lib/systemd/system/sysinit.target",
                 "usr/lib/systemd/system/basic.target", "usr/lib/systemd/system/shutdown.target",
                 "usr/lib/systemd/system/network-online.target", "usr/lib/systemd/system/network.target"):
        (tmp_path / name).write_bytes(open("/" + name, "rb").read())
    for name in ("env", "sh"):
        (tmp_path / "usr/bin" / name).chmod(0o755)
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", f"--root={tmp_path}", *names],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


@needs_systemd
@pytest.mark.parametrize("path", SERVICES, ids=lambda p: p.name)
def test_units_are_hardened(path):
    """At most 2.0 of 10 on systemd's scale of exposure."""
    done = subprocess.run(["systemd-analyze", "security", "--no-pager", "--offline=yes", "--threshold=20", path],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-200:]
    assert re.search(r"exposure level for .*: [01]\.\d OK", done.stdout), done.stdout[-200:]


def test_there_is_a_unit_for_each_program():
    assert {path.name for path in SERVICES} == {*DAEMONS.values(), *TEMPLATES}


@pytest.mark.parametrize("path", SERVICES, ids=lambda p: p.name)
def test_units_keep_the_contract(path):
    unit = UnitFile(path)
    expected = {"Type": "notify", "Restart": "always", "RestartPreventExitStatus": "78",
                "PartOf": "messaging-platform.target", "WantedBy": "messaging-platform.target",
                "StartLimitIntervalSec": "0", "TasksMax": "512", "LimitCORE": "0"}
    assert {name: unit.one(name) for name in expected} == expected
    assert unit.one("ExecStart").split()[-1] == program(kind_of(path))
    assert re.fullmatch(r"\d+[MG]", unit.one("MemoryMax"))
    # The drain's default and what a forced end takes fit into it.
    assert settings(kind_of(path))["DRAIN_TIMEOUT_MS"] == "20000" and unit.one("TimeoutStopSec") == "30"


def test_units_differ_only_where_they_must():
    """Hardening and restarts are the same text in all of them: a change to one is a change to all."""
    own = {"Description", "Documentation", "After", "ExecStart", "EnvironmentFile", "Environment",
           "LoadCredential", "StateDirectory", "StateDirectoryMode", "MemoryMax"}
    alike = {tuple(pair for pair in UnitFile(path).pairs if pair[1] not in own) for path in SERVICES}
    assert len(alike) == 1
    plain, template = (UnitFile(REPOSITORY / "consumerd" / f"msg-consumerd{at}.service") for at in ("", "@"))
    assert [p for p in plain.pairs if p not in template.pairs] == [
        ("Unit", "Description", "Messaging platform: delivery"), ("Service", "ExecStart", "msg-consumerd")]


def settings(kind):
    """{name: default} as the program lists them; None: required."""
    text = subprocess.run([binary(kind), "--settings-markdown"], stdout=subprocess.PIPE, text=True, timeout=20).stdout
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.MULTILINE)
    return {name: {"empty": "", "required": None}.get(default, default.strip("`")) for name, default in rows}


@pytest.mark.parametrize("path", SERVICES, ids=lambda p: p.name)
def test_units_name_settings_that_exist(path):
    known = settings(kind_of(path))
    given = [text.partition("=")[0] for text in UnitFile(path).all("Environment")]
    assert given and [n for n in given if n not in known and n.removesuffix("_FILE") not in known] == []


def shown(path, tmp_path):
    """The settings of an environment file, those in comments too."""
    text = re.sub(r"^#(?=[A-Z][A-Z0-9_]*=)", "", path.read_text(), flags=re.MULTILINE)
    copy = tmp_path / path.name
    copy.write_text(text)
    return read_environment(copy)


@pytest.mark.parametrize("kind", [*DAEMONS, "operator-sim"])
def test_environment_files_show_defaults(kind, tmp_path):
    path = REPOSITORY / kind / f"{program(kind)}.env"
    assert read_environment(path) == {}, "an installation changes no default"
    found, known = shown(path, tmp_path), settings(kind)
    assert found and found == {name: known.get(name) for name in found}


def test_the_common_environment_file_suits_all_daemons(tmp_path):
    path = PACKAGING / "platform.env"
    assert read_environment(path) == {}
    found = shown(path, tmp_path)
    for kind in DAEMONS:
        known = settings(kind)
        assert found and found == {name: known.get(name) for name in found}, kind


# -- the daemons ----------------------------------------------------------------------------------

@pytest.fixture
def etc(tmp_path):
    """/etc/messaging-platform of a stack: etc(stack, SETTING=…)"""
    def make(stack, **more):
        folder = tmp_path / "etc"
        (folder / "credentials").mkdir(parents=True)
        values = stack.values
        names = ("DB_HOST", "DB_PORT", "DB_NAME", "DB_USER_NAME", "RABBIT_MESSAGE_EXCHANGE",
                 "EXPRESS_QUEUE", "NORMAL_QUEUE")
        lines = {name: values[name] for name in names} | more
        (folder / "platform.env").write_text("".join(f"{k}={v}\n" for k, v in lines.items()))
        for kind in DAEMONS:
            (folder / f"msg-{kind}.env").write_text(f"LISTEN_ADDR={stack.url(f'{kind}-9')[7:]}\nAPI_AUTH=off\n")
        with open(folder / "msg-consumerd.env", "a") as file:
            file.write(f"OPERATORS=operatorA={values['OPERATOR_A_URL']},operatorB={values['OPERATOR_B_URL']}\n")
        (folder / "credentials" / "db_password").write_text(values["DB_PASSWORD"] + "\n")
        (folder / "credentials" / "rabbit_uri").write_text(values["RABBIT_URI"] + "\n")
        return folder
    return make


@pytest.fixture
def run(tmp_path):
    """run(etc, "msg-api.service", instance) -> Service"""
    made = []

    def start(etc, name, instance="", watchdog=2 * FEED):
        path = next(p for p in SERVICES if p.name == name)
        service = Service(UnitFile(path, instance), etc, binary(kind_of(path)), tmp_path / "run", watchdog)
        made.append(service)
        return service.start()

    yield start
    for service in made:
        service.close()


def fed(service, until, since=0):
    """Whether WATCHDOG=1 came as often as the watchdog wants it, from `since` to `until`."""
    times = [since, *service.times("WATCHDOG=1", since), until]
    return max(b - a for a, b in zip(times, times[1:])) < 2 * FEED


def test_daemons_under_their_units(world, etc, run):
    """Ready, fed, a message through all of them, a clean end in time."""
    stack = world("operators")
    folder = etc(stack)
    services = {kind: run(folder, name) for kind, name in DAEMONS.items()}
    ready = {kind: service.wait_note("READY=1", 20)[0] for kind, service in services.items()}
    api = Api(stack.url("api-9"))
    wait_until(lambda: api.get("/readyz").status_code == 200, 20, "msg-api is ready for sends")
    customer = api.funded(10)
    assert set(api.wait_final(customer, api.sent(customer)["message_identifier"]).values()) == {"done"}
    for service in services.values():
        wait_until(lambda: len(service.times("WATCHDOG=1")) >= 3, 20, "the watchdog is fed")
    for kind, service in services.items():
        asked = time.monotonic()
        assert fed(service, asked, ready[kind]), service.notes
        assert service.stop() == 0, kind
        assert len(service.times("STOPPING=1", asked)) == 1, service.notes
        assert stack.values["DB_PASSWORD"] not in service.log.read_text()


def test_further_consumers_listen_on_their_names(world, etc, run):
    stack = world("operators", "api", "outboxd")
    folder = etc(stack)
    ports = [stack.url(f"consumerd-{i}").rpartition(":")[2] for i in (7, 8)]
    services = [run(folder, "msg-consumerd@.service", port) for port in ports]
    for port, service in zip(ports, services):
        service.wait_note("READY=1", 20)
        wait_until(lambda: Api(f"http://127.0.0.1:{port}").get("/readyz").status_code == 200, 20, "it is ready")
    api = stack.api()
    customer = api.funded(10)
    assert set(api.wait_final(customer, api.sent(customer)["message_identifier"]).values()) == {"done"}
    assert [service.stop() for service in services] == [0, 0]


def test_an_instance_may_do_a_part_of_the_work(world, etc, run):
    """As docs/systemd.md has it: one calls customers' endpoints, the others deliver."""
    stack = world("operators", "api", "outboxd")
    folder = etc(stack)
    ports = [stack.url(f"consumerd-{i}").rpartition(":")[2] for i in (7, 8)]
    with open(folder / "msg-consumerd.env", "a") as file:
        file.write("CONSUMERD_PARTS=lanes\n")
    (folder / f"msg-consumerd@{ports[1]}.env").write_text("CONSUMERD_PARTS=webhooks\n")
    said = []
    for port in ports:
        service = run(folder, "msg-consumerd@.service", port)
        service.wait_note("READY=1", 20)
        said.append(re.search(r"CONSUMERD_PARTS=(\S+)", service.log.read_text())[1])
    assert said == ["lanes", "webhooks"]


def test_simulators_keep_their_ledger(world, etc, run):
    stack = world("operators")
    port = stack.url("consumerd-9").rpartition(":")[2]
    service = run(etc(stack), "operator-sim@.service", port)
    service.wait_note("READY=1", 20)
    response = Api(f"http://127.0.0.1:{port}").post("/messages", {"reference": "r-0", "to": "0912", "text": "hi",
                                                                  "type": "normal"}, key="r-0")
    assert response.status_code == 200 and response.json()["id"].startswith(f"operator{port}"), response.text
    assert service.stop() == 0
    ledger = service.folder / "state" / "operator-sim" / port / "ledger"
    assert b"r-0" in ledger.read_bytes()


def test_without_secrets_it_ends_for_good(world, etc, run):
    """78 is what the units do not start again; both missing files are named."""
    stack = world("operators")
    folder = etc(stack)
    for file in (folder / "credentials").iterdir():
        file.unlink()
    service = run(folder, "msg-outboxd.service")
    assert service.process.wait(20) == 78
    log = service.log.read_text()
    assert "DB_PASSWORD_FILE" in log and "RABBIT_URI_FILE" in log and not service.times("READY=1")


def test_a_loop_that_hangs_starves_the_watchdog(world, etc, run):
    stack = world("operators")
    service = run(etc(stack, MSG_FAILPOINT="api.before_begin:delay=120000"), "msg-api.service")
    service.wait_note("READY=1", 20)
    api = Api(stack.url("api-9"))
    wait_until(lambda: api.get("/readyz").status_code == 200, 20, "msg-api is ready")
    threading.Thread(target=lambda: _ignore(api.top_up, 1, 5), daemon=True).start()
    assert api.get("/healthz").status_code == 200
    wait_until(lambda: "watchdog.stale" in service.log.read_text(), 60, "the hang is noticed")
    assert '"loop":"committer"' in service.log.read_text()
    noticed = time.monotonic()
    with pytest.raises(Timeout):
        service.wait_note("WATCHDOG=1", 4 * FEED, noticed)
    response = api.get("/healthz")
    assert (response.status_code, response.json()["loop"]) == (503, "committer")


def _ignore(call, *arguments):
    try:
        call(*arguments)
    except OSError:
        pass


def test_a_long_drain_is_waited_for(world, etc, run):
    """More time is asked for, and the watchdog is fed while loops end one after the other."""
    stack = world("operators")
    service = run(etc(stack, MSG_FAILPOINT="api.before_begin:delay=13000", DRAIN_TIMEOUT_MS="60000",
                      REQUEST_DEADLINE_MS="60000"), "msg-api.service")
    service.wait_note("READY=1", 20)
    api = Api(stack.url("api-9"))
    wait_until(lambda: api.get("/readyz").status_code == 200, 20, "msg-api is ready")
    answers = []
    sender = threading.Thread(target=lambda: answers.append(api.top_up(1, 5).status_code))
    sender.start()
    wait_until(lambda: api.metrics().value("http_requests_in_flight") >= 2, 5,
               "the top-up is in hand, beside this request")
    asked = time.monotonic()
    assert service.stop() == 0
    ended = time.monotonic()
    sender.join(5)
    assert answers == [200]
    assert ended - asked > 11, "the loop was silent for longer than is taken for progress"
    assert fed(service, ended, asked), service.notes
    assert service.extension() >= 60, service.notes
