"""The checkers checked: rows changed by hand are named, every one."""

import time

from harness.audit import audit, quiesce

from .cases import case
from .check import Result, product_audit
from .load import Load
from .site import Site

PER_KIND = 4  # msg-api audit names at most twenty rows of a check


@case("tampering", "a tenth of the ledger tampered with by hand: `msg-api audit` names every row",
      short=True)
def tampering(run):
    title = "a tenth of the ledger tampered with by hand: `msg-api audit` names every row"
    result = Result("tampering", title, unit="rows")
    with Site("tamper", run.servers, replicas=1) as site:
        site.up()
        with Load(site, run.new_seed(), rate=60, customers=60, rejected_share=0.4) as load:
            time.sleep(3)
            load.end()
        quiesce(site.stack)
        site.told.wait(result)
        clean = product_audit(site.stack)[0] + audit(site.stack)
        if clean:
            result.violate("before anything was touched", *clean)
        result.messages = len(load.accepted)
        tampered = tamper(site.db, run.rng)
        result.repetitions = len(tampered)
        rows = site.db.value("SELECT COUNT(*) FROM user_transactions")
        result.notes.append(f"{len(tampered)} rows of {rows} in the ledger")
        sentences, code = product_audit(site.stack)
        if code != 1:
            result.violate(f"msg-api audit ended with {code}")
        said = "\n".join(sentences)
        for what, names in tampered:
            if not any(name in said for name in names):
                result.violate(f"msg-api audit is silent about {what}: {names[0]}")
        own = "\n".join(audit(site.stack))
        for what, names in tampered:
            if not any(name in own for name in names):
                result.violate(f"the suite's own audit is silent about {what}: {names[0]}")
    yield result


def tamper(db, rng):
    """[(what was done, the names one of which has to be said)]; no row is touched twice."""
    done = []
    failed = db.records("SELECT id, user_id, message_identifier m, position p FROM message_status"
                        " WHERE status='failed' ORDER BY id")
    delivered = db.records("SELECT id, user_id, message_identifier m, position p FROM message_status"
                           " WHERE status='done' AND delivery_refunded=0 ORDER BY id")
    rng.shuffle(failed)
    rng.shuffle(delivered)

    def take(rows):
        return [rows.pop() for _ in range(PER_KIND)]

    for r in take(failed):
        db.execute("DELETE FROM user_transactions WHERE transaction_id=%s", f"r-{r['m']}-{r['p']}")
        done.append(("a deleted refund", [f"{r['m']}-{r['p']}"]))
    for r in take(failed):
        db.execute("UPDATE user_transactions SET amount=amount+1 WHERE transaction_id=%s",
                   f"r-{r['m']}-{r['p']}")
        done.append(("a changed refund", [f"{r['m']}-{r['p']}"]))
    for r in take(delivered):
        db.execute("UPDATE user_transactions SET amount=amount+1 WHERE transaction_id=%s", f"c-{r['m']}")
        done.append(("a changed charge", [r["m"]]))
    for r in take(delivered):
        db.execute("DELETE FROM user_transactions WHERE transaction_id=%s", f"c-{r['m']}")
        done.append(("a deleted charge", [r["m"]]))
    for r in take(failed):
        name = f"r-{r['m']}-{int(r['p']) + 7}"
        db.execute("INSERT INTO user_transactions(user_id,amount,transaction_type,description,"
                   "transaction_id) SELECT user_id,amount,transaction_type,description,%s FROM"
                   " user_transactions WHERE transaction_id=%s", name, f"r-{r['m']}-{r['p']}")
        done.append(("a refund doubled under another id", [name]))
    for r in take(delivered):
        db.execute("DELETE FROM message_status WHERE id=%s", r["id"])
        done.append(("a deleted recipient", [r["m"]]))
    for r in take(delivered):
        db.execute("UPDATE message_status SET status='failed' WHERE id=%s", r["id"])
        done.append(("done turned into failed", [f"{r['m']}-{r['p']}"]))
    for r in take(failed):
        db.execute("UPDATE message_status SET status='done', provider='operatorA' WHERE id=%s", r["id"])
        done.append(("failed turned into done", [f"{r['m']}-{r['p']}"]))
    return done
