"""What nobody needs any more is deleted, by one replica at a time, and keeps up with what comes."""

import json

from harness.metrics import Metrics
from harness.wait import wait_until
from harness.witness import numbers

OLD_KEYS = ("INSERT INTO idempotency_keys(customer_id,route,idem_key,body_hash,response,created_at)"
            " SELECT 1,1,CONCAT('{name}-',seq),REPEAT('h',32),'',NOW(6)-INTERVAL {hours} HOUR FROM {numbers}")


def cleaned(stack, task, *daemons):
    return sum(Metrics.of(stack.url(d)).sum("msg_cleaned_rows_total", task=task) for d in daemons)


def keys(stack):
    return stack.db.value("SELECT COUNT(*) FROM idempotency_keys")


def test_old_keys_go_faster_than_they_come(world):
    """A turn every 10 s takes far more than the 10,000 keys that come meanwhile at 1,000/s."""
    stack = world("api", replicas=2)
    stack.db.execute(OLD_KEYS.format(name="old", hours=25, numbers=numbers(23456)))
    stack.db.execute(OLD_KEYS.format(name="fresh", hours=23, numbers=numbers(7)))
    wait_until(lambda: keys(stack) == 7, 25, "the old keys to be gone")
    assert cleaned(stack, "idempotency_keys", "api-1", "api-2") == 23456


def test_a_failure_is_told_once_and_got_over(world):
    stack = world("api")

    def failures():
        lines = [json.loads(l) for l in stack.log_text("api-1").splitlines() if "janitor.failed" in l]
        return [l for l in lines if l["task"] == "idempotency_keys"]

    def tries():
        return Metrics.of(stack.url("api-1")).sum("db_queries_total", query="idempotency_keys", result="error")

    stack.db.execute("RENAME TABLE idempotency_keys TO keys_elsewhere")
    wait_until(lambda: tries() >= 2, 25, "two turns that fail")
    stack.db.execute("RENAME TABLE keys_elsewhere TO idempotency_keys")
    stack.db.execute(OLD_KEYS.format(name="old", hours=25, numbers=numbers(3)))
    wait_until(lambda: keys(stack) == 0, 15, "the next turn")
    assert len(failures()) == 1, failures()


def test_rows_of_dead_consumers_go(world):
    stack = world("api")
    wait_until(lambda: "workers" in stack.db.tables(), 15)
    stack.db.execute("INSERT INTO workers(name,heartbeat_at) VALUES ('dead',NOW(6)-INTERVAL 25 HOUR),"
                     "('silent',NOW(6)-INTERVAL 23 HOUR)")
    stack.up("consumerd")
    wait_until(lambda: stack.db.value("SELECT COUNT(*) FROM workers WHERE name='dead'") == 0, 15)
    assert stack.db.value("SELECT COUNT(*) FROM workers WHERE name='silent'") == 1
    assert cleaned(stack, "workers", "consumerd-1") == 1


def test_an_endpoint_that_was_removed_stays_for_as_long_as_its_events(world):
    """Whoever looks at a message finds who was told, and no event is anybody's."""
    stack = world("api")
    wait_until(lambda: "webhooks" in stack.db.tables(), 15)
    stack.db.execute("INSERT INTO webhooks(id,customer_id,url,kinds,secret,deleted_at) SELECT seq,1,'http://x/',31,'',"
                     f"NOW(6)-INTERVAL 31 DAY FROM {numbers(2)}")
    stack.db.execute("INSERT INTO webhook_events(webhook_id,subject,kind,data) VALUES (2,'m-0',0,'{}')")
    stack.up("consumerd")
    wait_until(lambda: stack.db.value("SELECT COUNT(*) FROM webhooks WHERE id=1") == 0, 15)
    assert stack.db.value("SELECT COUNT(*) FROM webhooks WHERE id=2") == 1
    assert cleaned(stack, "webhooks", "consumerd-1") == 1
