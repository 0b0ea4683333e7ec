"""What must not be seen by anybody else: passwords and keys, wherever they are given."""

import os
import resource
import signal
import subprocess

import pytest
import requests
from harness.stack import binary

DAEMONS = {"api-1": "api", "outboxd-1": "outboxd", "consumerd-1": "consumerd"}
KEYS = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1/otlp?api-key=key-of-a-query",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-api-key=key-of-a-header"}
SECRETS = ("message_pass", "rabbit_pass", "key-of-a-query", "key-of-a-header")


def assert_silent(text, where):
    assert not [secret for secret in SECRETS if secret in text], where


def test_what_runs_shows_none(world):
    """In its arguments, its environment, its log, its pages."""
    stack = world(**KEYS)
    api = stack.api()
    customer = api.funded(10)
    api.wait_final(customer, api.sent(customer)["message_identifier"])
    management = stack.broker.management.removesuffix("/api").replace("http://", "http://rabbit_user:rabbit_pass@")
    stack.restart("consumerd-1", RABBIT_MANAGEMENT_URI=management)
    for name in DAEMONS:
        pid = stack.pid(name)
        for file in ("cmdline", "environ"):
            with open(f"/proc/{pid}/{file}", "rb") as f:
                assert_silent(f.read().decode(errors="replace"), (name, file))
        for path in ("/status.json", "/metrics", "/readyz", "/healthz"):
            assert_silent(requests.get(stack.url(name) + path, timeout=5).text, (name, path))
        assert '"event":"start"' in stack.log_text(name)
        assert_silent(stack.log_text(name), (name, "log"))


WRONG = [
    ("consumerd", {"OPERATORS": "a=http://user:message_pass@127.0.0.1:1"}),
    ("consumerd", {"OPERATORS": "a=http://127.0.0.1:1/?key=message_pass"}),
    ("consumerd", {"OPERATORS": "a=message_pass@127.0.0.1:1,b=http://127.0.0.1:1"}),
    ("consumerd", {"RABBIT_MANAGEMENT_URI": "ftp://user:message_pass@127.0.0.1"}),
    ("outboxd", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:message_pass@127.0.0.1:1"}),
    ("outboxd", {"LISTEN_ADDR": "user:message_pass@127.0.0.1"}),
    ("api", {"DB_PASSWORD": "message_pass" * 200}),
    ("api", {"RABBIT_URI": "ampq://user:message_pass@127.0.0.1/"}),
]


@pytest.mark.parametrize("kind, values", WRONG, ids=lambda v: v if isinstance(v, str) else " ".join(v))
def test_what_is_refused_is_not_quoted(kind, values):
    env = {"PATH": os.environ["PATH"], "DB_PASSWORD": "x", "RABBIT_URI": "amqp://x:x@127.0.0.1:1/", **values}
    for option in ("--check", "--help"):
        done = subprocess.run([binary(kind), option], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=20, env=env)
        assert done.returncode == (78 if option == "--check" else 0), done.stdout
        assert list(values)[0] in done.stdout
        assert_silent(done.stdout, option)


@pytest.mark.parametrize("wanted", [False, True])
def test_a_crash_leaves_a_core_only_where_it_is_wanted(tmp_path, wanted):
    with open("/proc/sys/kernel/core_pattern") as f:
        if f.read().startswith(("|", "/")):
            pytest.skip("where cores go is not ours")
    process = subprocess.Popen(
        [binary("operator-sim")], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
        env={"PATH": os.environ["PATH"], "LISTEN_ADDR": "127.0.0.1:0", "CONTROL_ADDR": "", "CORE_DUMPS": str(wanted).lower()},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2))
    assert any('"event":"ready"' in line for line in process.stdout)
    process.send_signal(signal.SIGSEGV)
    _, status = os.waitpid(process.pid, 0)
    assert os.WIFSIGNALED(status) and os.WCOREDUMP(status) == wanted
    assert bool(list(tmp_path.iterdir())) == wanted
