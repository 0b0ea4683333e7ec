"""What receipts tell of a recipient reaches its customer's endpoint, once and in order, and is what the history says."""

import pytest
from harness.carrier import Carrier
from harness.client import recipient
from harness.receiver import Hooks, Receiver, wait_known
from harness.receipts import KEY, Bringer, section


@pytest.fixture
def stack(world, tmp_path):
    with Carrier("operatorA") as carrier:
        file = tmp_path / "operators.ini"
        file.write_text(section(carrier.name, carrier.url))
        yield world(carriers=[carrier], OPERATORS_FILE=file, RECEIPT_REFERENCE_KEY=KEY,
                    RECEIPTS_PUBLIC_URL="http://127.0.0.1:1", WEBHOOK_ALLOW_PRIVATE="127.0.0.1",
                    WEBHOOK_SCHEDULE_SEC="1,2,2,2,2", REFUND_UNDELIVERED="on")


def test_delivered_and_undelivered(stack):
    with Receiver() as receiver:
        api = stack.api()
        hooks = Hooks(api, api.funded(100))
        hooks.create(receiver.url)
        wait_known(stack)
        # The first is refused once, so that what follows has to wait for it.
        receiver.answer(status=500, first=1)
        message = api.sent(hooks.customer, [recipient(i) for i in range(3)])["message_identifier"]
        api.wait_final(hooks.customer, message)
        bring = Bringer(stack.url("api-1"), "operatorA")
        for status in ("delivered", "delivered", "undelivered"):
            bring.tell(status, message, 0)
        bring.tell("undelivered", message, 1, code=27, text="absent subscriber")
        events = receiver.wait_events(5)
        assert sorted(e["id"] for e in events) == sorted(
            f"{message}-{i}" for i in ("0-done", "1-done", "2-done", "0-delivered", "1-undelivered"))
        order = [e["id"] for e in events]
        for later, earlier in (("0-delivered", "0-done"), ("1-undelivered", "1-done")):
            assert order.index(f"{message}-{later}") > order.index(f"{message}-{earlier}"), order
        history = {row["position"]: row for row in api.history(user_id=hooks.customer)}
        told = {e["data"]["position"]: e["data"] for e in events if not e["id"].endswith("-done")}
        for position, data in told.items():
            assert data == {k: history[position][k] for k in data}
        assert told[1]["delivery_report"]["code"] == "27"
        assert api.balance(hooks.customer) == 98
        shown = api.get(f"/messages/{message}", user_id=hooks.customer).json()["events"]
        assert len(shown) == 5 and all(e["delivered_at"] for e in shown[:3])
