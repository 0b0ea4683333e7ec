"""Each daemon with an account of its own, as docs/operating.md and sql/grants.sql have it: everything works,
and what is another's is refused.
"""

import re
import shlex
import subprocess
import time

import pika
import pymysql
import pytest
import requests
from harness.audit import audit, quiesce
from harness.client import recipient
from harness.stack import REPOSITORY, Stack, binary
from harness.wait import wait_until
from harness.witness import Database

DAEMONS = ("api", "outboxd", "consumerd")
PASSWORD = "of-its-own"
DOCUMENT = (REPOSITORY / "docs" / "operating.md").read_text()
REFUSED = re.compile(r"command denied|Access denied|ACCESS_REFUSED|access to|doorbell\\.refused")


def documented_sql():
    (text,) = re.findall(r"```sql\n(CREATE USER 'msg_migrate'.*?)```", DOCUMENT, re.DOTALL)
    return text.replace("…", PASSWORD)


@pytest.fixture(scope="module")
def stack():
    stack = Stack("accounts", settings={"DELIVERY_RETRY_WINDOW_SEC": "3", "DELIVERY_RETRY_BASE_MS": "100"})
    try:
        stack.up("backends", "operators")
        stack.database_root(documented_sql())
        migrate = {**account("migrate"), **{k: v for k, v in stack.values.items() if k in ("DB_HOST", "DB_PORT", "DB_NAME")}}
        done = subprocess.run([binary("api"), "migrate"], env=migrate, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        stack.database_root((REPOSITORY / "sql" / "grants.sql").read_text())
        for line in re.findall(r"^rabbitmqctl (.* msg_\w+ .*)$", DOCUMENT, re.MULTILINE):
            stack.rabbitmqctl(*shlex.split(line.replace("…", PASSWORD)))
        for kind in DAEMONS:
            stack.start(f"{kind}-1", **daemon(stack, kind))
        yield stack
    finally:
        stack.purge()


def account(kind):
    return {"DB_USER_NAME": f"msg_{kind}", "DB_PASSWORD": PASSWORD}


def daemon(stack, kind):
    """Settings of a daemon under its own accounts."""
    address = stack.values["RABBIT_URI"].rpartition("@")[2]
    return {**account(kind), "RABBIT_URI": f"amqp://msg_{kind}:{PASSWORD}@{address}", "MIGRATE_ON_START": "false"}


def verb(stack, kind, *words):
    environment = {**stack.values, **daemon(stack, kind)}
    done = subprocess.run([binary(kind), *words], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_who_may_not_make_keys_is_told_so_at_once(stack):
    words = [binary("api"), "key", "create", "--label=x", "--scopes=send"]
    database = {k: v for k, v in stack.values.items() if k in ("DB_HOST", "DB_PORT", "DB_NAME")}
    began = time.monotonic()
    done = subprocess.run(words, env={**database, **account("consumerd")}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stdout == "" and time.monotonic() - began < 10  # it is no use to try again
    assert "the accounts of msg-api and of the migration may" in done.stderr
    done = subprocess.run(words, env={**database, **account("migrate")}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("msg_live_"), done.stderr


def test_everything_works(stack):
    api = stack.api()
    for operator in stack.operators:
        operator.faults(reject_prefix="0999")
    customer = api.funded(1000)
    for kind in ("normal", "express"):
        sent = api.sent(customer, [recipient(n) for n in range(20)] + ["0999"], type=kind, key=f"key-{kind}")
        assert api.send(customer, [recipient(n) for n in range(20)] + ["0999"], type=kind, key=f"key-{kind}").json() == sent
        states = api.wait_final(customer, sent["message_identifier"])
        assert states.pop("0999") == "failed" and set(states.values()) == {"done"}
    # Put off, tried again, failed and refunded.
    for operator in stack.operators:
        operator.faults(status=503, status_share=1)
    sent = api.sent(customer)
    assert set(api.wait_final(customer, sent["message_identifier"]).values()) == {"failed"}
    for operator in stack.operators:
        operator.heal()
    wait_until(lambda: requests.get(stack.url("outboxd-1") + "/readyz", timeout=5).status_code == 200, 20, "ready")
    quiesce(stack)
    # What is for a person: a body that nobody can read, a row that nobody can publish.
    stack.broker.publish(stack.broker.normal, b"nonsense")
    wait_until(lambda: stack.broker.ready(stack.broker.dead) == 1, 15, "a dead letter")
    assert "not JSON" in verb(stack, "consumerd", "dead", "list")
    verb(stack, "consumerd", "dead", "drop", "--all")
    stack.db.execute("INSERT INTO outbox_parked(id,aggregate_type,aggregate_id,event_type,payload,priority,attempts,created_at)"
                     " SELECT 900000000,'message',message_identifier,'message.send',JSON_OBJECT(),0,10,NOW(6)"
                     " FROM messages LIMIT 1")
    assert "900000000" in verb(stack, "outboxd", "parked", "list")
    verb(stack, "outboxd", "parked", "drop", "900000000")
    verb(stack, "consumerd", "held", "list")
    verb(stack, "api", "restore-mode", "on")
    verb(stack, "api", "restore-mode", "resume")
    verb(stack, "api", "audit")
    verb(stack, "api", "key", "create", "--label=of a test", "--scopes=read")
    assert "of a test" in verb(stack, "api", "key", "list")
    audit(stack)
    for kind in DAEMONS:
        refused = [line for line in stack.log_text(f"{kind}-1").splitlines() if REFUSED.search(line)]
        assert not refused, refused[:3]


def test_the_doorbell_is_heard(stack):
    text = requests.get(stack.url("outboxd-1") + "/metrics", timeout=5).text
    assert re.search(r"^msg_doorbell_hears 1$", text, re.MULTILINE), text


@pytest.mark.parametrize("kind, sql", [
    ("api", "CREATE TABLE x(i INT)"),
    ("api", "ALTER TABLE messages ADD COLUMN x INT"),
    ("api", "DROP TABLE messages"),
    ("api", "UPDATE user_transactions SET amount=1"),
    ("api", "DELETE FROM user_transactions"),
    ("api", "DELETE FROM api_keys"),
    ("outboxd", "SELECT 1 FROM api_keys"),
    ("consumerd", "INSERT INTO api_keys(hash,label,scopes) VALUES ('x','x','admin')"),
    ("outboxd", "DELETE FROM user_transactions"),
    ("outboxd", "SELECT 1 FROM idempotency_keys"),
    ("outboxd", "SELECT 1 FROM workers"),
    ("outboxd", "INSERT INTO messages(message_identifier,customer_id,type,text,recipients,price) VALUES ('x',1,'normal','x',1,0)"),
    ("outboxd", "TRUNCATE outbox_events"),
    ("consumerd", "UPDATE user_transactions SET amount=1"),
    ("consumerd", "SELECT 1 FROM idempotency_keys"),
    ("consumerd", "DELETE FROM outbox_parked"),
    ("consumerd", "INSERT INTO messages(message_identifier,customer_id,type,text,recipients,price) VALUES ('x',1,'normal','x',1,0)"),
    ("consumerd", "CREATE TABLE x(i INT)"),
    ("consumerd", "SELECT * FROM mysql.user"),
])
def test_what_is_anothers_is_refused(stack, kind, sql):
    with pytest.raises((pymysql.err.OperationalError, pymysql.err.ProgrammingError)) as refused:
        Database({**stack.values, **account(kind)}).execute(sql)
    assert refused.value.args[0] in (1044, 1142, 1143), refused.value


@pytest.mark.parametrize("kind, exchange, key", [("api", "", "normal"), ("api", "exchange", "normal"),
                                                 ("consumerd", "exchange", "normal"), ("consumerd", "exchange", "express")])
def test_who_publishes_no_messages_may_not(stack, kind, exchange, key):
    parameters = pika.URLParameters(daemon(stack, kind)["RABBIT_URI"] + "%2F")
    names = {"exchange": stack.broker.exchange, "": "", "normal": stack.broker.normal, "express": stack.broker.express}
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    channel.confirm_delivery()
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as refused:
        channel.basic_publish(names[exchange], names[key], b"{}")
    assert refused.value.reply_code == 403
    connection.close()


def test_who_consumes_nothing_may_not(stack):
    connection = pika.BlockingConnection(pika.URLParameters(daemon(stack, "api")["RABBIT_URI"] + "%2F"))
    channel = connection.channel()
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as refused:
        channel.basic_get(stack.broker.normal, auto_ack=True)
    assert refused.value.reply_code == 403
    connection.close()
