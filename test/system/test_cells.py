"""Customers who move between two cells: whatever goes on meanwhile, whatever is killed when, nothing is lost or charged
twice, and the balance is what it was, to the unit."""

import re
import threading
import time

import pytest

from harness.audit import audit, quiesce
from harness.carrier import Carrier
from harness.cells import Cells, digest
from harness.client import assert_error, new_customer, recipient
from harness.fronts import HAPROXY
from harness.receipts import KEY, SIGNING, SIMULATED, Bringer
from harness.receipts import section as receipts_section
from harness.receiver import Hooks, Receiver
from harness.simulator import Sim
from harness.wait import wait_until

STEPS = ["arriving", "copied", "leaving", "handed", "frozen", "proved", "switched", "moved", "taken_in"]
MOVED, ARRIVED = 4, 6

# A carrier that echoes the address that it is given, with our signed reference.
CARRIER = """kind = http
header = Content-Type: application/json
body = {"reference":"%{reference}","to":"%{to}","text":"%{text:json}","type":"%{type}","receipt_url":"%{receipt_url:json}"}
accepted = status == 200 and json:status == accepted
id = json:id
parts = json:parts
lookup.found = status == 200
repeat_is_safe = true
"""


def section(sim):
    return (f"[{sim.name}]\n{CARRIER}url = {sim.url}/messages\nlookup.url = {sim.url}/messages/%{{reference}}\n"
            f"receipt.signature_key = {SIGNING}\n{SIMULATED}")


@pytest.fixture
def cells(world, tmp_path):
    """make(**settings) -> Cells"""
    made = []

    def make(**settings):
        made.append(Cells(world, tmp_path, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def money(cells, cell, customer):
    """(balance, sum of the ledger) as a cell's database has it."""
    db = cells.stacks[cell].db
    return (db.value("SELECT balance FROM user_balances WHERE user_id=%s", customer),
            int(db.value("SELECT COALESCE(SUM(amount),0) FROM user_transactions WHERE user_id=%s", customer)))


def frozen(cells, cell, customer):
    """All that the fence keeps as it is."""
    db = cells.stacks[cell].db
    return [db.rows(sql, customer) for sql in (
        "SELECT balance, fence FROM user_balances WHERE user_id=%s",
        "SELECT id, amount, transaction_id FROM user_transactions WHERE user_id=%s ORDER BY id",
        "SELECT id, status, delivery, attempt, provider FROM message_status WHERE user_id=%s ORDER BY id",
        "SELECT hash, revoked_at FROM api_keys WHERE customer_id=%s ORDER BY id")]


def hold(sims, on):
    for sim in sims:
        if on:
            sim.faults(status=503, status_share=1)
        else:
            sim.heal()


@pytest.mark.skipif(not HAPROXY, reason="HAProxy is not installed (test/deps)")
def test_a_customer_moves_under_load(cells, tmp_path):
    """With receipts that come after the move for what was sent before it, an endpoint, other customers in both cells,
    and clients that know nothing of cells."""
    sim = Sim("operatorA", SIM_RECEIPT_KEY=SIGNING)
    try:
        file = tmp_path / "operators.ini"
        file.write_text(section(sim))
        two = cells(carriers=[sim], OPERATORS_FILE=file, RECEIPT_REFERENCE_KEY=KEY, WEBHOOK_ALLOW_PRIVATE="127.0.0.1",
                    WEBHOOK_SCHEDULE_SEC="1,2,2,2,2")
        two.open()
        # Receipts come seconds later: those of messages before the move come when it is over, to the old cell.
        sim.receipts(delivered_share=0.8, delay_max_ms=40000)
        customer, other = new_customer(), new_customer()
        key, stays = two.key("a", customer=customer), two.key("a", customer=other)
        strangers = two.key("b", customer=other)
        with Receiver() as receiver:
            run(two, sim, receiver, customer, other, key, stays, strangers)
    finally:
        sim.stop()


class Steady:
    """Clients that send one message after another, each with a key with which it is repeated until it is accepted."""

    def __init__(self, api, customer, clients):
        self.api, self.customer = api, customer
        self.accepted, self.refused, self.waits = {}, [], []
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self.work, args=(i,)) for i in range(clients)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def send(self, name):
        client, _, n = name.partition("-")
        return self.api.send(self.customer, [recipient(int(client) * 1000000 + int(n))], key=name,
                             type="express" if int(n) % 5 == 0 else "normal")

    def work(self, client):
        n = 0
        while not self.stop.is_set():
            n += 1
            name, start, again = f"{client}-{n}", time.monotonic(), 0
            while (answer := self.send(name)).status_code == 503:
                again += 1
                time.sleep(0.05)
            if answer.status_code == 200:
                self.accepted[name] = answer.json()["message_identifier"]
            else:
                self.refused.append((answer.status_code, answer.text))
            self.waits.append((time.monotonic() - start, again))
            time.sleep(0.05)

    def wait(self, n):
        wait_until(lambda: len(self.accepted) >= n, 120, lambda: f"{n} accepted, have {len(self.accepted)}, {self.refused}")


def run(two, sim, receiver, customer, other, key, stays, strangers):
    api = two.api(key)
    assert api.top_up(customer, 100000).status_code == 200
    for each in (stays, strangers):
        assert two.api(each).top_up(other, 1000).status_code == 200
    hook = Hooks(api, customer).create(receiver.url)
    wait_until(lambda: api.sent(customer) and receiver.events, 20, "the endpoint is called")
    with Steady(api, customer, 4) as load, Steady(two.api(stays), other, 1) as beside:
        load.wait(300)
        start = time.monotonic()
        done = two.move(customer)
        two.update_maps()
        took = time.monotonic() - start
        print(done.stdout)
        load.wait(len(load.accepted) + 200)
    assert not load.refused and not beside.refused, (load.refused[:3], beside.refused[:3])
    away = max(load.waits)
    print(f"with its load the move took {took:.1f} s; {len(load.accepted)} sends were accepted; the longest that one waited, "
          f"from its first try to its answer: {away[0]:.2f} s ({away[1]} answers of 503)")
    said = re.search(r"away for ([\d.]+) s", done.stdout)
    assert said and float(said[1]) < 10, done.stdout
    assert away[0] < 15 and away[1] > 0
    assert max(beside.waits)[1] == 0  # who stays notices nothing

    # The new cell has it all, and the old one has kept what it had.
    assert (two.state("a", customer), two.state("b", customer)) == (MOVED, ARRIVED)
    before = frozen(two, "a", customer)
    for stack in (two.a, two.b):
        quiesce(stack)
    sent = {identifier: position for identifier, position in two.b.db.rows(
        "SELECT message_identifier, position FROM message_status WHERE user_id=%s", customer)}
    assert set(load.accepted.values()) <= set(sent)
    ledger = {name for (name,) in two.b.db.rows("SELECT transaction_id FROM user_transactions WHERE user_id=%s", customer)}
    assert {f"c-{m}" for m in sent} == {name for name in ledger if name.startswith("c-")}
    balance, total = money(two, "b", customer)
    states = dict(two.b.db.rows("SELECT status, COUNT(*) FROM message_status WHERE user_id=%s GROUP BY status", customer))
    assert set(states) == {"done"}, states
    prices = int(two.b.db.value("SELECT SUM(price) FROM message_status WHERE user_id=%s", customer))
    assert balance == total == 100000 - prices
    assert api.balance(customer) == balance

    # Each was sent once, whichever cell sent it.
    references = [entry["reference"].split(".")[0] for entry in sim.ledger()]
    assert len(references) == len(set(references))
    assert {f"{m}-0" for m in sent} <= set(references)

    # What the simulator said of each has come to the new cell, though half of it was said to the old one.
    assert sim.settled(90)["given_up"] == 0
    told = {entry["reference"].split(".")[0]: entry["receipt"] for entry in sim.ledger()}

    def deliveries():
        return {f"{m}-0": {2: "delivered", 3: "undelivered"}.get(delivery) for m, delivery in two.b.db.rows(
            "SELECT message_identifier, delivery FROM message_status WHERE user_id=%s", customer)}

    wait_until(lambda: None not in deliveries().values(), 60, lambda: f"receipts: {list(deliveries().values()).count(None)}")
    assert deliveries() == {reference: told[reference] for reference in deliveries()}
    assert two.a.api().metrics().sum("msg_receipts_handed_on_total") > 0
    assert frozen(two, "a", customer) == before

    # The endpoint was told of each, by one cell or the other; of the first ones nobody knew yet that there is one.
    known = {f"{m}-0" for m in load.accepted.values()}
    wanted = {f"{r}-done" for r in known} | {f"{r}-{word}" for r, word in deliveries().items() if r in known}

    def missing():
        return wanted - {e["id"] for e in receiver.events}

    wait_until(lambda: not missing(), 60, lambda: [(name, [(cell, two.stacks[cell].db.records(
        "SELECT * FROM webhook_events WHERE subject LIKE %s", name[:38] + "%")) for cell in ("a", "b")])
        for name in sorted(missing())[:3]])
    shown = Hooks(api, customer).show(hook)
    assert shown["id"] == hook["id"] and not shown.get("disabled_for")

    # A key used before the move, and one used during it, mean what they meant.
    for name in list(load.accepted)[:5] + list(load.accepted)[-5:]:
        assert_error(api.send(customer, text="another body", key=name), 422, "idempotency_key_reused")
    again = load.send("0-1")
    assert again.status_code == 200 and again.json()["message_identifier"] == load.accepted["0-1"]
    assert again.status_code == 200 and again.headers["Idempotency-Replayed"] == "true"
    assert api.balance(customer) == balance

    # Asked directly, the old cell says where the customer is; its neighbours notice nothing.
    directly = two.a.api()
    directly.headers = {"Authorization": f"Bearer {key}"}
    for answer in (directly.send(customer), directly.top_up(customer, 1), directly.get("/balance", user_id=customer),
                   directly.get("/messages/history", user_id=customer), directly.get("/webhooks", user_id=customer)):
        assert_error(answer, 421, "customer_moved")
        assert answer.headers["X-Cell"] == "b"
    assert two.api(stays).balance(other) == 1000 - prices_of(two.a, other)
    assert two.api(strangers).balance(other) == 1000
    assert two.api(two.key("b", customer=customer)).balance(customer) == balance
    for cell in ("a", "b"):
        assert "\n0 violations" in two.verb(cell, "audit").stdout
    assert frozen(two, "a", customer) == before
    assert two.move(customer).returncode == 0  # changes nothing
    assert frozen(two, "a", customer) == before


def prices_of(stack, customer):
    return int(stack.db.value("SELECT SUM(price) FROM message_status WHERE user_id=%s", customer))


@pytest.fixture
def pair(cells):
    """Cells whose operators can be away for long without a message failing."""
    return cells(DELIVERY_RETRY_WINDOW_SEC=600)


class Keyed:
    """A cell's API, asked directly, with a key for everybody."""

    def __init__(self, two):
        self.apis = {name: two.a.api() for name in ("a", "b")}
        for name, stack in two.stacks.items():
            self.apis[name] = stack.api()
            self.apis[name].headers = {"Authorization": f"Bearer {two.key(name)}"}

    def __getitem__(self, cell):
        return self.apis[cell]


def history_of(two, api, cell, n=5, still_open=4):
    """A customer with something done, and something that cannot be sent now."""
    customer = api.funded(1000)
    for i in range(n):
        api.wait_final(customer, api.sent(customer, [recipient(i)], key=f"done-{i}")["message_identifier"])
    hold(two.stacks[cell].operators, True)
    for i in range(still_open):
        api.sent(customer, [recipient(i), recipient(100 + i)], key=f"open-{i}", type=["normal", "express"][i % 2])
    return customer


def all_done(two, cell, customer):
    db = two.stacks[cell].db
    wait_until(lambda: not db.value("SELECT COUNT(*) FROM message_status WHERE user_id=%s AND status<>'done'", customer),
               60, lambda: db.rows("SELECT message_identifier, status, last_error FROM message_status WHERE user_id=%s "
                                   "AND status<>'done'", customer))


def accepted(stack):
    return [entry["reference"] for operator in stack.operators for entry in operator.ledger()]


def test_killed_at_each_step_it_ends_right(pair):
    """kill -9, and the same again. What was open wakes in the other cell, and is sent once."""
    two, keyed, customers = pair, Keyed(pair), {}
    for step in STEPS:
        hold(two.a.operators, False)
        customers[step] = customer = history_of(two, keyed["a"], "a")
        assert two.move(customer, code=None, MSG_FAILPOINT=f"move.{step}:kill").returncode == -9, step
        if step in ("leaving", "handed", "frozen", "proved", "switched"):
            wait_until(lambda c=customer: keyed["a"].send(c).status_code in (421, 503), 5, "the old cell refuses")
        if step in ("arriving", "copied"):
            assert keyed["a"].sent(customer, key="meanwhile")
        two.move(customer)
        assert (two.state("a", customer), two.state("b", customer)) == (MOVED, ARRIVED), step
    hold(two.a.operators, False)
    before = {step: frozen(two, "a", customer) for step, customer in customers.items()}
    for step, customer in customers.items():
        all_done(two, "b", customer)
        sent = 14 if step in ("arriving", "copied") else 13
        assert money(two, "b", customer) == (1000 - prices_of(two.b, customer),) * 2, step
        assert two.b.db.value("SELECT COUNT(*) FROM message_status WHERE user_id=%s", customer) == sent, step
        again = keyed["b"].send(customer, [recipient(0), recipient(100)], key="open-0")
        assert again.headers["Idempotency-Replayed"] == "true", (step, again.text)
        assert_error(keyed["a"].send(customer, key="open-0"), 421, "customer_moved")
        assert money(two, "b", customer) == (1000 - prices_of(two.b, customer),) * 2, step
    quiesce(two.a)
    quiesce(two.b)
    assert {step: frozen(two, "a", customer) for step, customer in customers.items()} == before
    references = accepted(two.a) + accepted(two.b)
    assert len(references) == len(set(references))
    for cell in ("a", "b"):
        assert "\n0 violations" in two.verb(cell, "audit", "--quiesced").stdout


def test_taken_back_it_has_not_happened(pair):
    two, keyed = pair, Keyed(pair)
    customer = history_of(two, keyed["a"], "a")
    assert two.move(customer, code=None, MSG_FAILPOINT="move.proved:kill").returncode == -9
    wait_until(lambda: keyed["a"].send(customer).status_code == 503, 5, "the old cell refuses")
    assert_error(keyed["a"].top_up(customer, 1), 503, "customer_moving")
    assert_error(keyed["b"].send(customer), 503, "customer_moving")
    assert keyed["a"].balance(customer) == 1000 - prices_of(two.a, customer)
    refused = two.verb("a", "key", "create", "--label=x", "--scopes=send", f"--customer={customer}", code=1)
    assert "moves, or has moved, to cell b" in refused.stderr
    two.verb("a", "customer", "abort", str(customer))
    hold(two.a.operators, False)
    wait_until(lambda: keyed["a"].send(customer, key="after").status_code == 200, 5, "the customer is served")
    all_done(two, "a", customer)
    quiesce(two.a)
    assert audit(two.a) == []
    assert money(two, "a", customer) == (1000 - prices_of(two.a, customer),) * 2
    # And once more, to the end, over what the first try has left there.
    two.move(customer)
    wait_until(lambda: keyed["b"].send(customer, key="after").status_code == 200, 5, "the new cell serves")
    assert keyed["b"].balance(customer) == 1000 - prices_of(two.b, customer)
    assert_error(keyed["a"].send(customer), 421, "customer_moved")
    assert "lives in cell b" in two.verb("a", "customer", "abort", str(customer), code=1).stderr


def test_there_and_back(pair):
    two, keyed = pair, Keyed(pair)
    customer = history_of(two, keyed["a"], "a", still_open=0)
    two.a.operator_a.heal()
    two.move(customer)
    api = keyed["b"]
    wait_until(lambda: api.send(customer, key="there").status_code == 200, 5, "the new cell serves")
    all_done(two, "b", customer)
    two.move(customer, here="b", there="a")
    assert (two.state("b", customer), two.state("a", customer)) == (MOVED, ARRIVED)
    hold(two.a.operators, False)
    wait_until(lambda: keyed["a"].send(customer, key="back").status_code == 200, 5, "the old cell serves again")
    all_done(two, "a", customer)
    assert money(two, "a", customer) == (1000 - 7,) * 2
    assert keyed["a"].send(customer, key="there").headers["Idempotency-Replayed"] == "true"
    assert two.verb("a", "customer", "map", "customers").stdout == ""
    for cell in ("a", "b"):
        quiesce(two.stacks[cell])
        assert "\n0 violations" in two.verb(cell, "audit", "--quiesced").stdout


def test_what_nobody_knows_stops_the_move(pair):
    """The schema as it is moves whole; a table or a column that the move does not know lets nobody go."""
    two, keyed = pair, Keyed(pair)
    customer = keyed["a"].funded(10)
    assert "nothing was written" in two.verb("a", "customer", "move", str(customer), "--to=b", "--dry-run").stdout
    for change, back in (("ALTER TABLE webhooks ADD COLUMN colour INT NULL", "ALTER TABLE webhooks DROP COLUMN colour"),
                         ("CREATE TABLE customers_hats (customer_id BIGINT)", "DROP TABLE customers_hats")):
        two.a.db.execute(change)
        refused = two.move(customer, code=1)
        assert re.search(r"webhooks\.colour|customers_hats", refused.stderr), refused.stderr
        two.a.db.execute(back)
    assert two.state("a", customer) == two.state("b", customer) == 0
    assert keyed["a"].sent(customer)
    # Nor onto a customer that the other cell has of its own.
    assert keyed["b"].top_up(customer, 5).status_code == 200
    assert "of its own" in two.move(customer, code=1).stderr
    assert keyed["b"].balance(customer) == 5


def test_receipts_wait_for_a_cell_that_is_away(cells, tmp_path):
    """What is told to the old cell is stored there, and comes to the new one when that can be reached."""
    with Carrier("operatorA") as carrier:
        file = tmp_path / "operators.ini"
        file.write_text(receipts_section(carrier.name, carrier.url))
        two = cells(carriers=[carrier], OPERATORS_FILE=file, RECEIPT_REFERENCE_KEY=KEY, REFUND_UNDELIVERED="on")
        keyed = Keyed(two)
        customer = keyed["a"].funded(10)
        message = keyed["a"].sent(customer, [recipient(i) for i in range(3)])["message_identifier"]
        keyed["a"].wait_final(customer, message)
        two.move(customer)
        reach = two.folder / "b.env"
        right = reach.read_text()
        reach.write_text(re.sub("DB_PORT=.*", "DB_PORT=1", right))
        bring = Bringer(two.a.url("api-1"), "operatorA")
        before = frozen(two, "a", customer)
        for position, status in enumerate(("delivered", "undelivered")):
            bring.tell(status, message, position)
        metrics = two.a.api().metrics
        wait_until(lambda: metrics().sum("msg_receipts_hand_on_failures_total") >= 1, 30, "it has been tried")
        wait_until(lambda: metrics().value("msg_receipts_moved") == 2, 20, "both wait")
        reach.write_text(right)
        wait_until(lambda: metrics().value("msg_receipts_moved") == 0, 30, "both are handed on")

        def told():
            return [d for (d,) in two.b.db.rows("SELECT delivery FROM message_status WHERE user_id=%s ORDER BY position",
                                                customer)]

        wait_until(lambda: told() == [2, 3, 1], 20, lambda: f"the new cell knows: {told()}")
        # Refunded there, once, and not here.
        assert money(two, "b", customer) == (8, 8)
        assert frozen(two, "a", customer) == before
        assert metrics().sum("msg_receipts_handed_on_total") == 2


def test_a_customers_map_names_keys_and_customers(pair):
    two = pair
    customer = new_customer()
    key = two.key("a", customer=customer)
    api = two.a.api()
    api.headers = {"Authorization": f"Bearer {key}"}
    assert api.top_up(customer, 10).status_code == 200
    two.move(customer)
    assert two.verb("a", "customer", "map", "keys").stdout == f"{digest(key)} b\n"
    assert two.verb("a", "customer", "map", "customers").stdout == f"{customer} b\n"
    assert re.search(rf"^{customer} +moved +b ", two.verb("a", "customer", "status").stdout, re.MULTILINE)
    assert re.search(rf"^{customer} +arrived +a ", two.verb("b", "customer", "status").stdout, re.MULTILINE)
