"""Receipts as carriers send them, from simulators to the platform: whatever comes late, twice, out of order, too early
or from somebody else, each recipient ends as its operator says it did.
"""

import pytest

from harness.audit import audit, quiesce
from harness.client import recipient
from harness.receipts import KEY, SIGNING, SIMULATED, simulated
from harness.simulator import Sim
from harness.wait import wait_until

# How ids are written in answers and in receipts; and as the operator's file has it.
FORMS = {"text": ("text", "text", "text", "text"), "base": ("hex", "decimal", "hexadecimal", "decimal"),
         "zeros": ("decimal", "decimal_zeros", "decimal", "decimal"),
         "both": ("decimal_zeros", "hex_zeros", "decimal", "hexadecimal")}


# The simulator as a carrier that echoes the address it was given, with the signed reference.
HTTP = """kind = http
header = Content-Type: application/json
body = {"reference":"%{reference}","to":"%{to}","text":"%{text:json}","type":"%{type}","receipt_url":"%{receipt_url:json}"}
accepted = status == 200 and json:status == accepted
id = json:id
parts = json:parts
lookup.found = status == 200
repeat_is_safe = true
"""


def carrier(sim):
    return f"""[{sim.name}]
{HTTP}url = {sim.url}/messages
lookup.url = {sim.url}/messages/%{{reference}}
receipt.signature_key = {SIGNING}
{SIMULATED}"""


@pytest.fixture
def simulators():
    made = []

    def make(name):
        made.append(Sim(name, SIM_RECEIPT_KEY=SIGNING))
        return made[-1]

    yield make
    for sim in made:
        assert sim.stop() == 0


@pytest.fixture
def platform(world, tmp_path):
    """make(sims, sections) -> the stack"""
    def make(sims, sections):
        file = tmp_path / "operators.ini"
        file.write_text("\n".join(sections))
        stack = world("operator-a", carriers=sims, OPERATORS_FILE=file, RECEIPT_REFERENCE_KEY=KEY)
        stack.settings["RECEIPTS_PUBLIC_URL"] = stack.url("api-1")  # known when its ports are
        return stack.up()
    return make


def address(stack, sim):
    return f"{stack.url('api-1')}/operators/{sim.name}/receipts"


def send(stack, n, each=1):
    api = stack.api()
    customer = api.funded(n * each)
    return [api.sent(customer, [recipient(i * each + j) for j in range(each)])["message_identifier"] for i in range(n)]


def deliveries(stack):
    """{reference: delivery} of all recipients."""
    names = {0: "none", 1: "waiting", 2: "delivered", 3: "undelivered", 4: "unreported"}
    return {f"{message}-{position}": names[delivery] for message, position, delivery in stack.db.rows(
        "SELECT message_identifier, position, delivery FROM message_status")}


def wait_told(stack, *sims):
    """Until all is done, every receipt has been taken and every recipient has one. {reference: delivery}"""
    quiesce(stack)
    for sim in sims:
        assert sim.settled(60)["given_up"] == 0
    wait_until(lambda: not {"none", "waiting"} & set(deliveries(stack).values()), 30,
               lambda: f"every recipient is told of: {deliveries(stack)}")
    return deliveries(stack)


def test_ids_match_in_every_form(platform, simulators):
    """Four operators that echo nothing; each gets its messages from those before it, which want none."""
    sims = {form: simulators(f"operator{form.capitalize()}") for form in FORMS}
    stack = platform(list(sims.values()), [simulated(sims[form], *FORMS[form][2:], False) for form in FORMS])
    for form, sim in sims.items():
        sim.receipts(url=address(stack, sim), answer_id=FORMS[form][0], receipt_id=FORMS[form][1], echo=False,
                     delivered_share=0.6, delay_max_ms=200)
    for form, sim in sims.items():
        send(stack, 10)
        quiesce(stack)
        sim.faults(reject_prefix="0")
    told = wait_told(stack, *sims.values())
    said = {reference: word for sim in sims.values() for reference, word in sim.said().items()}
    assert [sim.counts()["accepted"] for sim in sims.values()] == [10] * 4
    assert told == said and set(said.values()) == {"delivered", "undelivered"}
    assert audit(stack) == []


@pytest.mark.parametrize("kind", ["native", "http"])
def test_whatever_the_order(platform, simulators, kind):
    """Early, late, twice, forged, from a carrier in parts: what the operator's ledger says is what the history says."""
    sim = simulators("operatorA")
    stack = platform([sim], [simulated(sim) if kind == "native" else carrier(sim)])
    sim.receipts(url=address(stack, sim) if kind == "native" else "", delivered_share=0.7, before_answer_share=0.33,
                 answer_after_ms=300, duplicate_share=0.3, sent_share=0.5, reorder_share=0.5, forged_share=0.2,
                 delay_max_ms=500, parts=1 if kind == "native" else 3)
    messages = send(stack, 60, each=2)
    told = wait_told(stack, sim)
    assert len(told) == 2 * len(messages)
    said = sim.said()
    assert told == said, {r: (told[r], said[r]) for r in told if told[r] != said[r]}
    counts = sim.receipt_counts()
    assert counts["forged_taken"] == 0 and counts["forged_refused"] > 5
    assert {"delivered", "undelivered"} == set(told.values())
    assert audit(stack) == []


def test_nobody_takes_them_for_a_while(platform, simulators):
    sim = simulators("operatorA")
    stack = platform([sim], [simulated(sim)])
    sim.receipts(url=address(stack, sim), hold=True, delivered_share=0.5)
    send(stack, 50)
    quiesce(stack)
    stack.kill("api-1")
    sim.receipts(url=address(stack, sim), retry_ms=100, tries=200)
    wait_until(lambda: sim.receipt_counts()["again"] > 50, 20)
    stack.start("api-1")
    assert wait_told(stack, sim) == sim.said()
