"""What Debian's Kannel does, as docs/carriers.md says: with the page's example, and nobody of ours beside it."""

import re
import subprocess
from collections import Counter, defaultdict

import pytest

from harness.taker import Taker
from harness.wait import wait_until
from kannel import BEARERBOX, Kannel, example, free_ports

# Receipts that are not taken come again after a second, for a test's sake.
SOON = {("smsbox", "http-queue-delay"): 1}


def said(receiver):
    """{reference: [what %d said]} of what was taken."""
    found = defaultdict(list)
    for _, receipt in receiver.receipts():
        found[receipt["ref"]].append(receipt["d"])
    return found


def url(receiver, reference):
    return f"{receiver.url}/operators/kannel/receipts?ref={reference}&d=%d&a=%A"


@pytest.mark.parametrize("kind, there", [
    ("internal", "yes"), ("spool", "yes"), ("sqlite3", "connection"), ("mysql", "connection"), ("pgsql", "connection"),
    ("mssql", "connection"), ("redis", "connection"), ("oracle", "no"), ("sdb", "no"), ("cassandra", "no")])
def test_the_storages_for_receipts_that_the_package_has(tmp_path, kind, there):
    """It starts with it, or wants to know where the database is, or does not know it."""
    admin, boxes = free_ports(2)
    (tmp_path / "dlr").mkdir()
    config = tmp_path / "kannel.conf"
    config.write_text(re.sub(r"(?s)\ngroup = smsc\n.*?(?=\ngroup = smsbox)", "", example({
        ("core", "admin-port"): admin, ("core", "smsbox-port"): boxes, ("core", "log-file"): tmp_path / "log",
        ("core", "store-location"): tmp_path, ("core", "dlr-storage"): kind, ("core", "dlr-spool"): tmp_path / "dlr"}))
        + "\ngroup = dlr-db\nid = x\ntable = dlr\n" + "".join(
            f"field-{name} = {name}\n" for name in ("smsc", "timestamp", "destination", "source", "service", "url", "mask",
                                                    "status", "boxc-id")))
    process = subprocess.Popen([BEARERBOX, config], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, errors="replace")
    for line in process.stdout:
        if words := re.search(r"DLR using storage type: (\w+)|connection settings for id|storage type '\w+' is not supported",
                              line):
            break
    process.kill()
    process.communicate()
    assert words, "it has said nothing of its storage"
    assert there == ("yes" if words[1] == kind else "connection" if "settings" in words[0] else "no"), words[0]


def test_what_became_of_a_text(make_kannel, centre, receiver):
    centre.manner(undelivered="7", refused="8", silent="9")
    kannel = make_kannel()
    for i in (6, 7, 8, 9):
        answer = kannel.send(f"+491700000{i}", f"text {i}", url(receiver, f"m-{i}"))
        assert (answer.status_code, answer.text) == (202, "0: Accepted for delivery")  # and no id
    wait_until(lambda: len(said(receiver)) == 3, 20)
    assert said(receiver) == {"m-6": ["1"], "m-7": ["2"], "m-8": ["16"]}
    words = {receipt["ref"]: receipt["a"] for _, receipt in receiver.receipts()}
    assert re.search(r"stat:DELIVRD err:000 text:text 6", words["m-6"])
    assert re.search(r"stat:UNDELIV err:027", words["m-7"])
    assert words["m-8"] == "NACK/0x0000000b/Invalid Destination Address"
    assert kannel.outstanding() == 1
    refused = kannel.send("+4917000001", "x", url(receiver, "m-1"), password="wrong")
    assert (refused.status_code, refused.text) == (403, "Authorization failed for sendsms")


def test_texts_arrive_as_they_were(make_kannel, centre, receiver):
    kannel = make_kannel()
    texts = {"+4917000001": "a€{ü & <b>'", "+4917000002": "سلام 👋", "+4917000003": "x" * 400}
    for to, text in texts.items():
        coding = {} if text.isascii() or "€" in text else {"coding": "2"}
        assert kannel.send(to, text, url(receiver, to[1:]), **coding).status_code == 202
    wait_until(lambda: len(said(receiver)) == 3, 20)
    arrived = defaultdict(str)
    for submit in sorted(centre.submits(), key=lambda submit: submit["part"]):
        arrived["+" + submit["to"]] += submit["text"]
    assert arrived == texts
    # Of a long text it asks for one receipt: the first part's.
    parts = [(s["part"], s["parts"], s["registered"]) for s in centre.submits() if s["to"] == "4917000003"]
    assert sorted(parts) == [(1, 3, 1), (2, 3, 0), (3, 3, 0)]
    assert said(receiver)["4917000003"] == ["1"]


@pytest.mark.parametrize("status, again", [(200, False), (202, False), (204, True), (400, True), (401, True), (503, True)])
def test_a_receipt_is_taken_with_200_or_202_alone(make_kannel, status, again):
    answered = []

    def answers(request):
        answered.append(request)
        return status if len(answered) == 1 else 200

    with Taker(answers) as receiver:
        kannel = make_kannel(SOON)
        kannel.send("+4917000001", "x", url(receiver, "m-1"))
        wait_until(lambda: len(receiver.requests()) == 1 + again, 20)
        if not again:
            kannel.send("+4917000002", "x", url(receiver, "m-2"))
            wait_until(lambda: "m-2" in said(receiver), 20)
            assert said(receiver)["m-1"] == ["1"]


def test_receipts_wait_for_who_is_away(make_kannel, centre):
    """Nobody listens; later somebody does, and has them all, at once and not one after another."""
    port, = free_ports(1)
    kannel = make_kannel(SOON)
    for i in range(100):
        kannel.send(f"+49170{i:05}", "x", f"http://127.0.0.1:{port}/r?ref=m-{i}&d=%d")
    wait_until(lambda: centre.count()["reports"] == 100, 20)
    with Taker(port=port) as receiver:
        wait_until(lambda: len(said(receiver)) == 100, 20)
        assert set(map(tuple, said(receiver).values())) == {("1",)}


def test_receipts_that_smsbox_has_in_memory_are_gone_with_it(make_kannel, centre):
    """The page says so; the platform's answer is `unreported`."""
    port, = free_ports(1)
    kannel = make_kannel(SOON)
    for i in range(20):
        kannel.send(f"+49170{i:05}", "x", f"http://127.0.0.1:{port}/r?ref=m-{i}&d=%d")
    wait_until(lambda: centre.count()["reports"] == 20 and not kannel.outstanding(), 20)
    kannel.kill("smsbox")
    with Taker(port=port) as receiver:
        kannel.start_smsbox()
        kannel.send("+4917000099", "x", f"http://127.0.0.1:{port}/r?ref=later&d=%d")
        wait_until(lambda: "later" in said(receiver), 20)
        assert len(said(receiver)) < 21


def test_killed_with_texts_in_hand(make_kannel, centre, receiver):
    """Every text that was accepted reaches the centre, some of them twice; receipts that were to come still come."""
    centre.manner(hold=True)
    kannel = make_kannel()
    accepted = []
    for i in range(300):
        if i in (100, 200):
            kannel.kill()
            kannel.start()
        if kannel.send(f"+49170{i:05}", "x", url(receiver, f"m-{i}")).status_code == 202:
            accepted.append(i)
    assert len(accepted) == 300
    wait_until(lambda: len(centre.times()) == 300, 60)
    centre.manner()
    wait_until(lambda: not centre.count()["waiting"], 60)
    wait_until(lambda: len(said(receiver)) == 300, 60)
    assert set(Counter(status for statuses in said(receiver).values() for status in statuses)) == {"1"}
