"""msg-loadtest against a platform: what it prints, and that it notices what is lost or doubled."""

import json
import os
import re
import subprocess

import pytest
import requests
from harness import raw
from harness.authority import Authority
from harness.secured import context, dial
from harness.stack import BUILD
from harness.wait import wait_until

PROGRAM = BUILD / "test" / "loadtest" / "msg-loadtest"
USERS = 200


def options(stack, *more):
    v = stack.values
    return [PROGRAM, "-base-url", stack.url("api-1"), "-users", str(USERS),
            "-operators", f"{v['OPERATOR_A_CONTROL_URL']},{v['OPERATOR_B_CONTROL_URL']}",
            "-timeout", "20s", *(["-api-key", stack.key] if stack.key else []), *more]


def environment(stack):
    v = stack.values
    dsn = f"{v['DB_USER_NAME']}:{v['DB_PASSWORD']}@tcp({v['DB_HOST']}:{v['DB_PORT']})/{v['DB_NAME']}"
    return {**os.environ, "SEED_DB_DSN": dsn}


def run(stack, *more):
    return subprocess.run(options(stack, *more), env=environment(stack), text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=150)


def fields(line):
    return dict(re.findall(r"([a-z0-9_.]+)=(\S+)", line))


@pytest.mark.parametrize("method", ["db", "http"])
def test_seeding_keeps_the_ledger_true_and_can_be_repeated(world, method):
    stack = world("operators", "api")
    for times in (1, 2):
        done = run(stack, "-seed-only", "-seed-balance", "50", "-seed-method", method)
        assert done.returncode == 0, done.stderr
        assert stack.db.rows("SELECT COUNT(*), MIN(balance), MAX(balance) FROM user_balances") == (
            (USERS, 50 * times, 50 * times),)
        assert stack.db.value(
            "SELECT COUNT(*) FROM user_balances b WHERE balance <> (SELECT SUM(amount) FROM"
            " user_transactions t WHERE t.user_id = b.user_id)") == 0


def test_an_open_loop(world):
    stack = world()
    done = run(stack, "-seed-balance", "1000", "-rps", "100", "-duration", "4s", "-express-ratio",
               "0.3", "-recipients", "2", "-verify")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"endpoint={stack.url('api-1')}/messages/send"
    assert re.fullmatch(r"sent=400 ok=400 non2xx=0 http_err=0 elapsed=\S+s achieved_rps=[\d.]+",
                        lines[1])
    assert re.fullmatch(r"latency p50=\S+ms p90=\S+ms p95=\S+ms p99=\S+ms max=\S+ms", lines[2])
    audit = fields(next(line for line in lines if line.startswith("audit accepted")))
    assert {audit[k] for k in ("accepted", "rows", "charged", "done", "delivered")} == {"800"}
    assert stack.db.value("SELECT COUNT(*) FROM message_status WHERE status='done'") == 800
    express = stack.db.value("SELECT COUNT(*) FROM messages WHERE type='express'")
    assert 80 < express < 160
    assert sum(o.counts()["accepted"] for o in stack.operators) == 800


def test_a_closed_loop_counts_its_own_run_only(world):
    stack = world()
    for _ in range(2):
        done = run(stack, "-seed-balance", "100000", "-rps", "0", "-duration", "1s", "-concurrency",
                   "20", "-verify", "-json")
        assert done.returncode == 0, done.stdout + done.stderr
        result = json.loads(done.stdout)
        assert result["ok"] == result["audit"]["accepted"] == result["audit"]["delivered"] > 0
        assert sum(lane["done"] for lane in result["lanes"].values()) == result["ok"]
        assert sum(lane["handed"] for lane in result["handed"].values()) == result["ok"]
        for name, handed in result["handed"].items():  # an operator has it before it is done
            for quantile in ("p50", "p90", "p99", "p99.9", "max"):
                done = result["lanes"][name][quantile]
                assert 0 < handed[quantile] < done if done else not handed[quantile]


def test_a_curve_and_customers_as_in_life(world):
    stack = world()
    done = run(stack, "-seed-balance", "1000", "-rps", "100", "-rate-curve", "1,3", "-duration", "4s", "-users-zipf", "1",
               "-verify", "-json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["audit"]["done"] == 400
    by_customer = [n for n, in stack.db.rows("SELECT COUNT(*) FROM messages GROUP BY customer_id ORDER BY customer_id")]
    assert by_customer[0] > 40 > 20 > by_customer[3]  # 1/5.9 and 1/23.5 of 400
    first = stack.db.value("SELECT COUNT(*) FROM messages WHERE accepted_at < (SELECT MIN(accepted_at) FROM messages)"
                           " + INTERVAL 2 SECOND")
    assert 60 < first < 160  # 100, and none of it is exact


def lose_a_charge(stack):
    stack.db.execute("DELETE FROM user_transactions WHERE transaction_type='withdrawal' LIMIT 1")


def lose_a_recipient(stack):
    stack.db.execute("DELETE FROM message_status LIMIT 1")


def deliver_twice(stack):
    identifier = stack.db.value("SELECT message_identifier FROM messages LIMIT 1")
    answer = requests.post(stack.values["OPERATOR_B_URL"] + "/messages", timeout=10, json={
        "reference": f"{identifier}-0", "to": "0912", "text": "hi", "type": "normal"})
    assert answer.ok, answer.text


@pytest.mark.parametrize("tamper, word", [(lose_a_charge, "lost"), (lose_a_recipient, "lost"),
                                          (deliver_twice, "doubled")])
def test_what_was_tampered_with_is_noticed(world, tamper, word):
    stack = world("operators", "api", "consumerd")
    process = subprocess.Popen(
        options(stack, "-seed-balance", "100", "-rps", "50", "-duration", "1s", "-verify",
                "-drain-timeout", "60s", "-json"), text=True, stdout=subprocess.PIPE, env=environment(stack))
    try:
        wait_until(lambda: stack.db.value("SELECT COUNT(*) FROM messages") == 50, 30,
                   "all is accepted and nothing published")
        tamper(stack)
        stack.up("outboxd")
        output = process.communicate(timeout=90)[0]
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1, output
    result = json.loads(output)
    assert result["drained"] and not result["passed"]
    assert result["audit"][word] == 1, output


class Secured(raw.Server):
    """A simulator over TLS: it knows no /messages/send, and says so."""

    def __init__(self, authority, san):
        self.tls = context(authority.certificate, None)
        self.name = san.split(":")[1]
        certificate, key = authority.issue("server", san)
        super().__init__(HTTP_TLS_CERT_FILE=certificate, HTTP_TLS_KEY_FILE=key)

    def dial(self, timeout=10):
        return dial(self.port, self.tls, timeout, name=self.name)


@pytest.mark.parametrize("san,trusted,answers,said", [
    ("IP:127.0.0.1", True, 50, ""),
    ("IP:127.0.0.1", False, 0, "certificate: unable to get local issuer certificate\n"),
    ("DNS:elsewhere.example", True, 0, "certificate: IP address mismatch\n")])
def test_https_is_spoken_with_whom_the_authority_vouches_for(tmp_path, san, trusted, answers, said):
    ours, other = Authority(tmp_path, "ours"), Authority(tmp_path, "other")
    server = Secured(ours, san)
    try:
        done = subprocess.run([PROGRAM, "-base-url", f"https://127.0.0.1:{server.port}", "-ca-file",
                               (ours if trusted else other).certificate, "-rps", "100", "-duration", "500ms",
                               "-concurrency", "5"], text=True, capture_output=True, timeout=60)
    finally:
        server.stop()
    assert re.search(rf"sent=50 ok=0 non2xx={answers} http_err={50 - answers} ", done.stdout), done.stdout + done.stderr
    assert done.returncode == 1
    assert done.stderr.count("certificate: ") == bool(said) and said in done.stderr
