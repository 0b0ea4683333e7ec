"""The invariants, checked from the database and the simulators' ledgers, the database first: what an
operator accepts meanwhile is then too much knowledge, never too little.
"""

from collections import Counter, defaultdict

from .wait import wait_until


def quiesce(stack, deadline=60):
    """Waits until every accepted message is final and the outbox and the queues are empty."""
    state = {}

    def quiet():
        db, broker = stack.db, stack.broker
        state.update(
            open=db.value("SELECT COUNT(*) FROM message_status WHERE status IN ('pending','sending')"),
            outbox=db.value("SELECT COUNT(*) FROM outbox_events"),
            express=broker.depth(broker.express), normal=broker.depth(broker.normal))
        return not any(state.values())

    def what():
        db = stack.db
        rows = db.records("SELECT id, aggregate_id, event_type, lane, attempts, next_run_at, last_error,"
                          " created_at, NOW(6) AS now FROM outbox_events LIMIT 3")
        open_ones = db.records("SELECT * FROM message_status WHERE status IN ('pending','sending')"
                               " LIMIT 3")
        workers = db.records("SELECT * FROM workers")
        return "\n".join([f"all final, outbox and queues empty: {state}", "outbox:", *map(str, rows),
                          "not final:", *map(str, open_ones), "workers:", *map(str, workers)])

    wait_until(quiet, deadline, what, pause=0.1)


def audit(stack, parked=0, dead=0):
    """Returns the violations as sentences; none when all is well. After quiesce()."""
    faults = []
    db = stack.db
    balances = dict(db.rows("SELECT user_id, balance FROM user_balances"))
    ledger = db.rows("SELECT user_id, amount, transaction_type, transaction_id FROM user_transactions")
    messages = {m["message_identifier"]: m for m in db.records("SELECT * FROM messages")}
    recipients = db.records("SELECT * FROM message_status")
    outbox = db.value("SELECT COUNT(*) FROM outbox_events")
    found_parked = db.value("SELECT COUNT(*) FROM outbox_parked")
    broker = stack.broker
    queues = {name: broker.ready(name) or 0 for name in (broker.express, broker.normal)}
    found_dead = broker.ready(broker.dead) or 0
    accepted = {operator.name: accepted_references(operator, faults) for operator in stack.operators}

    faults += _check_sums(balances, ledger, recipients)
    faults += _check_charges(messages, recipients, ledger)
    faults += _check_refunds(recipients, ledger)
    faults += _check_operators(recipients, accepted)
    states = Counter(r["status"] for r in recipients)
    if set(states) - {"done", "failed"}:
        faults.append(f"recipients not final: {dict(states)}")
    if outbox:
        faults.append(f"{outbox} rows left in the outbox")
    if any(queues.values()):
        faults.append(f"messages left in the queues: {queues}")
    if found_parked != parked:
        faults.append(f"{found_parked} parked rows, {parked} expected")
    if found_dead != dead:
        faults.append(f"{found_dead} dead letters, {dead} expected")
    return faults


def take_ghosts(stack):
    """Takes dead letters of messages that the database did not know when they were to be claimed. A
    database that is killed may have shown a commit to the outbox's reader before it was on disk: what
    was published of it cannot be claimed. The client was not answered; msg-api commits it again under
    the same identifier, or its client sends another. What is accepted is checked by who calls. Returns
    how many they were.
    """
    return len(stack.broker.take(stack.broker.dead))


def accepted_references(operator, faults):
    """{reference: entry}; a reference is accepted once however often it came."""
    entries = operator.ledger()
    references = {e["reference"]: e for e in entries}
    if len(references) != len(entries):
        faults.append(f"{operator.name} accepted a reference twice")
    if len({e["id"] for e in entries}) != len(entries):
        faults.append(f"{operator.name} gave one id to two references")
    return references


def _check_sums(balances, ledger, recipients):
    sums = defaultdict(int)
    deposits = 0
    for user, amount, kind, _ in ledger:
        sums[user] += amount
        deposits += amount if kind == "deposit" else 0
    for user in sorted(set(balances) | set(sums)):
        balance = balances.get(user, 0)
        if balance != sums[user]:
            yield f"customer {user}: balance {balance}, ledger {sums[user]}"
        if balance < 0:
            yield f"customer {user}: balance {balance}"
    kept = sum(r["price"] for r in recipients if r["status"] != "failed" and not r["delivery_refunded"])
    if deposits != sum(balances.values()) + kept:
        yield f"deposits {deposits} are not balances {sum(balances.values())} + charged {kept}"


def _check_charges(messages, recipients, ledger):
    charges = {t: (user, amount) for user, amount, kind, t in ledger if kind == "withdrawal"}
    of_message = defaultdict(list)
    for r in recipients:
        of_message[r["message_identifier"]].append(r)
    for identifier in set(of_message) - set(messages):
        yield f"recipients without a message: {identifier}"
    for identifier, message in messages.items():
        rows = of_message[identifier]
        if len(rows) != message["recipients"]:
            yield f"{identifier}: {len(rows)} recipients, {message['recipients']} accepted"
        if sorted(r["position"] for r in rows) != list(range(len(rows))):
            yield f"{identifier}: positions are not 0…{len(rows) - 1}"
        if any(r["price"] != message["price"] or r["user_id"] != message["customer_id"]
               or r["type"] != message["type"] for r in rows):
            yield f"{identifier}: recipients differ from their message"
        charge = charges.pop(f"c-{identifier}", None)
        expected = (message["customer_id"], -message["price"] * message["recipients"])
        if charge != expected:
            yield f"{identifier}: charge {charge}, expected {expected}"
    for transaction in charges:
        yield f"charge without a message: {transaction}"


def _check_refunds(recipients, ledger):
    refunds = {t: (user, amount) for user, amount, kind, t in ledger if kind == "refund"}
    for r in recipients:
        transaction = f"r-{r['message_identifier']}-{r['position']}"
        refund = refunds.pop(transaction, None)
        given_back = r["status"] == "failed" or r["delivery_refunded"]
        expected = (r["user_id"], r["price"]) if given_back else None
        if refund != expected:
            yield f"{transaction}: status {r['status']}, refund {refund}, expected {expected}"
    for transaction in refunds:
        yield f"refund without a recipient: {transaction}"


def _check_operators(recipients, accepted):
    known = set()
    for r in recipients:
        reference = f"{r['message_identifier']}-{r['position']}"
        known.add(reference)
        by = [name for name, entries in accepted.items() if reference in entries]
        if r["status"] == "done":
            if r["provider"] not in by:
                yield f"{reference}: done by {r['provider']!r}, accepted by {by}"
            elif r["provider_message_id"] != accepted[r["provider"]][reference]["id"]:
                yield f"{reference}: the provider's id differs"
        for name in by:
            if accepted[name][reference]["to"] != r["recipient"]:
                yield f"{reference}: {name} was given another recipient"
    for name, entries in accepted.items():
        for reference in set(entries) - known:
            yield f"{name} accepted {reference}, which nobody sent"


def accepted_by_both(stack):
    """References that more than one operator has; legitimate only where an answer was unknown."""
    a, b = (set(accepted_references(o, [])) for o in stack.operators)
    return a & b
