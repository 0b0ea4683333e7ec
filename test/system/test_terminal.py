"""What others have written is shown to a person, and steers neither the terminal nor the log."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import requests
from harness.stack import binary
from harness.wait import wait_until
from test_dead import dead

ESCAPES = "\x1b]0;owned\x07 \x1b[2J\u009b31m\r"
SHOWN = "\\x1b]0;owned\\x07 \\x1b[2J\\xc2\\x9b31m\\x0d"


def assert_plain(text):
    assert not [c for c in text if (ord(c) < 0x20 and c not in "\n\t") or 0x7f <= ord(c) < 0xa0], text


@pytest.mark.parametrize("words", [("list",), ("show", "#1")], ids=lambda words: words[0])
def test_dead_letters(world, words):
    stack = world("operators", "api", "consumerd")
    stack.broker.publish(stack.broker.normal, ESCAPES.encode(), message_id="i" * 100 + ESCAPES,
                         headers={"traceparent": ESCAPES})
    wait_until(lambda: stack.broker.ready(stack.broker.dead) == 1, 20)
    text = dead(stack, *words, everything=True)
    assert_plain(text)
    assert "#1" in text and (words[0] == "list" or SHOWN in text), text
    assert_plain(dead(stack, "replay", "--all", code=1, everything=True))


def test_parked_rows(world):
    stack = world("api")
    stack.db.execute("INSERT INTO outbox_parked(id,aggregate_type,aggregate_id,event_type,payload,priority,attempts,"
                     "last_error,created_at) VALUES (5,'message',%s,'message.send','{}',0,10,%s,NOW(6))",
                     "id\x1b[2J", "said " + ESCAPES)
    for words in (("list",), ("show", "5")):
        done = subprocess.run([binary("outboxd"), "parked", *words], capture_output=True, text=True, timeout=60,
                              env={**os.environ, **stack.values})
        assert done.returncode == 0, done.stderr
        assert_plain(done.stdout + done.stderr)
        assert "id\\x1b[2J" in done.stdout and "said " + SHOWN in done.stdout, done.stdout


def test_an_identifier_that_is_no_text_is_a_line_of_text(world):
    stack = world("operators", "api", "consumerd")
    stack.broker.publish(stack.broker.normal, b"x", message_id=b"\xff\xfe \xd8")
    wait_until(lambda: stack.broker.ready(stack.broker.dead) == 1, 20)
    log = (Path(stack.state) / "log" / "consumerd-1.log").read_bytes().decode()
    entry = next(json.loads(line) for line in log.splitlines() if "delivery.dead_lettered" in line)
    assert entry["message_id"] == "\ufffd\ufffd \ufffd"
    assert "\\xff\\xfe \\xd8" in dead(stack, "list")


def test_queue_names_stay_in_their_label(world):
    name = 'q"} 1\\'
    stack = world("operators", "api", "consumerd")
    stack.restart("consumerd-1", NORMAL_QUEUE=name)
    text = requests.get(stack.url("consumerd-1") + "/metrics", timeout=5).text
    stack.stop("consumerd-1")
    connection = stack.broker.connect()
    connection.channel().queue_delete(name)
    connection.close()
    assert 'worker_events_total{queue="q\\"} 1\\\\",result="success"} 0\n' in text, text
