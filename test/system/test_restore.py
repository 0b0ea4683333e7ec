"""Restore mode: what a loaded backup has open waits until a person says what becomes of it."""

import os
import shutil
import subprocess

import pytest
import requests
from harness.audit import accepted_by_both, audit, quiesce
from harness.client import recipient
from harness.keys import KeyedApi
from harness.metrics import Metrics
from harness.receiver import Hooks, Receiver, wait_known
from harness.stack import binary
from harness.wait import wait_until

DAEMONS = ("api-1", "outboxd-1", "consumerd-1")
QUICK = {"REPAIR_AFTER_SEC": "2", "REPAIR_INTERVAL_MS": "200", "DELIVERY_RETRY_WINDOW_SEC": "5"}
STATES = "SELECT status,COUNT(*) FROM message_status GROUP BY status"

pytestmark = pytest.mark.skipif(not shutil.which("mariadb-dump"), reason="needs mariadb-dump")


def restore_mode(stack, *words):
    """Exit status and text of `msg-api restore-mode`."""
    done = subprocess.run([binary("api"), "restore-mode", *words], capture_output=True, text=True, timeout=120,
                          env={**os.environ, **stack.values})
    print(done.stdout, done.stderr)
    return done.returncode, done.stdout + done.stderr


def client(stack, program, *words, **streams):
    v = stack.values
    return subprocess.run([program, "--no-defaults", f"--host={v['DB_HOST']}", f"--port={v['DB_PORT']}",
                           "--protocol=tcp", f"--user={v['DB_USER_NAME']}", f"--password={v['DB_PASSWORD']}", *words,
                           v["DB_NAME"]], check=True, timeout=60, **streams)


def load(stack, dump):
    """In place of what is there, with all daemons stopped."""
    for name in DAEMONS:
        stack.stop(name)
    with open(dump, "rb") as f:
        client(stack, "mariadb", stdin=f)


def start(stack):
    for name in DAEMONS:
        stack.start(name)


def shown(stack):
    """What each daemon's metrics say of the mode."""
    return {name: Metrics.of(stack.url(name)).value("msg_restore_mode") for name in DAEMONS}


def published(stack):
    return Metrics.of(stack.url("outboxd-1")).sum("msg_outbox_published_total")


def states(stack):
    return dict(stack.db.rows(STATES))


@pytest.fixture
def backup(world, tmp_path):
    """(stack, customer, dump, taken, untaken): of twenty messages that are `pending` in the dump ten had been
    published and were delivered after it was made; the others never left the outbox."""
    stack, dump = world(**QUICK), tmp_path / "backup.sql"
    api = stack.api()
    customer = api.funded(100)
    stack.stop("consumerd-1")
    taken = [api.sent(customer, [recipient(n)])["message_identifier"] for n in range(10)]
    wait_until(lambda: published(stack) == 10, 30, "ten messages in the queue")
    stack.stop("outboxd-1")
    untaken = [api.sent(customer, [recipient(10 + n)])["message_identifier"] for n in range(10)]
    with open(dump, "wb") as f:
        f.write(stack.dump(stack.values["DB_NAME"], "--skip-add-locks"))
    stack.start("consumerd-1")
    wait_until(lambda: states(stack).get("done") == 10, 30, "ten are delivered after the backup")
    return stack, customer, dump, taken, untaken


def references(identifiers):
    return {f"{i}-0" for i in identifiers}


def test_resume_with_the_same_operators(backup):
    """Operator A has ten of them and refuses to take more: B, asked or not, must not deliver these."""
    stack, customer, dump, taken, untaken = backup
    load(stack, dump)
    assert states(stack) == {"pending": 20}
    code, text = restore_mode(stack, "on")
    assert code == 0 and "restore mode is on" in text
    stack.operator_a.faults(status=503, status_share=1)
    start(stack)
    wait_until(lambda: shown(stack) == dict.fromkeys(DAEMONS, 1), 10, "all daemons show the mode")
    for name in DAEMONS:
        assert stack.status(name) == 200
        assert requests.get(stack.url(name) + "/readyz", timeout=5).json()["mode"] == "restore"
    # What the repair puts into the outbox for the ten that are in no queue waits there, as do new ones.
    late = stack.api().sent(customer, [recipient(20)])["message_identifier"]
    wait_until(lambda: stack.db.value("SELECT COUNT(DISTINCT aggregate_id) FROM outbox_events") == 21, 30,
               "everything waits in the outbox")
    assert states(stack) == {"pending": 21}
    code, text = restore_mode(stack, "status")
    assert code == 0 and "restore mode: on since" in text and "open recipients: 21" in text

    code, text = restore_mode(stack, "resume")
    assert code == 0 and "asked about 20 open recipients" in text
    quiesce(stack)
    assert states(stack) == {"done": 21}
    assert {r["reference"] for r in stack.operator_a.ledger()} == references(taken)
    assert {r["reference"] for r in stack.operator_b.ledger()} == references([*untaken, late])
    assert accepted_by_both(stack) == set()
    lookups = Metrics.of(stack.url("consumerd-1"))
    assert lookups.value("msg_operator_lookups_total", operator="operatorA", result="found") == 10
    # A new message needs no question.
    assert lookups.value("msg_operator_lookups_total", operator="operatorB", result="not_found") == 10
    wait_until(lambda: shown(stack) == dict.fromkeys(DAEMONS, 0), 10, "the mode is off everywhere")
    # Found at A, B need not be asked; not found anywhere, nobody is in doubt.
    assert set(stack.db.rows("SELECT provider,unknown_operators FROM message_status")) \
        == {("operatorA", "operatorB"), ("operatorB", "")}
    assert audit(stack) == []


def test_on_again_counts_from_now(world):
    """A backup may have been made while the mode was on: what was delivered since is asked about, too."""
    stack = world("api", **QUICK)
    assert restore_mode(stack, "on")[0] == 0
    first = restore_mode(stack, "status")[1]
    late = stack.api().sent(stack.api().funded(10))["message_identifier"]
    assert restore_mode(stack, "on")[0] == 0
    assert restore_mode(stack, "status")[1].split("\n")[0] != first.split("\n")[0]
    code, text = restore_mode(stack, "resume")
    assert code == 0 and "asked about 1 open recipients" in text
    assert stack.db.value("SELECT unknown_operators FROM message_status WHERE message_identifier=%s", late) == "*"


def test_fail_with_new_operators(backup, world):
    """A second stack, whose operators know nothing: what is too old is refunded, the rest is delivered once."""
    first, customer, dump, taken, untaken = backup
    stack = world(**QUICK)
    load(stack, dump)
    stack.db.execute("UPDATE messages SET accepted_at=accepted_at-INTERVAL 2 HOUR WHERE message_identifier IN %s", taken)
    code, text = restore_mode(stack, "fail", "--older-than=1h")
    assert code == 1 and "restore mode is not on" in text
    assert restore_mode(stack, "on")[0] == 0
    before = stack.db.counts()
    code, text = restore_mode(stack, "fail", "--older-than=1h", "--dry-run")
    assert code == 0 and "dry run: 10 recipients of 10 messages" in text and "10 refunded" in text
    assert states(stack) == {"pending": 20} and stack.db.counts() == before
    code, text = restore_mode(stack, "fail", "--older-than=60m")
    assert code == 0 and text.startswith("10 recipients of 10 messages")
    assert states(stack) == {"pending": 10, "failed": 10} and stack.db.balance(customer) == 90
    assert restore_mode(stack, "fail", "--older-than=1h")[1].startswith("0 recipients")
    assert restore_mode(stack, "resume")[0] == 0
    start(stack)
    quiesce(stack)
    assert states(stack) == {"done": 10, "failed": 10}
    assert {r["reference"] for o in stack.operators for r in o.ledger()} == references(untaken)
    assert accepted_by_both(stack) == set()
    assert KeyedApi(stack.url("api-1"), first.key).balance(customer) == 90  # keys are the backup's, too
    assert audit(stack) == []


def test_fail_leaves_what_is_in_hand(world):
    """A consumer that lives may reach a recipient yet: it is not refunded under its hands."""
    stack = world(**QUICK)
    api = stack.api()
    customer = api.funded(10)
    stack.operator_a.faults(latency_ms=1500)
    api.sent(customer, ["0912"])
    wait_until(lambda: states(stack) == {"sending": 1}, 10, "it is under way")
    with stack.paused("consumerd-1"):
        stack.db.execute("UPDATE platform_modes SET is_on=1,since=NOW(6)")
        code, text = restore_mode(stack, "fail", "--older-than=0")
        assert code == 1 and "1 more are in the hands of consumers" in text
        assert states(stack) == {"sending": 1}
    restore_mode(stack, "off")
    quiesce(stack)
    assert audit(stack) == []


def test_no_endpoint_is_called_until_a_person_says_so(world, tmp_path):
    """Events of the backup that were delivered after it was made come again, under the same ids, when the mode is off."""
    dump = tmp_path / "backup.sql"
    with Receiver() as receiver:
        stack = world(**QUICK, WEBHOOK_ALLOW_PRIVATE="127.0.0.1", WEBHOOK_SCHEDULE_SEC="1,1,1,1,1,1,1,1,1,1")
        hooks = Hooks(stack.api(), stack.api().funded(100))
        hooks.create(receiver.url)
        wait_known(stack)
        receiver.answer(status=503)
        message = hooks.api.sent(hooks.customer, [recipient(n) for n in range(5)])["message_identifier"]
        hooks.api.wait_final(hooks.customer, message)
        receiver.wait_requests(1)
        stack.stop("consumerd-1")
        with open(dump, "wb") as f:
            f.write(stack.dump(stack.values["DB_NAME"], "--skip-add-locks"))
        receiver.heal()
        stack.start("consumerd-1")
        bodies = {e["id"]: e for e in receiver.wait_events(5)}
        load(stack, dump)
        assert restore_mode(stack, "on")[0] == 0
        before = len(receiver.requests)
        start(stack)
        # Everything is due by then; each look finds nothing.
        wait_until(lambda: Metrics.of(stack.url("consumerd-1")).sum("db_queries_total", query="webhook_find") >= 15, 20,
                   "fifteen looks, three of them at all that is due")
        late = hooks.api.sent(hooks.customer)["message_identifier"]
        assert len(receiver.requests) == before
        assert stack.db.value("SELECT COUNT(*) FROM webhook_events WHERE next_at<=NOW(6)") == 5
        assert Metrics.of(stack.url("consumerd-1")).value("msg_webhook_lag_seconds") == 0
        assert restore_mode(stack, "resume")[0] == 0
        again = {e["id"]: e for e in receiver.wait_events(5 + 5 + 1)[5:]}
        assert again.pop(f"{late}-0-done") and again == bodies
        # On while everything runs: who has the endpoint lets go of it.
        assert restore_mode(stack, "on")[0] == 0
        wait_until(lambda: not stack.db.value("SELECT COUNT(*) FROM webhooks WHERE owner<>0"), 10, "nobody has it")
        stack.db.execute("UPDATE webhook_events SET next_at=NOW(6),delivered_at=NULL")
        looks = Metrics.of(stack.url("consumerd-1")).sum("db_queries_total", query="webhook_find")
        wait_until(lambda: Metrics.of(stack.url("consumerd-1")).sum("db_queries_total", query="webhook_find") >= looks + 10,
                   20, "ten more looks")
        assert len(receiver.taken) == 11
        restore_mode(stack, "off")
        receiver.wait_events(17)


def test_on_and_off_while_everything_runs(world):
    """On returns when nothing is published or claimed any more; what is in hand comes to its end."""
    stack = world(**QUICK)
    api = stack.api()
    customer = api.funded(100)
    stack.stop("consumerd-1")
    for n in range(5):
        api.sent(customer, [recipient(n)])
    wait_until(lambda: published(stack) == 5, 30, "five in the queue")
    code, _ = restore_mode(stack, "on")
    assert code == 0
    api.sent(customer, [recipient(5)])
    stack.start("consumerd-1")
    # The consumer holds what the queue had, unclaimed.
    wait_until(lambda: stack.broker.ready(stack.broker.normal) == 0, 30, "the consumer has been sent all five")
    wait_until(lambda: stack.db.value("SELECT COALESCE(SUM(waiting_normal),0) FROM workers") == 5, 30,
               "and says that it holds them")
    code, text = restore_mode(stack, "on")  # with a consumer to confirm it
    assert code == 0 and "not confirmed" not in text
    assert states(stack) == {"pending": 6}
    assert stack.db.value("SELECT COUNT(*) FROM outbox_events") == 1
    assert sum(o.counts()["accepted"] for o in stack.operators) == 0
    assert "operators" in restore_mode(stack, "off")[1]
    quiesce(stack)
    assert states(stack) == {"done": 6}
    assert audit(stack) == []


def test_who_does_not_confirm_is_named(world):
    stack = world(**QUICK)
    with stack.paused("consumerd-1"):
        code, text = restore_mode(stack, "on")
    assert code == 1 and "not confirmed: consumer" in text
    assert "restore mode is on" in text


@pytest.mark.parametrize("words", [[], ["on", "now"], ["fail"], ["fail", "--older-than=soon"],
                                   ["fail", "--older-than=9x"], ["fail", "--older-than=99999999999"],
                                   ["resume", "--dry-run"], ["on", "--older-than=1h"], ["pause"]], ids=" ".join)
def test_usage(shared, words):
    code, text = restore_mode(shared, *words)
    assert code == 78 and "restore-mode" in text
