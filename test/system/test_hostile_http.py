"""Each form of hostile request, over a raw socket, against programs as they are shipped: which answers come, and
that nothing behind a refused request is read. BUILD_DIR chooses the build, one with sanitizers too."""

import os
import random
import re

import pytest

from harness.hostile import FORMS, expected
from harness.raw import CLOSE, Server, read_all, send_in_segments


@pytest.fixture(scope="module", params=["operator-sim", "api"])
def server(request):
    server = Server(request.param, HTTP_READ_TIMEOUT_MS=5000)
    server.knows_messages = request.param == "operator-sim"
    yield server
    assert server.process.poll() is None
    assert server.stop() == 0


def statuses(answer):
    found = [int(code) for code in re.findall(rb"HTTP/1\.[01] (\d+) ", answer)]
    return [code for code in found if code != 100]


@pytest.mark.parametrize("form", FORMS, ids=[name for name, _, _ in FORMS])
def test_a_hostile_request_gets_its_answer_and_nothing_more(server, form):
    name, data, answers = form
    wanted, ends = expected(answers, server.knows_messages)
    rng = random.Random(int(os.environ.get("SEED", 1)))
    for segments in (False, True):
        with server.dial() as s:
            if segments:
                send_in_segments(s, data + CLOSE, rng)
            else:
                s.sendall(data + CLOSE)
            answer = read_all(s)
        assert statuses(answer) == wanted + ([] if ends else [200]), (segments, answer)
        if wanted[-1] in (400, 413, 417, 431) and ends:
            last = re.split(rb"HTTP/1\.[01] \d", answer)[-1]
            assert last.count(b"Connection: close\r\n") == 1, answer


def test_there_are_enough_of_them():
    assert len({data for _, data, _ in FORMS}) > 250
