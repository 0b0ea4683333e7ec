"""Operators as their files describe them: carriers with protocols of their own, and what becomes of the messages."""

import os
import signal
import subprocess

import pytest
from harness.carrier import Carrier
from harness.client import recipient
from harness.metrics import Metrics
from harness.provider import Provider
from harness.receipts import KEY, reference, section
from harness.stack import REPOSITORY, binary
from harness.wait import wait_until

FILES = REPOSITORY / "consumerd" / "operators.d"
SECRETS = {"VONAGE_API_KEY": "key of vonage", "VONAGE_API_SECRET": "s3cret&of=vonage",
           "VONAGE_RECEIPT_SECRET": "path-of-vonage", "TWILIO_ACCOUNT_SID": "AC0123", "TWILIO_AUTH_TOKEN": "token-of-twilio"}
WAITING, NONE = 1, 0 # message_status.delivery
RECEIPTS = {"RECEIPTS_PUBLIC_URL": "https://sms.example.com", "RECEIPT_REFERENCE_KEY": KEY}


def file_of(name, provider, changes=()):
    """A carrier's file, with the provider in its place."""
    text = (FILES / f"{name}.ini").read_text()
    for before, after in [("https://rest.nexmo.com", provider.url), ("https://api.twilio.com", provider.url), *changes]:
        text = text.replace(before, after)
    return text


def native(carrier):
    return f"[{carrier.name}]\nkind = native\nurl = {carrier.url}\n"


@pytest.fixture
def provider():
    with Provider() as made:
        yield made


@pytest.fixture
def other():
    with Carrier("other") as made:
        yield made


def vonage_takes(request):
    ref = request.form["client-ref"]
    return 200, {"message-count": "1", "messages": [{
        "to": request.form["to"], "message-id": "V" + ref[:36], "status": "0", "remaining-balance": "15.53590000",
        "message-price": "0.03330000", "network": "23410"}]}


def vonage_says(status):
    return lambda request: (200, {"message-count": "1", "messages": [{"status": str(status), "error-text": "no"}]})


def make(world, tmp_path, *sections, **settings):
    file = tmp_path / "operators.ini"
    file.write_text("".join(sections))
    return world(OPERATORS_FILE=file, **{**SECRETS, **RECEIPTS, **settings})


def final(api, customer, message):
    """The history's row of a message's only recipient."""
    api.wait_final(customer, message)
    (row,) = api.history(user_id=customer, message_identifier=message)
    return row


def calls(stack, operator):
    """{result: count}"""
    series = Metrics.of(stack.url("consumerd-1")).series("operator_calls_total", operator=operator)
    return {labels["result"]: value for labels, value in series if value}


def test_a_message_goes_out_as_its_carrier_wants_it(world, tmp_path, provider):
    provider.answer = vonage_takes
    stack = make(world, tmp_path, file_of("vonage", provider))
    api = stack.api()
    customer = api.funded(10)
    text = "50% & more, \"quoted\" <b>, =?\n\u20ac"
    message = api.sent(customer, ["+447700900000"], text=text)["message_identifier"]
    row = final(api, customer, message)
    assert (row["status"], row["provider"]) == ("done", "vonage")
    (request,) = provider.requests
    ref = reference("vonage", message, 0)
    assert request.form == {
        "api_key": "key of vonage", "api_secret": "s3cret&of=vonage", "from": "MyShop", "to": "447700900000",
        "text": text, "type": "text", "client-ref": ref, "status-report-req": "1",
        "callback": f"https://sms.example.com/operators/vonage/receipts/path-of-vonage?ref={ref}"}
    assert "traceparent" not in {name.lower() for name in request.headers}
    assert stack.db.value("SELECT provider_message_id FROM message_status") == "V" + message
    metrics = Metrics.of(stack.url("consumerd-1"))
    assert metrics.value("msg_operator_balance", operator="vonage") == 15
    assert metrics.value("msg_operator_balance_low", operator="vonage") == 1
    assert metrics.value("msg_operator_parts_total", operator="vonage") == 1
    assert metrics.value("msg_operator_cost_millionths_total", operator="vonage") == 33300
    with open(f"/proc/{stack.pid('consumerd-1')}/environ", "rb") as f:
        environ = f.read().decode()
    for name in ("VONAGE_API_KEY", "VONAGE_API_SECRET"):
        assert SECRETS[name] not in environ + stack.log_text("consumerd-1")


def test_a_balance_that_runs_low_is_told(world, tmp_path, provider, other):
    """From the answer that says so until one that says otherwise, and as a file that is read again has it."""
    left = "50.01"
    provider.answer = lambda request: (200, {"messages": [{"status": "0", "message-id": "v", "remaining-balance": left}]})
    stack = make(world, tmp_path, file_of("vonage", provider), native(other))
    api = stack.api()
    customer = api.funded(10)

    def gauges():
        metrics = Metrics.of(stack.url("consumerd-1"))
        return [(labels["operator"], value) for labels, value in metrics.series("msg_operator_balance_low")]

    assert gauges() == []
    for left, low in (("50.01", 0), ("49.99", 1), ("-3", 1), ("51", 0)):
        assert final(api, customer, api.sent(customer)["message_identifier"])["provider"] == "vonage"
        wait_until(lambda: gauges() == [("vonage", low)], 10, f"{left} is seen")
    file = tmp_path / "operators.ini"
    for low, seen in (("remaining_low = 52", [("vonage", 1)]), ("", [])):
        file.write_text(file_of("vonage", provider, [("remaining_low = 50", low)]) + native(other))
        os.kill(stack.pid("consumerd-1"), signal.SIGHUP)
        wait_until(lambda: gauges() == seen, 10, "the file counts")


def test_a_wrong_key_moves_the_traffic(world, tmp_path, provider, other):
    """Within ten messages to the next operator, whether a status says it or a body, and a person is told."""
    refuses = vonage_says(4)
    provider.answer = lambda request: refuses(request) if request.path == "/sms/json" else (
        401, {"code": 20003, "message": "Authenticate", "status": 401})
    stack = make(world, tmp_path, file_of("twilio", provider), file_of("vonage", provider), native(other),
                 BREAKER_OPEN_MS=60000)
    api = stack.api()
    customer = api.funded(100)
    for _ in range(12):
        row = final(api, customer, api.sent(customer)["message_identifier"])
        assert (row["status"], row["provider"]) == ("done", "other")
    for name in ("twilio", "vonage"):
        (asked,) = calls(stack, name).items()
        assert asked[0] == "unfit" and asked[1] <= 10
        metrics = Metrics.of(stack.url("consumerd-1"))
        assert metrics.value("msg_operator_unfit", operator=name, reason="credentials") == 1
        assert f'"event":"operator.unfit","operator":"{name}"' in stack.log_text("consumerd-1")


def test_who_has_opted_out_is_tried_nowhere_else(world, tmp_path, provider, other):
    provider.answer = vonage_says(7)
    stack = make(world, tmp_path, file_of("vonage", provider), native(other))
    api = stack.api()
    customer = api.funded(10)
    row = final(api, customer, api.sent(customer)["message_identifier"])
    assert row["status"] == "failed" and not other.sms()
    assert stack.db.balance(customer) == 10


def test_a_cut_answer_is_asked_after(world, tmp_path, provider, other):
    """By a lookup that the file words; the other operator gets nothing."""
    infobip = (f"[carrier]\nkind = http\nurl = {provider.url}/send?r=%{{reference}}\nid = json:id\n"
               f"lookup.url = {provider.url}/logs?r=%{{reference}}\nlookup.found = json:results.0.id exists\n"
               "lookup.id = json:results.0.id\nlookup.not_found = json:results exists\n")
    sent = []

    def answer(request):
        if request.path == "/send":
            sent.append(request.query["r"])
            return 200, "<html>"
        return 200, {"results": [{"id": f"of-{r}"} for r in sent if r == request.query["r"]]}

    provider.answer = answer
    stack = make(world, tmp_path, infobip, native(other))
    api = stack.api()
    customer = api.funded(10)
    message = api.sent(customer)["message_identifier"]
    row = final(api, customer, message)
    assert (row["status"], row["provider"]) == ("done", "carrier") and not other.sms()
    assert sent == [f"{message}-0"]
    assert stack.db.value("SELECT provider_message_id FROM message_status") == f"of-{message}-0"


def test_the_pace_is_kept(world, tmp_path, provider):
    """tps of one process: what is beyond waits, and nothing is refused or repeated."""
    provider.answer = vonage_takes
    stack = make(world, tmp_path, file_of("vonage", provider, [("tps = 30", "tps = 20")]))
    api = stack.api()
    customer = api.funded(100)
    message = api.sent(customer, [recipient(i) for i in range(40)])["message_identifier"]
    api.wait_final(customer, message)
    at = [request.at for request in provider.requests]
    assert len(at) == 40
    assert 39 / 20 * 0.9 < at[-1] - at[0] < 39 / 20 * 2
    assert max(sum(t <= u < t + 1 for u in at) for t in at) <= 23


def check(kind="consumerd", **values):
    env = {"PATH": os.environ["PATH"], "DB_PASSWORD": "x", "RABBIT_URI": "amqp://x:x@127.0.0.1:1/", **values}
    return subprocess.run([binary(kind), "--check"], capture_output=True, text=True, timeout=20, env=env)


def test_check_names_every_fault(tmp_path):
    (tmp_path / "a.ini").write_text("[a]\nkind = http\nurl = http://a/?k=%{secret:GONE:url}\nid = json:id\n"
                                    "body = %{text}\ncolour = red\n")
    (tmp_path / "b.ini").write_text("[b]\nkind = native\nurl = http://b ; the second one\n[a]\nkind = native\n")
    done = check(OPERATORS_FILE=str(tmp_path), OPERATORS="not looked at")
    assert done.returncode == 78
    assert "OPERATORS=" in done.stderr # each setting is right by itself, used or not
    done = check(OPERATORS_FILE=str(tmp_path))
    assert done.returncode == 78
    for fault in ("a.ini:3: url needs GONE, which is set nowhere", "a.ini:5: body needs a header Content-Type",
                  "a.ini:6: unknown key colour", "b.ini:3: a blank and a semicolon begin a comment",
                  "b.ini:1: [b] needs url", "b.ini:4: there is another operator of that name"):
        assert f"{tmp_path}/{fault}" in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 7, done.stderr


def test_the_broker_and_the_operators_are_needed_for_lanes_alone():
    nowhere = {"RABBIT_URI": "", "OPERATORS_FILE": "/nowhere"}
    assert check(CONSUMERD_PARTS="webhooks", **nowhere).returncode == 0
    for parts in ("lanes", "lanes,webhooks", "letters"):
        done = check(CONSUMERD_PARTS=parts, **nowhere)
        assert done.returncode == 78 and "RABBIT_URI is required" in done.stderr, done.stderr
    done = check(CONSUMERD_PARTS="lanes", OPERATORS_FILE="/nowhere")
    assert done.returncode == 78 and "/nowhere" in done.stderr, done.stderr
    done = subprocess.run([binary("consumerd"), "dead", "list"], capture_output=True, text=True, timeout=20,
                          env={"PATH": os.environ["PATH"], "DB_PASSWORD": "x", "CONSUMERD_PARTS": "webhooks"})
    assert done.returncode == 78 and "RABBIT_URI is required" in done.stderr


def test_the_examples_pass_the_check():
    secrets = {name: "x" for name in ("VONAGE_API_KEY", "VONAGE_API_SECRET", "VONAGE_RECEIPT_SECRET",
                                      "TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "INFOBIP_API_KEY",
                                      "INFOBIP_RECEIPT_SECRET", "SINCH_SERVICE_PLAN", "SINCH_API_TOKEN",
                                      "SINCH_RECEIPT_SECRET", "KANNEL_PASSWORD", "KANNEL_RECEIPT_SECRET")}
    secrets["INFOBIP_HOST"] = "abc123.api.infobip.com"
    done = check(OPERATORS_FILE=str(FILES), **secrets)
    assert done.returncode == 78 and done.stderr.count("RECEIPTS_PUBLIC_URL") == 5, done.stderr
    for kind in ("consumerd", "api"):
        done = check(kind, OPERATORS_FILE=str(FILES), **secrets, **RECEIPTS)
        assert done.returncode == 0, done.stderr


def test_a_reload_takes_what_is_right(world, tmp_path, provider, other):
    provider.answer = vonage_says(9)
    stack = make(world, tmp_path, file_of("vonage", provider), native(other))
    file = tmp_path / "operators.ini"
    api = stack.api()
    customer = api.funded(100)

    def provider_of_next():
        return final(api, customer, api.sent(customer)["message_identifier"])["provider"]

    def reload(text, event):
        before = stack.log_text("consumerd-1").count(event)
        file.write_text(text)
        os.kill(stack.pid("consumerd-1"), signal.SIGHUP)
        wait_until(lambda: stack.log_text("consumerd-1").count(event) > before, 10, event)

    assert provider_of_next() == "other"
    reload("[vonage]\nkind = http\ncolour = red\n" + native(other), "unknown key colour")
    reload(native(other) + file_of("vonage", provider), "that takes a restart")
    asked = len(provider.requests)
    assert provider_of_next() == "other" and len(provider.requests) == asked
    with Provider() as moved:
        moved.answer = vonage_takes
        reload(file_of("vonage", moved) + native(other), '"event":"operators.reloaded"')
        wait_until(lambda: provider_of_next() == "vonage", 20, "the new place is used")
        assert len(provider.requests) == asked and moved.requests


def test_a_reload_leaves_what_others_rely_on(world, tmp_path, other):
    """Whether an operator gives receipts, and how its identifiers read, is kept from the start: a file that says
    otherwise is refused as a whole, by both daemons, until they are restarted."""
    numbers = "receipt.answer_id_form = {}\nreceipt.id_form = decimal"
    stack = make(world, tmp_path, section("other", other.url, numbers.format("hexadecimal")))
    file = tmp_path / "operators.ini"
    api = stack.api()
    customer = api.funded(100)
    present = file.read_text()

    def told(name):
        return [line for line in stack.log_text(name).splitlines() if "operators.reload" in line]

    def answers_of_reload(text):
        file.write_text(text)
        for name in ("consumerd-1", "api-1"):
            before = len(told(name))
            os.kill(stack.pid(name), signal.SIGHUP)
            wait_until(lambda: len(told(name)) > before, 10, "an answer to the reload")
            yield told(name)[-1]

    def delivery():
        message = api.sent(customer)["message_identifier"]
        assert final(api, customer, message)["status"] == "done"
        return stack.db.value(f"SELECT delivery FROM message_status WHERE message_identifier='{message}'")

    with Carrier("other") as elsewhere:
        for text, why in ((native(elsewhere), "gives no receipts any more"),
                          (section("other", elsewhere.url, numbers.format("decimal")), "has another receipt.answer_id_form")):
            for line in answers_of_reload(text):
                assert "operators.reload_failed" in line and f"[other] {why}: that takes a restart" in line, line
        assert delivery() == WAITING and not elsewhere.sms()
        for line in answers_of_reload(section("other", elsewhere.url, numbers.format("hexadecimal"), "tps = 1000")):
            assert "operators.reloaded" in line, line
        wait_until(lambda: delivery() == WAITING and elsewhere.sms(), 20, "the new place is used")
        file.write_text(native(elsewhere))
        for name in ("consumerd-1", "api-1"):
            stack.restart(name)
        assert delivery() == NONE
        for line in answers_of_reload(present):
            assert "[other] gives receipts now: that takes a restart" in line, line
        assert delivery() == NONE


def test_a_person_tries_a_file(tmp_path, provider):
    provider.answer = vonage_takes
    file = tmp_path / "operators.ini"
    file.write_text(file_of("vonage", provider))
    env = {"PATH": os.environ["PATH"], "OPERATORS_FILE": str(file), **RECEIPTS}

    def operator(*words, **more):
        return subprocess.run([binary("consumerd"), "operator", *words], capture_output=True, text=True, timeout=20,
                              env={**env, **more})

    done = operator("test", "vonage", "--to", "+4479", "--text", "hi there", "--dry-run")
    assert done.returncode == 0 and "text=hi%20there" in done.stdout and not provider.requests
    done = operator("test", "vonage", "--to", "+4479", **SECRETS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verdict: accepted" in done.stdout and "remaining: 15" in done.stdout and "HTTP 200" in done.stdout
    assert not [secret for secret in SECRETS.values() if secret in done.stdout]
    assert len(provider.requests) == 1
    provider.answer = vonage_says(4)
    done = operator("test", "vonage", "--to", "+4479", **SECRETS)
    assert done.returncode == 1 and "reason: credentials" in done.stdout
    done = operator("test", "vonage", "--to", "+4479")
    assert done.returncode == 1 and "VONAGE_API_KEY" in done.stderr
    answers = REPOSITORY / "test" / "unit" / "consumerd" / "answers" / "vonage"
    done = operator("check", "vonage", "--answer", str(answers / "opted_out-barred.http"))
    assert done.returncode == 0 and "verdict: opted_out" in done.stdout and "rule: line" in done.stdout
    assert operator("check", "nobody", "--answer", "x").returncode == 1
    assert operator("list").stdout.startswith("vonage  http  ")
    assert operator("test", "vonage").returncode == 78
