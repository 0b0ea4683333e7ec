"""A thousand messages with a bit of everything, and the auditor's own honesty. Short enough for
sanitizers and valgrind (make sanitize, make valgrind).
"""

import uuid

import pytest
from harness.audit import audit, quiesce
from harness.client import Load, recipient

REJECTED = "0999"


def test_a_thousand_messages(world):
    stack = world(DELIVERY_RETRY_WINDOW_SEC=120, DELIVERY_RETRY_BASE_MS=100,
                  DELIVERY_RETRY_MAX_MS=500, BREAKER_OPEN_MS=200)
    api = stack.api()
    customers = stack.db.seed_customers(100, 1000)
    for operator in stack.operators:
        operator.faults(reject_prefix=REJECTED, status=503, status_share=0.05, reset_share=0.02,
                        latency_max_ms=5, latency_ms=1)
    with Load([api], customers, 980, connections=8) as load:
        load.finish()
    key = uuid.uuid4().hex
    for n in range(20):
        api.sent(customers[n], [recipient(n), REJECTED + str(n)], key=key)
        assert api.sent(customers[n], [recipient(n), REJECTED + str(n)], key=key)
        assert api.top_up(customers[n], 5, key=key).status_code == 200
        assert api.send(customers[n], text="").status_code == 400
        assert api.get("/nothing").status_code == 404
    quiesce(stack, 300)
    for n in range(20):
        assert api.get("/balance", user_id=customers[n], limit=2).json()["next_cursor"]
        assert len(api.history(user_id=customers[n], status="failed")) == 1
    assert stack.db.rows("SELECT status, COUNT(*) FROM message_status GROUP BY status ORDER BY status"
                         ) == (("done", 1000), ("failed", 20))
    assert audit(stack) == []


@pytest.fixture(scope="module")
def settled(module_world):
    """A small platform at rest, with done and failed recipients."""
    stack = module_world()
    for operator in stack.operators:
        operator.faults(reject_prefix=REJECTED)
    api = stack.api()
    for customer in stack.db.seed_customers(3, 100):
        api.sent(customer, ["0912", REJECTED, "0913"], type="express")
    quiesce(stack)
    return stack


TAMPERING = {
    "money from nowhere": "UPDATE user_balances SET balance=balance+1 WHERE user_id=1",
    "a lost charge": "DELETE FROM user_transactions WHERE transaction_type='withdrawal' AND user_id=1",
    "a lost refund": "DELETE FROM user_transactions WHERE transaction_type='refund' AND user_id=1",
    "a refund too many": "INSERT INTO user_transactions(user_id,amount,transaction_type,transaction_id)"
                         " SELECT user_id,3,'refund',CONCAT('r-',message_identifier,'-0')"
                         " FROM message_status WHERE user_id=1 LIMIT 1",
    "done without an operator": "UPDATE message_status SET status='done',provider='operatorA'"
                                " WHERE status='failed' AND user_id=1",
    "refunded although done": "UPDATE message_status SET status='failed'"
                              " WHERE status='done' AND user_id=1 LIMIT 1",
    "stuck": "UPDATE message_status SET status='sending' WHERE user_id=2 LIMIT 1",
    "a lost recipient": "DELETE FROM message_status WHERE user_id=2 LIMIT 1",
    "a lost message": "DELETE FROM messages WHERE customer_id=2",
    "a foreign reference": "UPDATE message_status SET message_identifier=CONCAT(message_identifier,'x')"
                           " WHERE user_id=2",
    "a parked row": "INSERT INTO outbox_parked(id,aggregate_type,aggregate_id,event_type,payload,"
                    "priority,attempts,created_at) VALUES(1,'message','x','message.send','{}',0,10,NOW(6))",
}


@pytest.mark.parametrize("how", TAMPERING)
def test_the_audit_notices(settled, how):
    tables = ("user_balances", "user_transactions", "messages", "message_status", "outbox_parked")
    assert audit(settled) == []
    settled.stop("outboxd-1")
    settled.stop("consumerd-1")
    db = settled.db
    for table in tables:
        db.execute(f"CREATE TABLE saved_{table} AS SELECT * FROM {table}")
    try:
        assert db.execute(TAMPERING[how]) >= 1
        assert audit(settled), how
    finally:
        for table in tables:
            db.execute(f"DELETE FROM {table}")
            db.execute(f"INSERT INTO {table} SELECT * FROM saved_{table}")
            db.execute(f"DROP TABLE saved_{table}")
