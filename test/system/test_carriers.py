"""Operators that break the protocol, lie, or answer what was not asked: what the platform believes is
judged against their own record.
"""

import gzip
import http.client
import json
import re
import time
from types import SimpleNamespace

import pytest
from harness.audit import audit, quiesce
from harness.authority import Authority
from harness.carrier import LIES, REQUEST_TIMEOUT, Carrier, answer, taken
from harness.client import recipient
from harness.memory import peak_mib
from harness.metrics import Metrics
from harness.wait import wait_until

# Every failure is met by its own answer, never by a breaker that is open for an earlier one.
STEADY = {"BREAKER_FAILURES": 1000, "BREAKER_FAILURE_PCT": 101, "BREAKER_SLOW_PCT": 101,
          "OPERATOR_TIMEOUT_MS": 1000, "OPERATOR_BACKOFF_MS": 20, "DELIVERY_RETRY_WINDOW_SEC": 5,
          "DELIVERY_RETRY_BASE_MS": 100}
TRIES = 3


@pytest.fixture
def a():
    with Carrier("operatorA") as carrier:
        yield carrier


@pytest.fixture(scope="module", params=["http", "https"])
def site(request, module_world, tmp_path_factory):
    """A platform whose operators are carriers; A speaks what the parameter says."""
    authority = Authority(tmp_path_factory.mktemp("tls"), "carriers")
    issued = authority.issue("operator", "IP:127.0.0.1") if request.param == "https" else None
    with Carrier("operatorA", issued) as a, Carrier("operatorB") as b:
        stack = module_world(carriers=[a, b], OPERATOR_TLS_CA=authority.certificate, **STEADY)
        yield SimpleNamespace(stack=stack, api=stack.api(), a=a, b=b)


@pytest.fixture(autouse=True)
def healed(request):
    """Whatever the test before has done to the operators is over, and nothing of it under way."""
    if "site" in request.fixturenames:
        site = request.getfixturevalue("site")
        for carrier in (site.a, site.b):
            carrier.heal()
            carrier.knows_references, carrier.knows_after = True, 0


def send(site, n=1, **options):
    customer = site.api.funded()
    return customer, site.api.sent(customer, [recipient(i) for i in range(n)], **options)["message_identifier"]


def final(site, customer, identifier, deadline=30):
    """{reference: (status, provider, the provider's id)}"""
    site.api.wait_final(customer, identifier, deadline)
    rows = site.stack.db.records("SELECT * FROM message_status WHERE message_identifier=%s", identifier)
    return {f"{identifier}-{r['position']}": (r["status"], r["provider"], r["provider_message_id"])
            for r in rows}


def delivered(site, n=1, **options):
    return final(site, *send(site, n, **options))


def check(site, finals):
    """Each is where the platform believes it to be, under the id it was given there; and what failed
    is nowhere."""
    carriers = {c.name: c for c in (site.a, site.b)}
    for reference, (status, provider, id) in finals.items():
        if status == "done":
            assert id in [s.id for s in carriers[provider].sms(reference)], (reference, provider, id)
        else:
            assert not any(c.sms(reference) for c in carriers.values()), (reference, status)


def by(finals):
    return {(status, provider) for status, provider, _ in finals.values()}


def calls(site, result):
    return Metrics.of(site.stack.url("consumerd-1")).value("operator_calls_total", operator="operatorA",
                                                            result=result) or 0


def warm(site, n=1):
    """Connections to A that had a call and have none."""
    assert by(delivered(site, n)) == {("done", "operatorA")}


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


def test_well_behaved_carriers_carry(site):
    sent_to_b = len(site.b.calls())
    finals = delivered(site, 5)
    assert by(finals) == {("done", "operatorA")}
    check(site, finals)
    assert all(len(site.a.posts(r)) == 1 for r in finals) and len(site.b.calls()) == sent_to_b
    quiesce(site.stack)
    assert audit(site.stack) == []


# -- a POST goes out once ---------------------------------------------------------------------------


@pytest.mark.parametrize("resets", [False, True], ids=["ends", "resets"])
def test_a_kept_connection_that_dies_repeats_nothing(site, resets):
    """libcurl would send again what it had sent on a kept connection: up to six times, one SMS each."""
    site.a.knows_references = False
    warm(site, 6)
    site.a.on_post(on_kept=True, cut="answer", resets=resets)
    finals = delivered(site, 6)
    assert by(finals) == {("done", "operatorA")}
    check(site, finals)
    assert {r: len(site.a.sms(r)) for r in finals} == dict.fromkeys(finals, 1)
    assert all(len(site.a.posts(r)) == 1 for r in finals)


def test_tries_are_ours_alone(site):
    """Nothing is taken, and the lookup says so: one POST a try."""
    warm(site)
    site.a.on_post(cut="answer", takes=False)
    finals = delivered(site)
    assert by(finals) == {("done", "operatorB")}
    check(site, finals)
    assert [len(site.a.posts(r)) for r in finals] == [TRIES]


def test_connections_closed_while_idle_cost_nothing(site):
    """What an operator's idle timeout closes is healthy: no outcome is unknown, nothing goes out twice."""
    unknown, to_b = calls(site, "unknown"), len(site.b.calls())
    for _ in range(10):
        site.a.on_idle()  # a call that meets the close on its way has an unknown outcome, rightly
        finals = delivered(site, 3)
        assert by(finals) == {("done", "operatorA")}
        assert all(len(site.a.posts(r)) == 1 for r in finals)
        site.a.on_idle(after=0.05)
        wait_until(lambda: site.a.open_connections == 0, 10, "A closes its idle connections")
    assert calls(site, "unknown") == unknown and len(site.b.calls()) == to_b


# -- answers that were not asked for ----------------------------------------------------------------


@pytest.mark.parametrize("way", [
    {"again": taken("late"), "again_after": 0.02}, {"again": taken("late")},
    {"again": answer(400, b"{}"), "again_after": 0.02}, {"again": answer(400, b"{}")},
    {"again": REQUEST_TIMEOUT[:20], "again_after": 0.02},
    {"body": lambda told: json.dumps(told).encode() + b" " * 6000, "again": taken("behind")}],
    ids=["late acceptance", "second acceptance", "late refusal", "second refusal", "late fragment",
         "behind a long answer"])
def test_a_second_answer_is_nobodys(site, way):
    site.a.on_post(**way)
    finals = {}
    for n in (1, 1, 1, 8, 1, 8):
        finals |= delivered(site, n)
    assert by(finals) == {("done", "operatorA")}
    check(site, finals)
    assert {r: len(site.a.posts(r)) for r in finals} == dict.fromkeys(finals, 1)


def test_a_408_on_an_idle_connection_is_nobodys(site):
    """As load balancers send it, before they close what nobody has used for a while."""
    site.a.on_idle(after=0.05, says=REQUEST_TIMEOUT, closes=False)
    before = len(site.a.calls())
    finals = {}
    for n in (1, 1, 1, 8, 1, 8):
        finals |= delivered(site, n)
    assert by(finals) == {("done", "operatorA")}
    check(site, finals)
    assert {r: len(site.a.posts(r)) for r in finals} == dict.fromkeys(finals, 1)
    assert len({c.connection for c in site.a.calls()[before:]}) > 6, "no connection was left idle"


# -- what is an acceptance --------------------------------------------------------------------------


@pytest.mark.parametrize("lie", LIES)
def test_what_says_no_acceptance_is_asked(site, lie):
    """Taken: the lookup finds it. Not taken: B delivers. Neither is believed of the POST's answer."""
    site.a.on_post(**LIES[lie])
    finals = delivered(site, 2)
    assert by(finals) == {("done", "operatorA")}
    check(site, finals)
    assert all(len(site.a.posts(r)) == 1 and site.a.lookups(r) for r in finals)
    site.a.on_post(takes=False, **LIES[lie])
    finals = delivered(site, 2)
    assert by(finals) == {("done", "operatorB")}
    check(site, finals)


@pytest.mark.parametrize("lie", LIES)
def test_a_lookup_that_says_nothing_finds_nothing(site, lie):
    site.a.on_post(takes=False, cut="answer")
    site.a.on_lookup(**LIES[lie])
    finals = delivered(site, 2)
    assert by(finals) == {("done", "operatorB")}
    check(site, finals)


@pytest.mark.parametrize("status", [400, 422])
def test_a_refusal_with_a_long_body_is_a_refusal(site, status):
    for carrier in (site.a, site.b):
        carrier.on_post(takes=False, status=status, body=b"<p>" * 50_000)
    customer, identifier = send(site, 2)
    finals = final(site, customer, identifier)
    assert {status for status, _, _ in finals.values()} == {"failed"}
    check(site, finals)
    assert all(len(c.posts(r)) == 1 for r in finals for c in (site.a, site.b))
    assert site.api.balance(customer) == 1000


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_no_acceptance_and_no_reason_to_try_again(site, status):
    site.a.on_post(takes=False, status=status, headers=(("Location", site.b.url + "/messages"),))
    finals = delivered(site)
    assert by(finals) == {("done", "operatorB")}
    check(site, finals)
    assert [len(site.a.posts(r)) for r in finals] == [1] == [len(site.b.posts(r)) for r in finals]
    site.a.heal()
    warm(site)


# -- answers that are meant to hurt -----------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\n"
HOSTILE = {
    "endless headers": {"raw": OK, "endless": b"X-Header: " + b"x" * 1000 + b"\r\n"},
    "an endless header": {"raw": OK + b"X-Header: ", "endless": b"x" * 4096},
    "an endless status line": {"raw": b"HTTP/1.1 200 ", "endless": b"x" * 4096},
    "an endless body": {"raw": OK + b"Content-Length: 999999999999\r\n\r\n", "endless": b" " * 4096},
    "endless chunks": {"raw": OK + b"Transfer-Encoding: chunked\r\n\r\n", "endless": b"1\r\n \r\n" * 500},
    "an endless chunk size": {"raw": OK + b"Transfer-Encoding: chunked\r\n\r\n", "endless": b"0" * 4096},
    "endless trailers": {"raw": OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", "endless": b"X: y\r\n" * 500},
    "endless interim answers": {"raw": b"", "endless": b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n" * 100},
    "a gzip bomb": {"headers": (("Content-Encoding", "gzip"),), "body": gzip.compress(b" " * (32 << 20))},
    "a length too short": {"length": 5},
    "a length too long": {"length": 100_000},
    "a length beyond all numbers": {"length": "9" * 40},
    "a negative length": {"length": -5},
    "two lengths": {"headers": (("Content-Length", "5"), ("Content-Length", "6"))},
    "both lengths": {"raw": OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
    "control characters": {"raw": OK + b"X: \x1b[2J\0\x07\r\nContent-Length: 23\r\n\r\n" + b'{"id":"\x1b[31m\0","a":1}\0'},
    "a byte a second": {"every": 1},
    "no HTTP": {"raw": bytes(range(256)) * 40},
}


@pytest.mark.parametrize("way", HOSTILE)
def test_a_hostile_operator_costs_little(site, way):
    """Whatever it answers to a message, or to the question what became of it: the next one delivers, soon, and
    nothing of it is believed."""
    pid = site.stack.pid("consumerd-1")
    before, began = peak_mib(pid, begin=True), time.monotonic()
    site.a.on_post(takes=False, **HOSTILE[way])
    site.a.on_lookup(**HOSTILE[way])
    finals = delivered(site, 20)
    took, grown = time.monotonic() - began, peak_mib(pid) - before
    print(f"{way}: {took:.1f} s, {grown:.1f} MiB")
    assert by(finals) == {("done", "operatorB")}
    check(site, finals)
    assert grown < 16
    assert site.stack.pid("consumerd-1") == pid and site.stack.status("consumerd-1", "/healthz") == 200
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", site.stack.log_text("consumerd-1"))
    site.a.heal()
    warm(site)


@pytest.mark.parametrize("inside", ["http://169.254.169.254/latest/meta-data/", "file:///etc/passwd", "gopher://127.0.0.1:1/x"])
def test_a_redirect_leads_nowhere(site, inside):
    site.a.on_post(takes=False, status=307, headers=(("Location", inside),))
    site.a.on_lookup(status=307, headers=(("Location", inside),))
    finals = delivered(site)
    assert by(finals) == {("done", "operatorB")}
    check(site, finals)
    site.a.heal()
    warm(site)


# -- what an operator calls a message ---------------------------------------------------------------


@pytest.mark.parametrize("id", ["消息-ä 📨", "x" * 128, b"77", b"9223372036854775808", b"9" * 128, b"-1"],
                         ids=["utf-8", "long", "number", "above 64 bits", "long number", "negative"])
def test_ids_are_kept_as_they_were_said(site, id):
    said = id.decode() if isinstance(id, bytes) else id
    site.a.make_id, usual = (lambda n: id), site.a.make_id
    try:
        customer, identifier = send(site)
        finals = final(site, customer, identifier)
        assert list(finals.values()) == [("done", "operatorA", said)]
        (row,) = site.api.history(user_id=customer)
        assert row["provider_message_id"] == said
        assert not any(site.a.lookups(r) for r in finals)
    finally:
        site.a.make_id = usual


@pytest.mark.parametrize("id", ["x" * 129, b"9" * 129, b"1.5", "a\nb", b'"\xff"', b'"\\ud800"'],
                         ids=["long", "long number", "fraction", "line break", "no utf-8", "half a pair"])
def test_an_id_that_cannot_be_kept_is_none(site, id):
    """It is asked, which tells no more: B delivers, and A is remembered as one that may have it."""
    site.a.make_id, usual = (lambda n: id), site.a.make_id
    try:
        customer, identifier = send(site)
        finals = final(site, customer, identifier)
        assert by(finals) == {("done", "operatorB")}
        assert site.stack.db.value("SELECT unknown_operators FROM message_status WHERE"
                                   " message_identifier=%s", identifier) == "operatorA"
    finally:
        site.a.make_id = usual


# -- how long an operator rests ---------------------------------------------------------------------


def test_a_rest_is_no_longer_than_it_may_be(world, a):
    rest_sec = 3
    with Carrier("operatorB") as b:
        stack = world(carriers=[a, b], OPERATOR_REST_MAX_SEC=rest_sec, **STEADY)
        site = SimpleNamespace(stack=stack, api=stack.api(), a=a, b=b)
        for retry_after, long in (("9223372036854775807", True), ("Thu, 01 Jan 2099 00:00:00 GMT", True),
                                  ("-5", False), ("Thu, 01 Jan 1970 00:00:00 GMT", False)):
            began = time.monotonic()
            a.on_post(first=1, takes=False, status=429, headers=(("Retry-After", retry_after),))
            assert by(delivered(site)) == {("done", "operatorB")}
            wait_until(lambda: by(delivered(site)) == {("done", "operatorA")}, 20, "A is used again")
            assert time.monotonic() - began > (rest_sec if long else 1), retry_after
