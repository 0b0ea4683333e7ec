"""Starting and stopping: settings, the command line, migrations, drains."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from urllib.parse import urlsplit

import pytest
import requests
from harness import raw
from harness.audit import audit, quiesce
from harness.client import Load
from harness.stack import binary
from harness.wait import wait_until

# Who serves nobody but its own operators listens on the loopback unless it is told otherwise.
PROGRAMS = {"api": "default :8080", "outboxd": "default 127.0.0.1:8081", "consumerd": "default 127.0.0.1:8082",
            "operator-sim": "default 127.0.0.1:9001"}
GOOD = {"DB_PASSWORD": "secret-of-the-database", "RABBIT_URI": "amqp://user:secret-of-rabbit@127.0.0.1/"}


def run(kind, *words, **environment):
    """Exit code and output; the environment is only what is given."""
    done = subprocess.run([binary(kind), *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=20, env={"PATH": os.environ["PATH"], **environment})
    return done.returncode, done.stdout


@pytest.mark.parametrize("kind", PROGRAMS)
def test_help_lists_the_settings(kind):
    code, text = run(kind, "--help")
    assert code == 0
    listen = re.search(r"^\s*LISTEN_ADDR \((.*)\)$", text, re.MULTILINE)
    assert listen and PROGRAMS[kind] in listen[1], text
    expected = {"api": ("GLOBAL_RATE_LIMIT_RPS", "1000"), "outboxd": ("DB_PASSWORD", "required"),
                "consumerd": ("DELIVERY_RETRY_WINDOW_SEC", "30"), "operator-sim": ("APP_NAME", "")}
    name, default = expected[kind]
    assert re.search(rf"^\s*{name} \(.*{default}.*\)", text, re.MULTILINE), text


@pytest.mark.parametrize("kind", PROGRAMS)
def test_check_accepts_good_settings(kind):
    assert run(kind, "--check", **GOOD)[0] == 0


def test_a_migration_needs_no_broker(shared):
    """Nor do the other verbs of msg-api; whoever serves does."""
    values = {name: value for name, value in shared.values.items() if name.startswith("DB_")}
    code, text = run("api", "migrate", **values)
    assert code == 0 and text.startswith("0 migrations applied"), text
    assert run("api", "restore-mode", "status", **values)[0] == 0
    for words in (["--check"], []):
        code, text = run("api", *words, **values)
        assert code == 78 and "RABBIT_URI is required" in text, text
    code, text = run("api", "migrate", **(values | {"RABBIT_URI": "http://nowhere"}))
    assert code == 78 and "RABBIT_URI" in text, "what is given has to be right"


@pytest.mark.parametrize("kind", PROGRAMS)
@pytest.mark.parametrize("words", [["--check"], []], ids=["check", "start"])
def test_all_bad_settings_are_named_at_once(kind, words):
    bad = {"LISTEN_ADDR": "nonsense", "HTTP_THREADS": "many"}
    if kind != "operator-sim":
        bad |= {"DB_PORT": "70000", "DB_MAX_OPEN_CONNS": "-1"}
    missing = set() if kind == "operator-sim" else {"DB_PASSWORD", "RABBIT_URI"}
    code, text = run(kind, *words, **bad)
    assert code == 78, text
    for name in (*bad, *missing):
        assert name in text, f"{name} is not named in:\n{text}"


@pytest.mark.parametrize("kind", ["api", "outboxd", "consumerd"])
def test_settings_of_the_database_fit_together(kind):
    code, text = run(kind, "--check", **GOOD, DB_LOCK_WAIT_SEC="8", DB_STATEMENT_TIMEOUT_MS="8000")
    assert code == 78 and "DB_LOCK_WAIT_SEC=8 must be shorter than DB_STATEMENT_TIMEOUT_MS=8000" in text
    assert run(kind, "--check", **GOOD, DB_LOCK_WAIT_SEC="7", DB_STATEMENT_TIMEOUT_MS="8000")[0] == 0


def test_secrets_may_come_from_files(tmp_path):
    for name, value in GOOD.items():
        (tmp_path / name).write_text(value + "\n")
    files = {f"{name}_FILE": str(tmp_path / name) for name in GOOD}
    assert run("outboxd", "--check", **files)[0] == 0
    code, text = run("outboxd", "--check", **{**files, "DB_PASSWORD_FILE": str(tmp_path / "none")})
    assert code == 78 and "DB_PASSWORD" in text


def test_unknown_options_are_refused():
    for kind in PROGRAMS:
        code, text = run(kind, "--nonsense", **GOOD)
        assert code != 0 and "--nonsense" in text


def test_start_shows_settings_and_hides_secrets(shared):
    for name in ("api-1", "outboxd-1", "consumerd-1"):
        log = shared.log_text(name)
        first = log.splitlines()[0]
        assert "LISTEN_ADDR" in log and "DB_HOST" in log, first
        assert shared.values["DB_PASSWORD"] not in log and "rabbit_pass" not in log


def test_health_says_whether_the_daemon_runs(shared):
    """On the address of LISTEN_ADDR, whatever else is not set, and never for long."""
    running = {"api": shared.url("api-1"), "outboxd": shared.url("outboxd-1"),
               "consumerd": shared.url("consumerd-1"), "operator-sim": shared.values["OPERATOR_A_URL"]}
    with socket.socket() as silent, socket.socket() as closed:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        closed.bind(("127.0.0.1", 0))
        for kind, url in running.items():
            port = url.rpartition(":")[2]
            for host in ("", "127.0.0.1", "localhost", "0.0.0.0"):
                code, text = run(kind, "--health", LISTEN_ADDR=f"{host}:{port}")
                assert code == 0 and text.endswith("/healthz answered 200\n"), text
            began = time.monotonic()
            code, text = run(kind, "--health", LISTEN_ADDR=f":{silent.getsockname()[1]}")
            assert code == 1 and len(text.splitlines()) == 1 and 1 < time.monotonic() - began < 5, text
            for address in (f":{closed.getsockname()[1]}", ":0", "nonsense"):
                code, text = run(kind, "--health", LISTEN_ADDR=address)
                assert code == 1 and len(text.splitlines()) == 1, text
    # Another answer than 200: the broker's own page for what it does not know.
    code, text = run("api", "--health", LISTEN_ADDR=urlsplit(shared.values["RABBIT_MANAGEMENT_URL"]).netloc)
    assert code == 1 and "answered 404" in text


def test_health_is_asked_where_a_proxy_has_to_introduce_its_client():
    ways = {"HTTP_PROXY_PROTOCOL": "true", "TRUSTED_PROXIES": "127.0.0.1"}
    server = raw.Server(source="127.0.0.2", **ways)
    code, text = run("operator-sim", "--health", LISTEN_ADDR=f":{server.port}", **ways)
    assert server.stop() == 0
    assert code == 0, text


def test_migrate_verb_and_waiting_for_it(world):
    """Without a schema the others wait; `msg-api migrate` makes it, twice does no harm."""
    stack = world("operators")
    stack.start_without_waiting("outboxd-1")
    wait_until(lambda: "schema: version 0, needed is" in stack.log_text("outboxd-1"), 20, "it says what it waits for")
    wait_until(lambda: stack.status("outboxd-1"), 20, "it answers")
    assert stack.status("outboxd-1") == 503
    assert stack.db.tables() == []
    environment = {**os.environ, **{k: v for k, v in stack.values.items()
                                    if k.startswith(("DB_", "RABBIT_URI"))}}
    for _ in range(2):
        done = subprocess.run([binary("api"), "migrate"], env=environment, timeout=60,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout
    assert {"user_balances", "user_transactions", "messages", "message_status", "outbox_events",
            "workers", "idempotency_keys", "schema_migrations"} <= set(stack.db.tables())
    stack.start("outboxd-1")
    stack.start("consumerd-1")
    stack.start("api-1", MIGRATE_ON_START="false")
    api = stack.api()
    customer = api.funded(1)
    identifier = api.sent(customer)["message_identifier"]
    assert set(api.wait_final(customer, identifier).values()) == {"done"}


def test_ready_means_usable(world):
    """Whoever waits for /readyz of a fresh platform may send at once. (One that asks for keys has none yet.)"""
    stack = world("api", API_AUTH="off")
    for attempt in range(5):
        for table in stack.db.tables():
            stack.db.execute(f"DROP TABLE `{table}`")
        stack.restart("api-1")
        assert stack.api().top_up(1, 5).status_code == 200, f"attempt {attempt}"


def test_replicas_that_start_together_migrate_once(world):
    stack = world("api", replicas=4)
    rows = stack.db.records("SELECT * FROM schema_migrations")
    assert len(rows) == len({r["version"] for r in rows}) and all(r["finished_at"] for r in rows)


def terminate(process, within=30):
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    code = process.wait(within)
    return code, time.monotonic() - began


def wait_ready(stack, name):
    wait_until(lambda: stack.status(name) == 200, 20, f"{name} is ready")


@pytest.mark.parametrize("name", ["api-1", "outboxd-1", "consumerd-1"])
def test_idle_daemon_ends_with_0(world, name):
    stack = world("operators", "api-2")
    process = stack.run(name)
    wait_ready(stack, name)
    code, seconds = terminate(process)
    assert code == 0 and seconds < 10, (code, seconds)
    for line in stack.log_text(name).splitlines():
        json.loads(line)


def test_api_drains(world):
    """SIGTERM in the middle of a load: no accepted connection is cut off in a request."""
    stack = world("outboxd", "consumerd", "operators", "api-2")
    process = stack.run("api-1")
    wait_ready(stack, "api-1")
    customers = stack.db.seed_customers(500, 100)
    cut = []

    class Watched(Load):
        def _attempt(self, connection, key, body):
            fresh = connection.sock is None
            answer = super()._attempt(connection, key, body)
            # Refused while connecting is a server that has gone; anything else is a cut request. A
            # kept connection that is closed between two requests is no fault either, and shows as
            # an error before a byte of the answer.
            if answer is None and not fresh and connection.sock is not None:
                cut.append(key)
            return answer

    with Watched([stack.api(1), stack.api(2)], customers, 4000) as load:
        load.wait_accepted(1000)
        code, seconds = terminate(process)
        load.finish()
    assert code == 0 and seconds < 10, (code, seconds)
    # Replays tell which sends were committed without their answer getting through.
    metrics = stack.api(2).metrics()
    assert metrics.sum("msg_idempotency_total", result="replayed") == 0, "a drained answer was lost"
    quiesce(stack)
    assert audit(stack) == []
    assert stack.db.value("SELECT COUNT(*) FROM messages") == 4000


@pytest.mark.parametrize("name", ["outboxd-1", "consumerd-1"])
def test_worker_drains(world, name):
    """SIGTERM with work in hand: ends with 0 and leaves nothing half done for others to find out."""
    kind = name[:-2]
    others = [n for n in ("outboxd-2", "consumerd-2") if not n.startswith(kind)]
    stack = world("api-1", "operators", *others, WORKER_DEAD_SEC=60)
    for operator in stack.operators:
        operator.faults(latency_ms=50, latency_max_ms=200)
    process = stack.run(name)
    wait_ready(stack, name)
    customers = stack.db.seed_customers(500, 100)
    with Load([stack.api()], customers, 2000) as load:
        load.wait_accepted(1000)
        wait_until(lambda: stack.db.value("SELECT COUNT(*) FROM message_status WHERE status='done'"),
                   10, "deliveries flow")
        code, seconds = terminate(process)
        assert code == 0 and seconds < 15, (code, seconds)
        load.finish()
    if kind == "consumerd":
        # A clean stop hands everything back: nothing is left to the heartbeat's 60 s.
        assert stack.db.value("SELECT COUNT(*) FROM message_status WHERE status='sending'") == 0
    stack.start(f"{kind}-2")
    quiesce(stack, 50)
    assert audit(stack) == []
    assert sum(o.counts()["duplicates"] for o in stack.operators) == 0


HANGS = {"api": "api.before_begin", "outboxd": "outbox.after_claim", "consumerd": "consumer.after_claim"}
LOOPS = {"api": "committer", "outboxd": "relay normal", "consumerd": "lane normal"}
QUICK = {"DB_CONNECT_TIMEOUT_MS": 1000, "DB_STATEMENT_TIMEOUT_MS": 1500, "RABBIT_CONNECT_TIMEOUT_MS": 500,
         "RABBIT_RPC_TIMEOUT_MS": 500}  # so that little patience is needed


def test_a_loop_that_hangs_is_not_alive(world):
    """/healthz names it, in every daemon; the page for traffic is not concerned. All hang at once: it takes ten seconds
    for one to be noticed."""
    stack = world("api", "operators", **{k: str(v) for k, v in QUICK.items()})
    api = stack.api()
    customer = api.funded(10)

    def send(timeout):
        with contextlib.suppress(requests.RequestException):
            requests.post(api.url + "/messages/send", headers=api.headers, timeout=timeout,
                          json={"customer_id": customer, "text": "x", "recipients": ["+4915112345"]})

    stack.start("outboxd-1")  # until there is work for the consumer to hang over
    for kind in ("consumerd", "outboxd", "api"):  # against the stream: what each needs still runs
        stack.restart(f"{kind}-1", MSG_FAILPOINT=f"{HANGS[kind]}:delay=600000")
        assert stack.status(f"{kind}-1", "/healthz") == 200
        send(1 if kind == "api" else 20)
        if kind == "consumerd":
            wait_until(lambda: stack.db.value("SELECT COUNT(*) FROM outbox_events") == 0, 20, "it has left the outbox")
    for kind in HANGS:
        wait_until(lambda: stack.status(f"{kind}-1", "/healthz") == 503, 60, f"the hang of {kind} is noticed")
        body = requests.get(stack.url(f"{kind}-1") + "/healthz", timeout=5).json()
        assert body["status"] == "stuck" and body["loop"].startswith(LOOPS[kind]) and body["silent_ms"] > 10000, body
        wait_until(lambda: "watchdog.stale" in stack.log_text(f"{kind}-1"), 10, "the hang is told")
    for kind in HANGS:
        stack.kill(f"{kind}-1")


def test_without_database_and_broker_daemons_are_alive(fragile):
    """Both hang, which is what takes longest; nothing is restarted for that."""
    stack = fragile(**{k: str(v) for k, v in QUICK.items()})
    names = ["api-1", "outboxd-1", "consumerd-1"]
    late = []
    with contextlib.ExitStack() as paused:
        for server in ("mariadb", "rabbitmq"):
            paused.enter_context(stack.backends.paused(server))
        end = time.monotonic() + 25  # longer than anything is given
        while time.monotonic() < end:
            late += [name for name in names if stack.status(name, "/healthz") != 200]
            time.sleep(0.5)
    assert late == []
    for name in names:
        wait_ready(stack, name)


def test_readiness_goes_before_the_listener(world):
    """Until SHUTDOWN_DELAY_MS is over only /readyz changes; another signal ends the wait."""
    stack = world("operators", "api-2")
    for name, delay, signals in (("api-1", 3000, 1), ("outboxd-1", 3000, 1), ("consumerd-1", 60000, 2)):
        process = stack.run(name, SHUTDOWN_DELAY_MS=delay)
        wait_ready(stack, name)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        wait_until(lambda: stack.status(name) == 503, 10, "it is not ready any more")
        assert stack.status(name, "/healthz") == 200
        if name == "api-1":
            assert stack.api().top_up(1, 5).status_code == 200
        if signals == 1:
            assert process.wait(30) == 0 and time.monotonic() - began >= delay / 1000
        else:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0 and time.monotonic() - began < delay / 1000
