"""Operators that break the protocol, lie, or answer what was not asked: what the platform believes is
judged against their own record.
"""

import http.client
import json

import pytest
from harness.audit import audit, quiesce
from harness.carrier import LIES, REQUEST_TIMEOUT, Carrier, taken
from harness.client import recipient
from harness.wait import wait_until


@pytest.fixture
def a():
    with Carrier("operatorA") as carrier:
        yield carrier


@pytest.fixture
def b():
    with Carrier("operatorB") as carrier:
        yield carrier


def test_a_carrier_does_as_it_is_told(a):
    """The instrument itself: one well-behaved call, and each way to be bad that tests build on."""
    port = int(a.url.rpartition(":")[2])

    def call(connection, method="POST", reference="m-0"):
        body = json.dumps({"reference": reference, "to": "0912"}) if method == "POST" else None
        connection.request(method, "/messages" + ("" if body else "/" + reference), body)
        response = connection.getresponse()
        return response.status, response.read()

    kept = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    assert call(kept, "GET")[0] == 404
    assert json.loads(call(kept)[1])["id"] == "operatorA-1"
    assert json.loads(call(kept)[1])["id"] == "operatorA-1" and len(a.sms()) == 1
    a.knows_references = False
    assert json.loads(call(kept)[1])["id"] == "operatorA-2" and a.sms_by_recipient() == {"0912": 2}
    assert call(kept, "GET")[0] == 200
    a.knows_after = 3600
    assert call(kept, "GET")[0] == 404
    a.on_post(first=1, status=503, takes=False)
    assert [call(kept)[0] for _ in range(2)] == [503, 200] and len(a.sms()) == 3
    assert {c.connection for c in a.calls()} == {1} and a.posts_by_reference() == {"m-0": 5}
    assert len(a.ledger()) == a.counts()["duplicates"] - 1 == 3
    for cut in ("answer", "headers", "body"):
        a.on_post(cut=cut)
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            call(http.client.HTTPConnection("127.0.0.1", port, timeout=5))
    a.on_post(**LIES["cut 206"])
    with pytest.raises(http.client.IncompleteRead):
        call(http.client.HTTPConnection("127.0.0.1", port, timeout=5))
    a.on_post(again=taken("second"), again_after=0.1)
    call(kept)
    assert kept.sock.recv(1000).endswith(b'{"id": "second", "status": "accepted"}')
    a.heal()
    a.on_idle(after=0.1, says=REQUEST_TIMEOUT)
    call(kept)
    assert kept.sock.recv(1000).startswith(b"HTTP/1.1 408 ")
    a.refuse()
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection("127.0.0.1", port, timeout=5).connect()
    a.heal()
    assert call(http.client.HTTPConnection("127.0.0.1", port, timeout=5))[0] == 200


def test_well_behaved_carriers_carry(world, a, b):
    stack = world(carriers=[a, b])
    api = stack.api()
    customer = api.funded()
    sent = api.sent(customer, [recipient(i) for i in range(5)])
    assert set(api.wait_final(customer, sent["message_identifier"]).values()) == {"done"}
    quiesce(stack)
    assert audit(stack) == []
    assert a.sms_by_recipient() == {recipient(i): 1 for i in range(5)} and b.calls() == []
