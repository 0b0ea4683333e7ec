"""The fault suite's look at the daemons' logs sees what it is there for."""

import json
import sys
from types import SimpleNamespace

import pytest
from harness.stack import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "test" / "faults"))
from suite.load import TEXT  # noqa: E402
from suite.logs import LogCheck  # noqa: E402
from suite.site import REJECTED, TAKEN  # noqa: E402

MESSAGE, TRACE, SPAN = "01936f0e-0000-7000-8000-000000000001", "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
LOAD = SimpleNamespace(accepted={"key": MESSAGE}, traces={"key": TRACE, "other": "f" * 32})
GOOD = {"ts": "2026-11-24T23:40:00.114790Z", "level": "debug", "service": "msg-consumerd", "version": "0.1.0",
        "event": "delivery.done", "message_id": MESSAGE, "trace_id": TRACE, "span_id": SPAN}
START = {**GOOD, "event": "start", "message_id": None, "trace_id": None, "span_id": None}


def line(entry=GOOD, **changes):
    return json.dumps({k: v for k, v in {**entry, **changes}.items() if v is not None},
                      separators=(",", ":"))


@pytest.fixture
def log(tmp_path):
    """log(text…): what a check says after that was written; it goes on where the last one ended."""
    daemon = SimpleNamespace(name="consumerd-1", kind="consumerd", log=tmp_path / "consumerd-1.log")
    check = LogCheck(lambda: [daemon])

    def write(*lines, torn=False):
        check.torn = torn
        with open(daemon.log, "a") as file:
            file.write("".join(f"{text}\n" for text in lines))
        return check.check(LOAD)
    return write


def test_good_lines_pass(log):
    assert log(line(), line(START), line(message_id="another", trace_id=None, span_id=None)) == []


def test_ids_may_look_like_recipients(log):
    assert log(line(span_id=f"0c6e{REJECTED}10113348"),
               line(message_id=f"01936f0e-0000-7000-8000-{TAKEN}00000017")) == []


@pytest.mark.parametrize("bad, said", [
    (line(msg=f"no answer for {TAKEN}00000017"), "a recipient or a text"),
    (line(msg=f"{REJECTED}12345678: no"), "a recipient or a text"),
    (line(last_error=f"400 {TEXT}, 5"), "a recipient or a text"),
    (f"Fatal: {TAKEN}00000017", "a recipient or a text"),
    ("Segmentation fault", "no JSON object"),
    (line()[:-5], "no JSON object"),
    (line()[:-1] + ',"level":"warn"}', "no JSON object"),
    ('["ts"]', "no JSON object"),
    (line(ts="2026-11-24 23:40:00"), "not the fields"),
    (line(level="notice"), "not the fields"),
    (line(service="msg-api"), "not the fields"),
    (line(version=None), "not the fields"),
    (line(event="Delivery done"), "not the fields"),
    (line(span_id=None), "not the ids"),
    (line(trace_id="0" * 31), "not the ids"),
    (line(trace_id="f" * 32), "not the trace"),
    (line(trace_id=None, span_id=None), "not the trace"),
    (line(event="outbox.parked", trace_id="f" * 32), "not the trace"),
])
@pytest.mark.parametrize("torn", [False, True])
def test_what_is_wrong_is_seen(log, bad, said, torn):
    wrong = log(line(), bad, line(), torn=torn)
    if torn and bad == line()[:-5]:  # what a full disk has cut off
        assert wrong == []
    else:
        assert len(wrong) == 1 and said in wrong[0]
        assert log() == [], "told once"


def test_a_death_in_mid_line(log):
    assert log(line(), line()[:40] + line(START), line()) == []
    assert len(log(line()[:40] + line(), line())) == 1, "nobody has died there"
    assert len(log(line(msg=f"{TAKEN}00000017")[:-2] + line(START), line())) == 1


def test_a_line_that_is_being_written_waits(log, tmp_path):
    with open(tmp_path / "consumerd-1.log", "w") as file:
        file.write(line()[:50])
    assert log(line()[50:]) == []


def test_logs_that_say_nothing_of_the_messages(log):
    assert "no line is about a message" in log(line(START))[0]
