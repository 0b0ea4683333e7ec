"""What --check accepts starts, and what cannot work is refused by it."""

import os
import random
import re
import subprocess
import time

import pytest
import requests
from harness.stack import PortRange, binary
from harness.wait import wait_until

NOWHERE = {"DB_PASSWORD": "x", "DB_PORT": "1", "RABBIT_URI": "amqp://x:x@127.0.0.1:1/"}
PROGRAMS = ("api", "outboxd", "consumerd", "operator-sim")
SEED = 12
RANDOM_COMBINATIONS = 6


def run(kind, **values):
    done = subprocess.run([binary(kind), "--check"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=20, env={"PATH": os.environ["PATH"], **NOWHERE, **values})
    return done.returncode, done.stdout


# -- what cannot work -----------------------------------------------------------------------------

REFUSED = {
    "equal queues": ("outboxd", {"EXPRESS_QUEUE": "q", "NORMAL_QUEUE": "q"}, "must differ"),
    "the dead letters' queue": ("consumerd", {"RABBIT_MESSAGE_EXCHANGE": "x", "NORMAL_QUEUE": "x.dead"}, "NORMAL_QUEUE=x.dead"),
    "dead letters by default": ("api", {"EXPRESS_QUEUE": "message_exchange.dead"}, "EXPRESS_QUEUE"),
    "a reserved queue": ("api", {"NORMAL_QUEUE": "amq.q"}, "NORMAL_QUEUE=amq.q"),
    "a reserved exchange": ("outboxd", {"RABBIT_MESSAGE_EXCHANGE": "amq.direct"}, "RABBIT_MESSAGE_EXCHANGE"),
    "operators' backoff": ("consumerd", {"OPERATOR_BACKOFF_MS": "2", "OPERATOR_BACKOFF_MAX_MS": "1"}, "OPERATOR_BACKOFF_MS=2"),
    "deliveries' backoff": ("consumerd", {"DELIVERY_RETRY_BASE_MS": "50", "DELIVERY_RETRY_MAX_MS": "20"}, "DELIVERY_RETRY_BASE_MS"),
    "the outbox's backoff": ("outboxd", {"OUTBOX_RETRY_BASE_MS": "50", "OUTBOX_RETRY_MAX_MS": "20"}, "OUTBOX_RETRY_BASE_MS"),
    "polls": ("outboxd", {"OUTBOX_POLL_MIN_MS": "9", "OUTBOX_POLL_MAX_MS": "8"}, "OUTBOX_POLL_MIN_MS"),
    "a slow heartbeat": ("consumerd", {"WORKER_HEARTBEAT_MS": "5000", "WORKER_DEAD_SEC": "10"}, "WORKER_DEAD_SEC"),
    "slow operators": ("consumerd", {"OPERATOR_TIMEOUT_MS": "9000"}, "WORKER_DEAD_SEC"),
    "questions that wait for the whole window": (
        "consumerd", {"OPERATOR_UNKNOWN_POLICY": "hold", "OPERATOR_LOOKUP_SETTLES_MS": "20000"}, "SETTLES_MS=20000"),
    "locks longer than statements": ("api", {"DB_LOCK_WAIT_SEC": "8"}, "DB_LOCK_WAIT_SEC"),
    "a PROXY header from nobody": ("api", {"HTTP_PROXY_PROTOCOL": "true"}, "TRUSTED_PROXIES"),
    "more threads than connections": ("api", {"HTTP_THREADS": "17", "HTTP_MAX_CONNECTIONS": "16"}, "HTTP_THREADS"),
    "pages": ("api", {"PAGE_SIZE_DEFAULT": "11", "PAGE_SIZE_MAX": "10"}, "PAGE_SIZE_DEFAULT"),
    "keys off in the open": ("api", {"API_AUTH": "off", "LISTEN_ADDR": "0.0.0.0:8080"}, "API_AUTH=off"),
    "figures for keys that nobody asks for": ("api", {"API_AUTH": "off", "LISTEN_ADDR": "127.0.0.1:8080",
                                                      "API_METRICS": "key"}, "API_METRICS=key"),
    "one address twice": ("operator-sim", {"LISTEN_ADDR": ":9001", "CONTROL_ADDR": ":9001"}, "CONTROL_ADDR"),
    "a shut door without a key": ("operator-sim", {"SIM_FAULTS": '{"refuse":true}'}, "SIM_FAULTS"),
} | {f"LISTEN_ADDR {addr}": ("api", {"LISTEN_ADDR": addr}, "LISTEN_ADDR")
     for addr in (":99999", ":-0", "[::1:80", "[]:80", "a b:80", "80")
} | {f"RABBIT_URI {uri}": ("outboxd", {"RABBIT_URI": uri}, "RABBIT_URI")
     for uri in ("amqp://h:99999", "amqp://h:0/", "amqp://h h/", "amqp://h/a%00b", "http://h/", "amqp://h:5672x")
} | {f"OPERATORS {url}": ("consumerd", {"OPERATORS": f"a={url}"}, "OPERATORS")
     for url in ("http://h:99999", "http://h:0/x", "http://h:x")}


@pytest.mark.parametrize("name", REFUSED)
def test_check_refuses(name):
    kind, values, named = REFUSED[name]
    code, text = run(kind, **values)
    assert code == 78 and named in text, text


def test_many_committers_and_readers_are_accepted():
    assert run("api", COMMITTERS="64", READ_CONNS="64", DB_MAX_OPEN_CONNS="200")[0] == 0


# -- what it accepts ------------------------------------------------------------------------------

def table(kind):
    """{name: (lowest, highest, default)} of the numbers, {name: words} of what is chosen from words."""
    text = subprocess.run([binary(kind), "--help"], stdout=subprocess.PIPE, text=True, timeout=20).stdout
    numbers = {m[1]: (int(m[2]), int(m[3]), int(m[4])) for m in re.finditer(
        r"^  (\w+) \(whole number, (-?\d+) to (-?\d+); default (-?\d+)\)$", text, re.MULTILINE)}
    words = {m[1]: m[2].split() for m in re.finditer(r"^  (\w+) \(choice: (.*); default .*\)$", text, re.MULTILINE)}
    words |= {m[1]: ["true", "false"] for m in re.finditer(r"^  (\w+) \(true or false; default .*\)$", text, re.MULTILINE)}
    assert "HTTP_THREADS" in numbers and "LOG_LEVEL" in words, text
    numbers.pop("DB_PORT", None)
    return numbers, words


def combinations(kind):
    """(name, settings): the corners, and some at random between and on the limits."""
    numbers, words = table(kind)
    yield "lowest", {name: lowest for name, (lowest, _, _) in numbers.items()}
    yield "highest", {name: highest for name, (_, highest, _) in numbers.items()}
    dice = random.Random(f"{SEED} {kind}")
    for i in range(RANDOM_COMBINATIONS):
        values = {}
        for name, (lowest, highest, default) in numbers.items():
            between = round(lowest + (highest - lowest + 1) ** dice.random() - 1)
            values[name] = dice.choice([lowest, highest, default, between])
        yield f"random {i}", values | {name: dice.choice(choices) for name, choices in words.items()}


def accepted(kind, values):
    """The combination without what --check objects to, complaint by complaint."""
    values = {name: str(value) for name, value in values.items()}
    while True:
        code, text = run(kind, **values)
        if code == 0:
            return values
        named = [name for name in values if re.search(rf"\b{name}\b", text)]
        assert code == 78 and named, text
        for name in named:
            del values[name]


@pytest.mark.parametrize("kind", PROGRAMS)
def test_what_is_accepted_starts(kind, tmp_path):
    ports = PortRange()
    url = f"http://127.0.0.1:{ports.base}"
    try:
        for name, values in combinations(kind):
            values = accepted(kind, values)
            with open(tmp_path / "log", "wb") as log:
                process = subprocess.Popen([binary(kind)], stdout=log, stderr=subprocess.STDOUT, env={
                    "PATH": os.environ["PATH"], **NOWHERE, **values, "LISTEN_ADDR": f"127.0.0.1:{ports.base}"})
            try:
                wait_until(lambda: process.poll() is not None or alive(url), 30, name)
                time.sleep(0.3)  # threads that start late have their chance to fail
                assert process.poll() is None and alive(url), (name, values, (tmp_path / "log").read_text()[-2000:])
            finally:
                process.kill()
                process.wait()
    finally:
        ports.release()


def alive(url):
    try:
        return requests.get(url + "/healthz", timeout=5).status_code == 200
    except requests.ConnectionError:
        return False
