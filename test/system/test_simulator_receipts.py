"""The simulator's receipts, as whoever receives them sees them."""

import time
from collections import Counter, defaultdict

import pytest
from harness.taker import Taker
from harness.simulator import Sim as Simulator
from harness.wait import wait_until

KEY = "the key of the receipts"
MESSAGES = 120


def Sim(**settings):
    return Simulator("operatorA", SIM_RECEIPT_KEY=KEY, **settings)


@pytest.fixture
def sim():
    made = Sim()
    yield made
    assert made.server.process.poll() is None
    assert made.stop() == 0


@pytest.fixture
def receiver():
    with Taker() as made:
        yield made


def finals(receiver):
    """{reference: [status]} of those that end it."""
    found = defaultdict(list)
    for _, receipt in receiver.receipts():
        if receipt["status"] != "sent":
            found[receipt["reference"]].append(receipt["status"])
    return found


@pytest.mark.parametrize("form, method", [("json", "POST"), ("form", "POST"), ("query", "GET")])
def test_every_message_has_its_receipt_signed(sim, receiver, form, method):
    sim.receipts(url=receiver.url + "/receipts?from=sim", form=form, delivered_share=0.7)
    ids = sim.send_all(MESSAGES)
    counts = sim.settled()
    assert counts["taken"] == MESSAGES and counts["dropped"] == counts["given_up"] == 0
    for request, receipt in receiver.receipts():
        assert request.method == method and request.path == "/receipts" and request.query.startswith("from=sim")
        assert request.signed_by(KEY)
        assert receipt["id"] == ids[receipt["reference"]]
        assert (receipt["status"] == "delivered") == (receipt["code"] == "0")
    said = finals(receiver)
    assert set(said) == set(ids) and all(len(statuses) == 1 for statuses in said.values())
    delivered = {r for r, (status,) in said.items() if status == "delivered"}
    assert 60 < len(delivered) < 108
    assert sim.said() == {r: "delivered" if r in delivered else "undelivered" for r in ids}
    assert sim.server.metric("sim_receipts_total") == MESSAGES


def test_the_same_seed_says_the_same(receiver):
    seen = []
    for seed in (7, 7, 8):
        sim = Sim(SIM_SEED=seed)
        sim.receipts(url=receiver.url, delivered_share=0.5, silent_share=0.1)
        sim.send_all(MESSAGES)
        sim.settled()
        seen.append(sim.said())
        assert sim.stop() == 0
    assert seen[0] == seen[1] != seen[2]
    assert set(seen[0].values()) == {"delivered", "undelivered", None}


@pytest.mark.parametrize("answer, receipt, same", [
    ("text", "text", lambda a, r: a == r and a.startswith("operatorA-")),
    ("decimal", "hex", lambda a, r: int(a) == int(r, 16)),
    ("hex", "decimal", lambda a, r: int(a, 16) == int(r)),
    ("decimal", "decimal_zeros", lambda a, r: int(a) == int(r) and len(r) == 20 and a != r),
    ("hex", "hex_zeros", lambda a, r: int(a, 16) == int(r, 16) and len(r) == 20 and a != r),
])
def test_ids_are_written_as_carriers_do(sim, receiver, answer, receipt, same):
    sim.receipts(url=receiver.url, answer_id=answer, receipt_id=receipt)
    ids = sim.send_all(20)
    sim.settled()
    for _, said in receiver.receipts():
        assert same(ids[said["reference"]], said["id"])
    assert sim.send("m-0") == ids["m-0"]
    assert sim.session.get(sim.url + "/ledger/m-0").json()["id"] == ids["m-0"]


def test_a_message_brings_its_own_address_and_reference(sim, receiver):
    sim.receipts(echo=True)
    sim.send("quiet")
    sim.send("m-1", receipt_url=receiver.url + "/operators/operatorA/receipts?r=m-1.abcd", receipt_reference="m-1.abcd")
    sim.settled()
    (request, receipt), = receiver.receipts()
    assert (request.path, request.query) == ("/operators/operatorA/receipts", "r=m-1.abcd")
    assert receipt["reference"] == "m-1.abcd"
    assert sim.said() == {"quiet": None, "m-1": "delivered"}
    for wrong in ({"receipt_url": "file:///etc/passwd"}, {"receipt_url": 7}, {"receipt_url": "http://"},
                  {"receipt_reference": "x" * 201}, {"receipt_reference": "a b"}, {"receipt_reference": None}):
        answer = sim.session.post(sim.url + "/messages", json={
            "reference": "wrong", "to": "+98912000", "text": "hi", "type": "normal", **wrong})
        assert (answer.status_code, answer.json()["field"]) == (400, list(wrong)[0])


def test_repeated_reordered_and_in_parts(sim, receiver):
    sim.receipts(url=receiver.url, parts=3, sent_share=1, reorder_share=0.5, duplicate_share=0.1, delay_ms=20,
                 delay_max_ms=400, delivered_share=0.5)
    sim.send_all(MESSAGES)
    assert sim.session.post(sim.url + "/messages", json={
        "reference": "m-0", "to": "+98912000", "text": "hi", "type": "normal"}).json()["parts"] == 3
    counts = sim.settled()
    kinds, at = Counter(), {}
    for request, receipt in receiver.receipts():
        key = receipt["reference"], receipt.get("part", "sent")
        kinds[key] += 1
        at.setdefault(key, request.at)
    assert len(kinds) == 4 * MESSAGES and set(kinds.values()) == {1, 2}
    again = list(kinds.values()).count(2)
    assert 4 * MESSAGES * 0.05 < again < 4 * MESSAGES * 0.2 and counts["taken"] == 4 * MESSAGES + again
    behind = sum(at[f"m-{i}", "sent"] > min(at[f"m-{i}", str(part)] for part in (1, 2, 3)) for i in range(MESSAGES))
    assert 35 < behind < 85
    order = list(dict.fromkeys(reference for reference, _ in at))
    assert order != sorted(order, key=lambda reference: int(reference[2:]))


def test_a_receipt_may_come_before_the_answer(sim, receiver):
    answered = {}
    sim.receipts(url=receiver.url, before_answer_share=0.5, delay_ms=600, answer_after_ms=300)
    for i in range(16):
        sim.send(f"m-{i}")
        answered[f"m-{i}"] = time.monotonic()
    sim.settled()
    before = sum(request.at < answered[receipt["reference"]] for request, receipt in receiver.receipts())
    assert 3 <= before <= 13


def test_a_forged_one_says_the_opposite_under_a_wrong_signature(sim):
    with Taker(lambda request: 200 if request.signed_by(KEY) else 401) as receiver:
        sim.receipts(url=receiver.url, forged_share=0.5, delivered_share=0.5)
        sim.send_all(MESSAGES)
        counts = sim.settled()
        refused = [receipt for request in receiver.requests() if request.status == 401 for receipt in request.receipts()]
        true = finals(receiver)
    assert counts["taken"] == MESSAGES and counts["forged_taken"] == 0 and counts["again"] == 0
    assert counts["forged_refused"] == len(refused) and 35 < len(refused) < 85
    for receipt in refused:
        assert (receipt["status"] == "delivered") != (true[receipt["reference"]] == ["delivered"])


def test_what_is_not_taken_comes_again(sim):
    refusals = Counter()

    def answers(request):
        reference = request.receipts()[0]["reference"]
        refusals[reference] += 1
        return 503 if refusals[reference] <= 2 or reference == "m-0" else 200

    with Taker(answers) as receiver:
        sim.receipts(url=receiver.url, tries=4, retry_ms=20)
        sim.send_all(50)
        counts = sim.settled()
    assert counts["taken"] == 49 and counts["given_up"] == 1 and counts["again"] == 49 * 2 + 3
    assert sim.said() == {f"m-{i}": "delivered" if i else None for i in range(50)}


def test_nobody_there_for_a_while(sim):
    receiver = Taker()
    port = int(receiver.url.rpartition(":")[2])
    receiver.close()
    sim.receipts(url=f"http://127.0.0.1:{port}", retry_ms=50, tries=100)
    sim.send_all(20)
    wait_until(lambda: sim.receipt_counts()["again"] >= 20, 10)
    with Taker() as later:
        sim.receipts(url=later.url, retry_ms=50, tries=100)
        assert sim.settled()["taken"] == 20


def test_held_then_released_in_lists_at_a_pace(sim, receiver):
    where = {"url": receiver.url, "batch": 10, "delay_max_ms": 100}
    sim.receipts(hold=True, **where)
    sim.send_all(MESSAGES)
    assert sim.receipt_counts()["waiting"] == MESSAGES and receiver.requests() == []
    began = time.monotonic()
    sim.receipts(per_second=100, **where)
    sim.settled()
    assert time.monotonic() - began > 0.8
    assert Counter(len(request.receipts()) for request in receiver.requests()) == {10: 12}
    assert all(request.signed_by(KEY) for request in receiver.requests())


def test_bounded_and_gone_at_the_end(receiver):
    sim = Sim(SIM_RECEIPTS_MAX=10)
    sim.receipts(url=receiver.url, hold=True)
    sim.send_all(30)
    counts = sim.receipt_counts()
    assert (counts["waiting"], counts["dropped"]) == (10, 20)
    assert sim.session.get(sim.url + "/receipts").json()["hold"] is True
    assert sim.session.delete(sim.url + "/receipts").json()["hold"] is False
    assert sim.stop() == 0


def test_wrong_settings_change_nothing(sim):
    before = sim.receipts(url="http://127.0.0.1:1/", delay_ms=5)
    for wrong in ({"url": "x"}, {"delay_ms": -1}, {"nothing": 1}, {"form": "query", "batch": 3}):
        answer = sim.session.put(sim.url + "/receipts", json=wrong)
        assert answer.status_code == 400 and answer.json()["error"] == "invalid_input"
    assert sim.session.get(sim.url + "/receipts").json() == before
